"""Configurations that are made of a reference and packages: they run, and show what a hand-written one shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from layerdiff import config
from layerdiff.cli import main
from layerdiff.convert import build
from layerdiff.errors import ConfigError
from layerdiff.installed import package_path
from layerdiff.progress import SILENT
from layerdiff.proposal import SPEECH, Given, Proposal, component_of, is_model, propose, reference_kind
from layerdiff.proposal.rendering import render
from layerdiff.proposal.stages import with_stages
from tests.mil.conftest import build as package_of

__all__ = ["package_of"]

MINI = "parakeet-tdt-mini"


@pytest.fixture(scope="module")
def packages(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Component → its package; of the joint the one with the baked log-softmax."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        entry = config.ConvertConfig(recipe="cpu_traced", precision="float32")
        parts = ("preprocessor", "encoder", "decoder", "joint")
        return {part: str(build(reference, part, entry)) for part in parts}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (MINI, "nemo"),
        ("models/own.nemo", "nemo"),
        ("nvidia/parakeet-tdt-0.6b-v3", "nemo"),
        ("a.onnx", "onnx"),
        ("a.trace", "trace"),
        ("A.mlpackage", "coreml"),
        ("a.mlmodelc", "coreml"),
        ("package.module:factory", "torch"),
        ("exported.pt2", "torch"),
    ],
)
def test_what_a_text_names(text: str, kind: str) -> None:
    assert reference_kind(text) == kind
    assert is_model(text) == (kind != "torch")
    assert not is_model("configs/joint.yaml")


def test_the_component_is_told_by_the_weights(packages: dict[str, str]) -> None:
    for part, package in packages.items():
        assert component_of(package, MINI) == part


def test_a_package_of_another_model_is_refused(package_of: Any) -> None:
    from coremltools.converters.mil import Builder as mb

    package = package_of(lambda x: mb.relu(x=x), x=np.ones((2, 3), np.float32))
    with pytest.raises(ConfigError, match="can't be told which component") as caught:
        component_of(str(package), MINI)
    assert "--component preprocessor | encoder | decoder | joint" in str(caught.value)


def test_packages_of_several_components_are_one_candidate(packages: dict[str, str]) -> None:
    values = propose(Given(MINI, tuple(packages.values()))).values
    assert values["reference"] == {"nemo": MINI, "component": "whole"}
    assert values["candidates"] == {"packages": {"coreml": packages}}
    assert values["inputs"] == {"audio": SPEECH}


def test_packages_of_one_component_are_candidates_of_their_own(packages: dict[str, str]) -> None:
    values = propose(Given(MINI, (packages["joint"], packages["joint"]), component="joint", audio=("a.wav",))).values
    assert list(values["candidates"]) == [packages["joint"]]
    assert values["inputs"] == {"audio": "a.wav"}
    with pytest.raises(ConfigError, match="of one of them there are several"):
        propose(Given(MINI, (packages["joint"], packages["encoder"], packages["encoder"])))


def test_without_packages_the_model_is_converted() -> None:
    values = propose(Given(MINI)).values
    assert list(values["candidates"]) == ["cpu_traced", "raw_logits"]
    assert list(propose(Given(MINI, component="encoder")).values["candidates"]) == ["float32", "float16"]
    assert package_path(SPEECH).is_file()
    config.from_mapping(values)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Given("pkg.mod:factory", ("A.mlpackage",)), "nothing says what 'pkg.mod:factory' is fed"),
        (Given("a.onnx"), "is compared with nothing"),
    ],
)
def test_what_is_missing_is_said(given: Given, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        propose(given)


def test_other_references_take_tensors_or_an_adapter() -> None:
    assert propose(Given("a.onnx", ("B.mlpackage",), tensors="x.safetensors")).values == {
        "reference": {"onnx": "a.onnx"},
        "candidates": {"B": {"coreml": "B.mlpackage"}},
        "inputs": {"tensors": "x.safetensors"},
        "outputs": {"dir": "outputs/B"},
    }
    assert propose(Given("a.onnx", ("B.mlpackage",), adapter="m:f")).values["inputs"] == {
        "adapter": "m:f",
        "audio": SPEECH,
    }


def test_stages_are_proposed_with_what_the_package_returns(packages: dict[str, str]) -> None:
    found = with_stages(propose(Given(MINI, (packages["joint"],))), progress=SILENT)
    stages = {entry.name: entry.values for entry in found.stages}
    assert stages["enc_proj"] == {"reference": "joint.enc", "candidate": "enc_proj"}
    assert stages["logits"]["candidate"] == "logits"  # not only the tensor before the baked log-softmax
    assert stages["duration_logits"] == {"of": "logits", "slice": "..., -5:", "expect": {"some_positive": True}}
    encoder = with_stages(propose(Given(MINI, (packages["encoder"],))), progress=SILENT)
    assert {"reference": "encoder", "candidate": "encoder"} in [entry.values for entry in encoder.stages]
    assert encoder.further > 0


def test_the_written_file_is_commented_and_says_what_was_proposed(packages: dict[str, str]) -> None:
    proposal = with_stages(propose(Given(MINI, (packages["joint"],))), progress=SILENT)
    text = render(proposal, "Joint.yaml")
    values = yaml.safe_load(text)
    assert values["stages"] == {entry.name: entry.values for entry in proposal.stages}
    assert {key: values[key] for key in proposal.values} == proposal.values
    assert "sure" in text
    assert "# Pairs of tensors that alignment found" in text
    config.from_mapping(values)


@pytest.mark.parametrize("name", ["a: b", "# no comment", "{x}", "'", '"', "\n", "ü – ✗", "yes", "1e3"])
def test_any_name_survives_the_file(name: str) -> None:
    values = {
        "reference": {"onnx": name},
        "candidates": {name: {"coreml": name}},
        "inputs": {"tensors": name},
        "outputs": {"dir": name},
    }
    assert yaml.safe_load(render(Proposal(values), "x.yaml")) == values


# ------------------------------------------------------------------ the commands


def test_init_and_run_find_the_fault(
    packages: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", MINI, packages["joint"], "--out", "own.yaml"]) == 0
    assert "next: layerdiff run own.yaml" in capsys.readouterr().out
    assert main(["run", "own.yaml", "--quiet"]) == 1
    assert "log_softmax_baked" in capsys.readouterr().out
    assert main(["init", MINI, packages["joint"], "--out", "own.yaml"]) == 2
    assert "'own.yaml' exists" in capsys.readouterr().err


def test_run_without_a_configuration(
    packages: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    clip = str(Path(__file__).parents[2] / "audio" / "eight_one_seven.wav")
    assert main(["run", MINI, packages["joint"], "--audio", clip, "--quiet", "--dir", "here"]) == 1
    assert "log_softmax_baked" in capsys.readouterr().out
    assert (tmp_path / "here" / "report.html").is_file()


def test_init_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", MINI, "--out", "-"]) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["candidates"]["cpu_traced"]["convert"]["recipe"] == "cpu_traced"
    assert "layerdiff run CONFIG" in shown
