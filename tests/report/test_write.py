"""A run directory is complete, hashed, and never half written."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from layerdiff import config
from layerdiff.diagnose.decisions import DecisionLens
from layerdiff.errors import OutputError
from layerdiff.records import CandidateResult, Coverage, Points, Report
from layerdiff.report import manifest as manifests
from layerdiff.report import write


def test_every_file_is_written_and_hashed(report: Report, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    paths = write.write_run(report, config.OutputsConfig(dir=str(folder)), manifest={"inputs": {"a.wav": "00"}})
    names = ["stages.csv", "report.json", "report.md", "report.html", "junit.xml", "run.json", "manifest.json"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["inputs"] == {"a.wav": "00"}
    for name in names[:-1]:
        assert manifest["files"][name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_only_what_is_asked_for_is_written(report: Report, tmp_path: Path) -> None:
    outputs = config.OutputsConfig(dir=str(tmp_path), csv=False, markdown=False, html=False, junit=False)
    assert [path.name for path in write.write_run(report, outputs)] == ["report.json", "run.json", "manifest.json"]


def test_the_same_report_gives_the_same_bytes(report: Report, tmp_path: Path) -> None:
    first = write.write_run(report, config.OutputsConfig(dir=str(tmp_path / "1")))
    second = write.write_run(report, config.OutputsConfig(dir=str(tmp_path / "2")))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_nothing_is_replaced_if_something_cannot_be_rendered(report: Report, tmp_path: Path) -> None:
    outputs = config.OutputsConfig(dir=str(tmp_path))
    before = {path: path.read_bytes() for path in write.write_run(report, outputs)}
    broken = Report("fail", {}, {}, {}, {"c": None})  # type: ignore[dict-item]
    with pytest.raises(AttributeError):
        write.write_run(broken, outputs)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("place", ["file", "file/below", "\0"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match="cannot be written to") as caught:
        write.check_writable(tmp_path / place)
    assert "--dir" in str(caught.value)
    assert (tmp_path / "file").read_text() == "kept"


def test_the_check_leaves_nothing_in_the_folder(tmp_path: Path) -> None:
    assert list(write.check_writable(tmp_path / "x").iterdir()) == []


@pytest.mark.parametrize("existed", [True, False])
def test_a_refused_run_leaves_the_folder_as_it_was(tmp_path: Path, existed: bool) -> None:
    folder = tmp_path / "run"
    if existed:
        folder.mkdir()
        (folder / "stages.csv").write_text("mine")
    with pytest.raises(ValueError, match="refused"), write.run_directory(folder):
        raise ValueError("refused")
    assert folder.exists() == existed
    assert not existed or (folder / "stages.csv").read_text() == "mine"


def test_the_manifest_holds_configuration_inputs_and_packages(report: Report, tmp_path: Path) -> None:
    package = tmp_path / "m.mlpackage"
    (package / "Data").mkdir(parents=True)
    (package / "Data" / "weight.bin").write_bytes(b"1")
    first = manifests.hashed(package)["sha256"]
    (package / "Data" / "weight.bin").write_bytes(b"2")
    assert manifests.hashed(package)["sha256"] != first
    (tmp_path / "c.yaml").write_text(
        "reference: {nemo: m}\ncandidates: {a: {convert: {}}}\ninputs: {audio: x}\nthresholds: {rmse: 1}\n"
    )
    loaded = config.load(tmp_path / "c.yaml")
    made = manifests.manifest(report, loaded, inputs={"a.wav": "00"}, seeds={"dither": (0, 1)})
    assert made["seeds"] == {"dither": (0, 1)}
    assert made["config"]["sha256"] == hashlib.sha256((tmp_path / "c.yaml").read_bytes()).hexdigest()
    assert made["config"]["resolved"]["thresholds"] == {"rmse": 1.0}
    assert made["inputs"] == {"a.wav": "00"}
    assert made["packages"]["cpu_traced"] == {"joint": {"path": "outputs/joint/RNNTJoint.mlpackage"}}
    assert (
        manifests.packages({"packages": {"joint": str(package)}})["joint"]["sha256"]
        == manifests.hashed(package)["sha256"]
    )


def test_the_decisions_at_every_point_have_a_file_of_their_own(execute_report: Report, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write.write_run(execute_report, config.OutputsConfig(dir=str(folder)))
    rows = list(csv.DictReader(io.StringIO((folder / "decisions.csv").read_text(encoding="utf-8"))))
    tables = execute_report.candidates["it"].tdt.decisions  # type: ignore[union-attr]
    assert len(rows) == sum(len(table["frame"]) for table in tables) == 3
    assert rows[1] == {
        "candidate": "it",
        "clip": "a.wav",
        "frame": "2",
        "time_s": "0.16",
        "step": "1",
        "reference_token": "1",
        "candidate_token": "0",
        "reference_token_margin": "2.0",
        "reference_duration": "4",
        "candidate_duration": "0",
        "candidate_all_negative": "false",
    }
    assert "decisions" not in json.loads((folder / "report.json").read_text())["candidates"]["it"]["tdt"]
    assert "decisions.csv" in json.loads((folder / "manifest.json").read_text())["files"]
    write.write_run(execute_report, config.OutputsConfig(dir=str(tmp_path / "other"), csv=False))
    assert not (tmp_path / "other" / "decisions.csv").exists()


@pytest.fixture
def execute_report() -> Report:
    """A candidate with the decisions of three points, of which the second one is another."""
    reference = np.zeros((3, 1, 1, 5), np.float32)
    reference[:, ..., 1], reference[..., 4] = 2.0, 1.0
    candidate = reference.copy()
    candidate[1, ..., 0], candidate[1, ..., 3] = 9.0, 5.0
    lens = DecisionLens((0, 4), 2)
    points = Points(np.array([0, 2, 6]), np.arange(3), np.zeros(3, np.int64), 0.08)
    lens.update(
        reference=reference, candidate=candidate, candidate_durations=candidate[..., -2:], points=points, clip="a.wav"
    )
    tdt = lens.result("durations", parent="logits")
    result = CandidateResult("it", "pass", None, Coverage(0, 0, 0, ()), (), tdt=tdt)
    return Report("pass", {}, {}, {}, {"it": result})
