"""`layerdiff report`: a run directory is rendered again, and two of them are compared."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from layerdiff.cli import main
from layerdiff.config import OutputsConfig
from layerdiff.records import Report
from layerdiff.report import write


@pytest.fixture
def run_dir(drawn: Report, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    write.write_run(drawn, OutputsConfig(dir=str(folder)), manifest={"inputs": {"a.wav": "00"}})
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_file_comes_out_as_it_was(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run_dir)
    for name in before:
        if name != "run.json" and name != "manifest.json":
            (run_dir / name).unlink()
    assert main(["report", str(run_dir)]) == 1
    assert contents(run_dir) == before
    shown = capsys.readouterr().out
    assert "log_softmax_baked" in shown
    assert "files in" in shown


def test_it_can_be_written_elsewhere_and_printed_as_json(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run_dir)
    there = run_dir.parent / "there"
    assert main(["report", str(run_dir), "--dir", str(there), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["status"] == "fail"
    assert contents(run_dir) == contents(there) == before


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--failed"], {"logits", "duration_logits"}),
        (["--top", "1"], {"duration_logits"}),
        (["--all"], {"logits", "duration_logits", "encoder_projection"}),
    ],
)
def test_stages_are_chosen(
    run_dir: Path, capsys: pytest.CaptureFixture[str], options: list[str], names: set[str]
) -> None:
    main(["report", str(run_dir), *options])
    table = capsys.readouterr().out.partition("raw_logits")[0]
    lines = [line for line in table.splitlines() if "[" in line]
    assert {
        name for name in ("logits", "duration_logits", "encoder_projection") for line in lines if name in line.split()
    } == names


def test_a_result_against_itself_is_the_same(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = run_dir.parent / "again"
    shutil.copytree(run_dir, again)
    assert main(["report", str(run_dir), str(again)]) == 0
    shown = capsys.readouterr().out
    assert "0 regressions, 0 improvements, 0 new, 0 missing" in shown
    assert "cpu_traced fails first at logits" in shown


def test_what_became_better_and_worse_is_said(drawn: Report, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, fine = drawn.candidates["cpu_traced"], drawn.candidates["raw_logits"]
    swapped = {"cpu_traced": replace(fine, name="cpu_traced"), "raw_logits": replace(broken, name="raw_logits")}
    other = run_dir.parent / "other"
    write.write_run(replace(drawn, candidates=swapped), OutputsConfig(dir=str(other)))
    assert main(["report", str(run_dir), str(other)]) == 1
    shown = capsys.readouterr().out
    assert "cpu_traced fails first at logits (log_softmax_baked) → cpu_traced passes" in shown
    assert "✗ regression: raw_logits, logits: status pass → fail" in shown
    assert "✓ improvement: cpu_traced, logits: status fail → pass" in shown
    assert "? missing: plain, logits: status pass" in shown
    assert main(["report", str(run_dir), str(other), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["comparisons"]
    lost = [entry for entry in found if entry["subject"] == "decisions" and entry["verdict"] == "missing"]
    assert {entry["measure"] for entry in lost} >= {"token_flips", "candidate_all_negative"}


def test_one_more_changed_decision_is_worse(drawn: Report, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = drawn.candidates["cpu_traced"]
    assert broken.tdt is not None
    worse = replace(broken, tdt=replace(broken.tdt, token_flips=2))
    other = run_dir.parent / "other"
    write.write_run(replace(drawn, candidates={**drawn.candidates, "cpu_traced": worse}), OutputsConfig(dir=str(other)))
    assert main(["report", str(run_dir), str(other), "--quiet"]) == 1
    assert "1 regression, 0 improvements" in capsys.readouterr().out


def test_what_is_no_run_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "is no run directory" in capsys.readouterr().err
