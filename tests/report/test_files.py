"""CSV, JSON, Markdown and the frame say the same, cell by cell, and nothing in them is obeyed by their reader."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerdiff.records import METRICS, CandidateResult, Coverage, Missing, Report, StageResult
from layerdiff.report import complete, junit, page
from layerdiff.report import csv as csv_file
from layerdiff.report import json as json_file
from layerdiff.report import markdown as markdown_file
from layerdiff.report.rows import COLUMNS, SHOWN, stage_frame, stage_rows

SPLITS = ("own_error", "inherited_error", "conversion_error", "precision_error", "runtime_error")


def parsed_csv(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_file.render(report))))


def number(cell: str) -> float | None:
    return float(cell) if cell else None


def one_stage(stage: StageResult, *, name: str = "c") -> Report:
    result = CandidateResult(name, stage.status, None, Coverage(1, 1, 1), (stage,))
    return Report(stage.status, {}, {}, {}, {name: result})


def test_csv_and_json_hold_the_same_values(report: Report) -> None:
    document = json.loads(json_file.render(report))
    entries = [(n, s, c) for n, c in document["candidates"].items() for s in c["stages"]]
    rows = parsed_csv(report)
    assert len(rows) == len(entries) == 9
    for row, (name, stage, candidate) in zip(rows, entries, strict=True):
        assert (row["candidate"], row["stage"]) == (name, stage["name"])
        assert (row["status"], row["reason"], row["component"]) == (
            stage["status"],
            stage["reason"],
            stage["component"],
        )
        assert row["first_divergence"] == str(candidate["first_divergence"] == stage["name"]).lower()
        for metric in METRICS:
            assert number(row[metric]) == stage["metrics"][metric], metric
        for split in SPLITS:
            assert number(row[split]) == stage[split], split
        for side in ("reference", "candidate"):
            summary = stage[side] or {"tensor": "", "dtype": "", "min": None, "max": None, "mean": None}
            assert (row[f"{side}_tensor"], row[f"{side}_dtype"]) == (summary["tensor"], summary["dtype"])
            for key in ("min", "max", "mean"):
                assert number(row[f"{side}_{key}"]) == summary[key]


def test_the_frame_is_the_csv(report: Report) -> None:
    read = pd.read_csv(io.StringIO(csv_file.render(report)), keep_default_na=True)
    frame = report.to_frame()
    assert list(frame.columns) == list(read.columns) == [column.name for column in COLUMNS]
    for name in frame.columns:
        mine, other = frame[name], read[name]
        if pd.api.types.is_numeric_dtype(other) and other.notna().any():
            np.testing.assert_array_equal(mine.astype(float).to_numpy(), other.astype(float).to_numpy())
        elif other.notna().any():
            assert mine.fillna("").astype(str).tolist() == other.fillna("").astype(str).tolist()
    assert stage_frame(report).equals(frame)


def test_markdown_has_the_cells_that_the_rows_show(report: Report) -> None:
    lines = [line for line in markdown_file.render(report).splitlines() if line.startswith(("| `", "| **`"))]
    rows = stage_rows(report)
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        texts = [cell.strip(" *`") for cell in line.strip("|").split("|")]
        assert texts == [shown.cell(row) for shown in SHOWN]


def test_json_follows_the_schema(report: Report) -> None:
    document = json.loads(json_file.render(report))
    assert (document["schema"], document["status"], document["exit_code"]) == (1, "fail", 1)
    assert {"environment", "reference", "candidates", "inputs"} <= set(document)
    broken = document["candidates"]["cpu_traced"]
    assert {"status", "first_divergence", "coverage", "stages", "findings", "tdt"} <= set(broken)
    assert set(broken["coverage"]) == {"asked", "captured", "compared", "missing"}
    stage = broken["stages"][1]
    assert {
        "name",
        "status",
        "reason",
        "reference",
        "candidate",
        "metrics",
        "layout",
        "alignment_method",
        *SPLITS,
    } <= set(stage)
    assert set(stage["reference"]) == {"tensor", "dtype", "shape", "min", "max", "mean"}
    assert stage["reference"]["shape"] == [None, 1, 1, 102]
    assert list(stage["metrics"]) == list(METRICS)
    finding = broken["findings"][0]
    assert {"cause", "stage", "confidence", "evidence", "advice"} <= set(finding)
    assert broken["tdt"]["first_all_negative"]["candidate"][1] == -11.275
    lost = document["candidates"]["plain"]
    assert (lost["status"], lost["tdt"], lost["stages"][2]["candidate"]) == ("unknown", None, None)
    assert lost["coverage"]["missing"] == [
        {"stage": "duration_logits", "reason": "the candidate did not produce 'dur_logits'"}
    ]


def test_a_missing_stage_without_a_result_still_has_a_row(report: Report) -> None:
    lost = report.candidates["plain"]
    shorter = replace(lost, stages=lost.stages[:2])
    partial = replace(report, candidates={"plain": shorter})
    assert [row["status"] for row in parsed_csv(partial)] == ["pass", "pass", "unknown"]
    assert parsed_csv(partial)[2]["reason"] == shorter.coverage.missing[0].reason
    assert len(json.loads(json_file.render(partial))["candidates"]["plain"]["stages"]) == 3


def test_values_that_json_lacks_become_null_and_stay_readable_in_csv() -> None:
    metrics = {"snr_db": math.inf, "rmse": math.nan, "max_abs_error": np.float32(0.5), "nan_count": np.int64(3)}
    stage = StageResult("s", "joint", "pass", "", metrics=metrics, worst={"clip": "a", "row": np.int64(4)})
    written = json.loads(json_file.render(one_stage(stage)), parse_constant=pytest.fail)
    values = written["candidates"]["c"]["stages"][0]["metrics"]
    assert [values[name] for name in metrics] == [None, None, 0.5, 3]
    row = parsed_csv(one_stage(stage))[0]
    assert [row[name] for name in (*metrics, "worst_row")] == ["inf", "nan", "0.5", "3", "4"]


@given(st.text(), st.text())
def test_no_text_of_a_model_acts_in_any_file(name: str, reason: str) -> None:
    missing = (Missing(name, reason),)
    stage = StageResult(name, "joint", "fail", reason, worst={"clip": name, "row": 0})
    result = CandidateResult(name, "fail", name, Coverage(1, 0, 0, missing), (stage,), description={name: reason})
    report = Report("fail", {name: reason}, {name: reason}, {}, {name: result})
    (row,) = parsed_csv(report)
    assert len(row) == len(COLUMNS)
    for cell in row.values():
        assert cell.isprintable()
        assert not cell.startswith(("=", "+", "-", "@")) or _is_number(cell)
    assert json.loads(json_file.render(report))["status"] == "fail"
    (line,) = [line for line in markdown_file.render(report).splitlines() if line.startswith("| **`")]
    assert line.replace("\\\\", "").replace("\\|", "").count("|") == len(SHOWN) + 1
    tags, plain = Tags(), Tags()
    tags.feed(page.fragment(report))
    plain.feed(page.fragment(one_stage(StageResult("s", "joint", "fail", "r", worst={"clip": "c", "row": 0}))))
    assert set(tags.seen) - {"details", "summary"} <= set(plain.seen) | {"td", "tr", "th", "tbody"}
    suite = ElementTree.fromstring(junit.render(report)).find("testsuite")
    assert suite is not None
    assert len(suite) == 1


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.lines: list[tuple[str, list[str]]] = []
        """The class of a table, and the cells of each of its lines."""
        self._table = ""
        self._is_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag == "table":
            self._table = dict(attrs).get("class") or ""
        if tag == "tr":
            self.lines.append((self._table, []))
        if tag in ("td", "th"):
            self.lines[-1][1].append("")
            self._is_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._is_cell = self._is_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.lines[-1][1][-1] += data


def test_a_file_name_that_is_not_utf_8_can_be_a_key() -> None:
    """The manifest is keyed by paths, and Linux lets a path be any bytes."""
    assert json_file.dump({"a\udcff.wav": 1}).encode("utf-8") == b'{\n  "a\\\\udcff.wav": 1\n}\n'


@pytest.mark.parametrize("text", ["=1+1", "+1 (", "-x", "@SUM(A1)", "|cmd", "%x"])
def test_a_formula_is_shown_and_not_computed(text: str) -> None:
    row = parsed_csv(one_stage(StageResult(text, "joint", "pass", "")))[0]
    assert row["stage"] == "'" + text


def test_markdown_shows_names_as_they_are() -> None:
    text = markdown_file.render(one_stage(StageResult("a|b`c", "joint", "fail", "see <b>*x*</b> and a_b _c_")))
    assert "| `a\\|b'c` |" in text
    assert "see \\<b\\>\\*x\\*\\</b\\> and a_b \\_c\\_" in text
    assert markdown_file.prose("set `joint.a_b=*` now | here") == "set `joint.a_b=*` now \\| here"


def test_the_page_has_the_cells_that_the_rows_show(report: Report) -> None:
    tags = Tags()
    tags.feed(page.render(report))
    lines = [cells for classes, cells in tags.lines if "stages" in classes]
    heads = [[shown.header for shown in SHOWN]] * len(report.candidates)
    cells = [[shown.cell(row) for shown in SHOWN] for row in stage_rows(report)]
    found = [[cell.removeprefix("▶ ") for cell in line] for line in lines]
    assert sorted(found) == sorted([*heads, *cells])


def test_junit_has_the_cells_that_the_rows_show(report: Report) -> None:
    rows = stage_rows(report)
    cases = list(ElementTree.fromstring(junit.render(report)).iter("testcase"))
    assert [(case.get("name"), case.get("classname")) for case in cases] == [
        (row["label"], f"layerdiff.{row['candidate']}") for row in rows
    ]
    for case, row in zip(cases, rows, strict=True):
        out = case.findtext("system-out") or ""
        assert out.splitlines() == [f"{shown.header}: {shown.cell(row)}" for shown in SHOWN]
        kinds = {"pass": set(), "fail": {"failure"}}.get(row["status"], {"skipped"})
        assert {child.tag for child in case} == {"system-out", *kinds}
        for child in case:
            if child.tag != "system-out":
                assert row["reason"] in (child.get("message") or "")


def test_the_same_report_gives_the_same_bytes(report: Report) -> None:
    for module in (csv_file, json_file, markdown_file, page, junit, complete):
        render: Any = module.render
        assert render(report) == render(report)
