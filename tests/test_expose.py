"""Which tensors a configuration names for a package, and the command that exposes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff import cli, config, mil
from layerdiff.errors import ConfigError
from layerdiff.expose import components_of, stage_tensors
from tests.mil.conftest import build as build

STAGES = {
    "enc": {"reference": "joint.enc", "candidate": "inner"},
    "mel": {"reference": "preprocessor.mel", "candidate": "mel_inner"},
    "out": {"reference": "joint.joint_net.2", "candidate": "result"},
    "tail": {"of": "out", "slice": "..., -5:"},
}


def configuration(candidates: dict[str, Any], component: str = "whole", stages: Any = STAGES) -> config.Config:
    values = {
        "reference": {"nemo": "parakeet-tdt-mini", "component": component},
        "candidates": candidates,
        "inputs": {"audio": "x.wav"},
    }
    return config.from_mapping(values | ({"stages": stages} if stages else {}))


def test_the_stages_of_the_component_that_a_candidate_says() -> None:
    found = configuration({"a": {"coreml": {"joint": "J.mlpackage", "preprocessor": "P.mlpackage"}}})
    assert stage_tensors(found, "./J.mlpackage", ()) == ("inner", "result")
    assert stage_tensors(found, Path("P.mlpackage").resolve(), ()) == ("mel_inner",)
    assert components_of(found, "other.mlpackage") == ()


def test_every_stage_where_one_component_is_compared() -> None:
    stages = {name: STAGES[name] for name in ("enc", "out", "tail")}
    found = configuration({"a": {"coreml": "J.mlpackage"}}, component="joint", stages=stages)
    assert stage_tensors(found, "J.mlpackage", ()) == ("inner", "result")


def test_of_a_package_that_no_candidate_names_what_exists() -> None:
    found = configuration({"a": {"coreml": {"joint": "J.mlpackage"}}})
    assert stage_tensors(found, "other.mlpackage", {"result", "mel_inner", "more"}) == ("mel_inner", "result")
    with pytest.raises(ConfigError, match=r"names a tensor of 'other\.mlpackage'") as caught:
        stage_tensors(found, "other.mlpackage", {"more"})
    assert "inner, mel_inner, result" in str(caught.value)


def test_a_configuration_without_stages_names_nothing() -> None:
    with pytest.raises(ConfigError, match="has no stages"):
        stage_tensors(configuration({"a": {"convert": {}}}, stages=None), "J.mlpackage", {"inner"})


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def package(build: Any) -> Path:
    from coremltools.converters.mil import Builder as mb

    def program(x: Any) -> Any:
        inner = mb.mul(x=x, y=2.0, name="inner")
        return mb.select(
            cond=mb.greater(x=inner, y=0.5, name="large"), a=mb.exp(x=inner, name="grown"), b=x, name="result"
        )

    path: Path = build(program, x=np.ones(3, np.float32))
    return path


def test_tensors_by_name_with_spaces_or_commas(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mlpackage"
    for names in (["inner", "large"], ["inner,large"], ["inner", "--tensors", "large"]):
        assert cli.main(["expose", str(package), "-o", str(out), "--tensors", *names]) == 0
        assert list(mil.load(out).outputs) == ["result", "inner", "large_as_int32"]
        assert capsys.readouterr().out == f"{out}: 2 more outputs\n  inner\n  large as large_as_int32, int32\n"


def test_all_tensors_in_several_packages(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["expose", str(package), "--all", "--chunk", "2", "--quiet", "-o", str(tmp_path / "out")]) == 0
    stem = package.stem
    assert capsys.readouterr().out == "".join(
        f"{tmp_path / 'out' / f'{stem}.part0{number}.mlpackage'}: {count} more outputs\n"
        for number, count in ((1, 2), (2, 1))
    )


def test_the_tensors_of_a_configuration(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "joint.yaml"
    path.write_text(
        f"reference: {{nemo: parakeet-tdt-mini}}\ncandidates: {{a: {{coreml: {package}}}}}\n"
        "inputs: {audio: x.wav}\n"
        "stages: {enc: {reference: joint.enc, candidate: inner}, out: {reference: joint.out, candidate: result}}\n"
    )
    assert cli.main(["expose", str(package), "--stages", str(path), "-o", str(tmp_path / "out.mlpackage")]) == 0
    assert "outputs already: result" in capsys.readouterr().out
    assert list(mil.load(tmp_path / "out.mlpackage").outputs) == ["result", "inner"]
    path.write_text(path.read_text().replace("candidate: inner", "candidate: iner"))
    assert cli.main(["expose", str(package), "--stages", str(path), "-o", str(tmp_path / "no.mlpackage")]) == 2
    assert "did you mean 'inner'" in capsys.readouterr().err
    assert not (tmp_path / "no.mlpackage").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["--all", "--tensors", "inner"], ["inner", "--all"], ["--all", "--chunk", "0"]]
)
def test_a_request_that_is_not_one_is_refused(
    package: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["expose", str(package), *arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not list(package.parent.glob("*-exposed*"))
