"""Bundles of real faults: the smallest part that shows them, a script that needs only coremltools and numpy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from layerdiff import config, mil, run
from layerdiff.cli import main
from layerdiff.errors import ConfigError, OutputError
from layerdiff.progress import SILENT
from layerdiff.records import Report
from layerdiff.report import write
from layerdiff.repro import chosen, require_free
from tests.mil.conftest import build as package_of
from tests.report.conftest import drawn

__all__ = ["drawn", "package_of"]

ROOT = Path(__file__).parents[1]
CLIPS = [str(ROOT / "audio" / f"{name}.wav") for name in ("call_peter_on_three_two", "leading_silence")]

ALONE = """
import sys
ALLOWED = {"coremltools", "numpy", "google", "attr", "attrs", "cattrs", "tqdm", "packaging", "sympy", "mpmath", "yaml"}
class Only:
    def find_spec(self, name, path=None, target=None):
        known = ALLOWED | set(sys.stdlib_module_names) | {"cattr", "pyaml", "typing_extensions", "_distutils_hack"}
        if name.partition(".")[0] not in known:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Only())
import runpy
runpy.run_path(sys.argv[1], run_name="__main__")
"""
"""Runs a script where nothing can be imported but coremltools, numpy and what coremltools depends on."""


@pytest.fixture(scope="module")
def results(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run directory of a shipped configuration, on two clips."""
    folder, done = tmp_path_factory.mktemp("results"), dict[str, Path]()

    def result(name: str) -> Path:
        if name not in done:
            values = config.load(ROOT / "configs" / f"{name}.yaml").model_dump(exclude_none=True)
            values |= {"inputs": {"audio": CLIPS}, "outputs": {"dir": str(folder / name)}}
            asked = config.from_mapping(values)
            report = run.execute(asked, progress=SILENT, reference=reference)
            write.write_run(report, asked.outputs)
            done[name] = folder / name
        return done[name]

    return result


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


def test_the_fault_of_the_demo(results: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = results("joint")
    assert main(["repro", str(folder), "logits"]) == 0
    shown = capsys.readouterr().out
    assert "3 ops: linear, softmax, log" in shown
    bundle = folder / "repro-logits"
    names = {"ISSUE.md", "expected.npz", "inputs.npz", "model.mlpackage", "recorded.npz", "repro.py"}
    assert {path.name for path in bundle.iterdir()} == names
    model = mil.load(bundle / "model.mlpackage")
    inputs, expected = arrays(bundle / "inputs.npz"), arrays(bundle / "expected.npz")
    assert list(inputs) == list(model.inputs) == ["relu_hidden"]
    got = model.predict(inputs)["logits"]
    np.testing.assert_array_equal(got, arrays(bundle / "recorded.npz")["logits"])
    # a baked log-softmax: what comes out is what should, less its logsumexp
    lse = np.log(np.exp(expected["logits"].astype(float)).sum(-1, keepdims=True))
    np.testing.assert_allclose(got, expected["logits"] - lse, atol=1e-3)
    issue = (bundle / "ISSUE.md").read_text(encoding="utf-8")
    assert "log_softmax_baked" in issue
    assert "pip install coremltools==" in issue
    assert "has not run on Apple hardware" in issue
    script = (bundle / "repro.py").read_text(encoding="utf-8")
    statements = [line for line in script.partition('"""\nimport')[2].splitlines() if line.strip()]
    assert len(statements) <= 20
    assert str(Path.home()) not in script + issue


def test_the_script_needs_only_coremltools_and_numpy(results: Any, tmp_path: Path) -> None:
    folder = results("joint")
    target = tmp_path / "bundle"
    assert main(["repro", str(folder), "duration_logits", "--dir", str(target), "--quiet"]) == 0
    command = [sys.executable, "-c", ALONE, str(target / "repro.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "relative L2 error:" in done.stdout
    refused = [sys.executable, "-c", ALONE.replace("runpy.run_path", "import torch; runpy.run_path"), "x"]
    blocked = subprocess.run(refused, capture_output=True, text=True, check=False)
    assert "No module named 'torch'" in blocked.stderr


def test_what_is_inherited_is_taken_in(results: Any, tmp_path: Path) -> None:
    """Fed the reference's logits, the durations are right; so the part begins before the logits."""
    target = tmp_path / "bundle"
    assert main(["repro", str(results("joint")), "duration_logits", "--dir", str(target)]) == 0
    assert list(mil.load(target / "model.mlpackage").inputs) == ["relu_hidden"]
    assert list(mil.load(target / "model.mlpackage").outputs) == ["duration_logits"]


def test_float16_of_a_whole_preprocessor(results: Any, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    assert main(["repro", str(results("preprocessor")), "mel", "--candidate", "float16", "--dir", str(target)]) == 0
    assert set(mil.load(target / "model.mlpackage").inputs) >= {"audio_signal", "audio_length"}


class Roots(torch.nn.Module):
    """Square roots of what is not negative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sqrt(torch.relu(x) + 1.0)


def roots() -> Roots:
    return Roots().eval()


def test_nan_is_a_difference(package_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coremltools.converters.mil import Builder as mb

    feed = {"x": np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)}
    package = package_of(lambda x: mb.sqrt(x=x, name="out"), x=feed["x"])
    save_file(feed, tmp_path / "x.safetensors")
    values = {
        "reference": {"torch": "tests.test_repro:roots"},
        "candidates": {"wrong": {"coreml": str(package)}},
        "inputs": {"tensors": str(tmp_path / "x.safetensors")},
        "stages": {"roots": {"reference": "/sqrt", "candidate": "out"}},
        "outputs": {"dir": str(tmp_path / "result")},
    }
    monkeypatch.chdir(ROOT)
    asked = config.from_mapping(values)
    write.write_run(run.execute(asked, progress=SILENT), asked.outputs)
    assert main(["repro", str(tmp_path / "result"), "roots"]) == 0
    bundle = tmp_path / "result" / "repro-roots"
    assert np.isnan(arrays(bundle / "recorded.npz")["out"]).any()
    assert "nan" in (bundle / "ISSUE.md").read_text(encoding="utf-8")


def test_a_stage_without_an_error_has_nothing_to_show(results: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repro", str(results("joint")), "joint_hidden"]) == 2
    assert "there is nothing to show" in capsys.readouterr().err
    assert not (results("joint") / "repro-joint_hidden").exists()


def test_stages_are_chosen_by_name_and_candidate(drawn: Report) -> None:
    assert chosen(drawn, "logits", None)[0] == "cpu_traced"
    assert chosen(drawn, "logits", "raw_logits")[1]["status"] == "pass"
    with pytest.raises(ConfigError, match="no stage 'logit'") as caught:
        chosen(drawn, "logit", None)
    assert "did you mean 'logits'" in str(caught.value)
    with pytest.raises(ConfigError, match="no candidate 'other'"):
        chosen(drawn, "logits", "other")


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("kept")
    with pytest.raises(OutputError, match="is no bundle"):
        require_free(tmp_path)
    require_free(tmp_path / "new")


def test_a_result_of_another_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema": 99}))
    assert main(["repro", str(tmp_path), "logits"]) == 2
    assert "not what this version" in capsys.readouterr().err
