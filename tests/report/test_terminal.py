"""The terminal's view holds every number whole at every width, in every encoding, and obeys no text."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from layerdiff.records import CandidateResult, Coverage, Report, StageResult, TensorSummary
from layerdiff.report import cells, terminal
from layerdiff.report.rows import SHOWN, stage_rows
from layerdiff.report.tables import flow, folded, stage_table

WIDTHS = (40, 60, 80, 100, 120, 140, 200)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(report: Report, width: int | None = None, stream: Any = None, **options: Any) -> str:
    stream = stream or io.StringIO()
    terminal.render(report, terminal.console_for(stream, width=width, **options))
    return str(stream.getvalue())


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_too_long_and_every_number_is_whole(report: Report, width: int) -> None:
    text = shown(report, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    words = set(re.split(r"[\s:·;,()]+", text))
    for row in stage_rows(report):
        for column in SHOWN[2:]:
            cell = column.cell(row)
            assert cell in text
            assert cell.startswith("[") or cell in words, (column.header, cell)
    point = report.candidates["cpu_traced"].tdt.first_all_negative  # type: ignore[union-attr]
    assert point is not None
    assert {cells.number(value) for value in (*point.reference, *point.candidate)} <= words


@pytest.mark.parametrize("width", WIDTHS)
def test_extreme_numbers_and_long_names_fit_too(width: int) -> None:
    side = TensorSummary("t", "float32", (1,), -1.2341e-30, -9.8769e-31, 0.0)
    name = "encoder_layers_17_feed_forward2_linear2_output_projection"
    metrics = {
        "cosine_similarity": -0.123456,
        "max_abs_error": 1.2345e-30,
        "relative_l2_error": 6.5e30,
        "snr_db": -612.3,
    }
    stage = StageResult(
        name, "encoder", "fail", "it " + "is far off " * 30, side, side, metrics, 1e-30, 2e-30, 3e-30, 4e-30
    )
    result = CandidateResult("c", "fail", name, Coverage(1, 1, 1), (stage,))
    text = shown(Report("fail", {}, {}, {}, {"c": result}), width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    for number in ("[-1.234e-30, -9.877e-31]", "-0.123456", "6.5e30", "-612.3", "1e-30", "2e-30", "3e-30", "4e-30"):
        assert number in text
    assert name in re.sub(r"\s", "", text) or all(part in text for part in name.split("_"))


def test_wide_terminals_get_one_line_per_stage_and_narrow_ones_two(report: Report) -> None:
    def lines(width: int, name: str) -> list[str]:
        table, _, _ = shown(report, width).partition("raw_logits")
        return [line for line in table.splitlines() if name in line and "[" in line]

    (wide,) = lines(160, "encoder_projection")
    assert "[-7.214, 6.901]" in wide
    assert "[-7.215, 6.902]" in wide
    (narrow,) = lines(80, "encoder_projection")
    assert "[-7.215, 6.902]" not in narrow


def test_the_first_divergence_is_marked_and_explained(report: Report) -> None:
    text = shown(report, 160)
    assert [line.split()[1] for line in text.splitlines() if line.startswith("▶")] == ["logits"]
    assert "✗ first divergence: logits: conversion error 0.4123 is above 1.2e-6" in text
    assert "worst in long.wav at frame 61 (4.88 s), step 23" in text


def test_header_coverage_durations_cause_and_verdict_are_there(report: Report) -> None:
    text = shown(report, 160)
    for part in (
        "torch 2.13.0",
        "joint_log_softmax none",
        "2 clips · 12.71 s · 412 points (path)",
        "long.wav: resampled from 44100 Hz",
        "coverage   3 asked · 3 captured · 3 compared · 0 skipped",
        "coverage   3 asked · 2 captured · 2 compared · 1 skipped",
        "? duration_logits: the candidate did not produce 'dur_logits'",
        "all negative: reference 7, candidate 412 of 412 points · sign lost at: logits",
        "first all-negative point: short.wav, frame 17 (1.36 s), step 3",
        "token 17 → 41 · margin 0.00231 · long.wav, frame 61 (4.88 s), step 23",
        "cause      log_softmax_baked at logits, explains 99.9 % of the error",
        "advice     convert with `joint.log_softmax=False`",
    ):
        assert part in text
    verdict = text.splitlines()[-1]
    assert verdict == (
        "✗ cpu_traced fails first at logits (log_softmax_baked) · ✓ raw_logits passes"
        " · ? plain unknown: 1 stage could not be compared"
    )


def test_the_verdict_alone(report: Report) -> None:
    stream = io.StringIO()
    terminal.render_verdict(report, terminal.console_for(stream))
    assert stream.getvalue() == "\n".join(
        [
            "✗ cpu_traced fails first at logits (log_softmax_baked) · ✓ raw_logits passes",
            "? plain unknown: 1 stage could not be compared",
            "",
        ]
    )


def test_pipes_get_a_fixed_width_and_no_control_characters(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "33")
    text = shown(report)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert max(cell_len(line) for line in text.splitlines()) == terminal.PIPE_WIDTH


def test_terminals_get_colour_unless_it_is_refused(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31m" in shown(report, 80, Screen())
    assert "\x1b" not in shown(report, 80, Screen(), color=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown(report, 80, Screen())


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_other_encodings_get_the_same_lines_with_other_symbols(report: Report, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    terminal.render(report, terminal.console_for(stream, width=80))
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    plain = shown(report, 80)
    assert [len(line) for line in text.splitlines()] == [len(line) for line in plain.splitlines()]
    assert "> logits" in text
    assert "x fail" in text
    assert "?" not in text.replace("? ", "").replace("?\n", "")


@given(st.text(max_size=40), st.text(max_size=80), st.sampled_from(WIDTHS))
def test_texts_of_a_model_are_neither_obeyed_nor_too_long(name: str, text: str, width: int) -> None:
    stage = StageResult(name, "joint", "fail", text, layout=text, worst={"clip": text, "row": 1})
    result = CandidateResult(name, "fail", name, Coverage(1, 1, 1), (stage,), description={name: text})
    report = Report("fail", {text: name}, {text: text}, {}, {name: result})
    written = shown(report, width)
    assert all(character.isprintable() or character == "\n" for character in written)
    assert max(cell_len(line) for line in written.splitlines()) <= width


def test_markup_is_text() -> None:
    stage = StageResult("[bold]x[/bold]", "joint", "fail", "[red]no[/red] :smile:")
    result = CandidateResult("[c]", "fail", None, Coverage(1, 1, 1), (stage,))
    text = shown(Report("fail", {}, {}, {}, {"[c]": result}), 140)
    for part in ("[bold]x[/bold]", "[red]no[/red] :smile:", "[c]  ✗ fail"):
        assert part in text


def test_a_report_without_anything_can_be_shown() -> None:
    empty = CandidateResult("c", "unknown", None, Coverage(0, 0, 0), ())
    for width in WIDTHS:
        assert "c unknown" in shown(Report("unknown", {}, {}, {}, {"c": empty}), width)
    assert stage_table([], width=80) is not None


@given(st.lists(st.text("ab ", min_size=1, max_size=12), max_size=12), st.integers(12, 60))
def test_flow_loses_nothing_and_keeps_the_width(items: list[str], width: int) -> None:
    lines = flow(items, width=width)
    assert " · ".join(lines).replace(" · ", "") == "".join(items).replace(" · ", "")
    assert all(len(line) <= width for line in lines)


@given(st.text("ab_.", min_size=1, max_size=60), st.integers(8, 30))
def test_folded_names_lose_nothing_and_keep_the_width(name: str, width: int) -> None:
    lines = folded(name, width=width)
    assert lines[0] + "".join(line[2:] for line in lines[1:]) == name
    assert all(len(line) <= width for line in lines)


def test_more_flips_than_are_listed_are_counted(report: Report) -> None:
    broken = report.candidates["cpu_traced"]
    assert broken.tdt is not None
    many = replace(broken, tdt=replace(broken.tdt, token_flips=90, flips=broken.tdt.flips * 20))
    text = shown(replace(report, candidates={"c": many}), 140)
    assert text.count("margin") == 10
    assert "… and 81 more" in text
