"""A result that is read again gives every file of its run directory byte by byte."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from layerdiff.errors import ConfigError
from layerdiff.records import Report, StageResult
from layerdiff.report import complete, csv, junit, markdown, page
from layerdiff.report import json as json_file


def again(report: Report, folder: Path) -> Report:
    (folder / complete.NAME).write_text(complete.render(report), encoding="utf-8")
    return complete.load(folder)


def test_every_file_is_the_same(drawn: Report, tmp_path: Path) -> None:
    read = again(drawn, tmp_path)
    for module in (csv, json_file, junit, markdown, page, complete):
        assert module.render(read) == module.render(drawn), module.__name__
    assert csv.render_decisions(read) == csv.render_decisions(drawn) != ""


def test_numbers_that_are_not_finite_come_back(report: Report, tmp_path: Path) -> None:
    name, result = next(iter(report.candidates.items()))
    stage = replace(result.stages[0], metrics={"snr_db": math.inf, "rmse": math.nan, "psnr_db": None})
    report = replace(report, candidates={name: replace(result, stages=(stage,))})
    metrics = again(report, tmp_path).candidates[name].stages[0].metrics
    assert metrics["snr_db"] == math.inf
    assert math.isnan(metrics["rmse"] or 0.0)
    assert metrics["psnr_db"] is None


def test_texts_that_are_no_utf_8_are_written(report: Report, tmp_path: Path) -> None:
    name, result = next(iter(report.candidates.items()))
    odd = replace(result, stages=(StageResult("a\udcff", "joint", "pass", ""),), description={"n": np.int64(3)})
    read = again(replace(report, candidates={name: odd}), tmp_path).candidates[name]
    assert (read.stages[0].name, read.description) == ("a\\udcff", {"n": 3})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no run directory"),
        ("{", "not what this version"),
        ("[]", "not what this version"),
        (json.dumps({"schema": 0}), "not what this version"),
        (json.dumps({"schema": 1, "report": {"status": "odd"}}), "not what this version"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / complete.NAME).write_text(content)
    with pytest.raises(ConfigError, match=said) as caught:
        complete.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
