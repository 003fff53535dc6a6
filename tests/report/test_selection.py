"""Which stages are shown of many, and their errors as bars."""

from __future__ import annotations

import io
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.records import CandidateResult, Coverage, Report, StageResult
from layerdiff.report import terminal
from layerdiff.report.selection import BARS, SHOWN_ROWS, Choice, chosen, sparks

ERRORS = st.one_of(st.none(), st.floats(0, 10), st.just(math.inf))


def row(error: float | None, *, status: str = "pass", component: str = "encoder") -> dict[str, Any]:
    return {"relative_l2_error": error, "status": status, "component": component}


@settings(deadline=None)
@given(st.lists(ERRORS, max_size=100), st.integers(1, 120))
def test_the_top_ones_are_the_worst_in_order(errors: list[float | None], top: int) -> None:
    rows = [row(error) for error in errors]
    places = chosen(rows, Choice(top=top))
    assert places == sorted(set(places))
    assert len(places) == min(top, len(rows))
    left = [errors[place] for place in range(len(rows)) if place not in places]
    least = min((-1.0 if errors[place] is None else errors[place] for place in places), default=0.0)
    assert all((-1.0 if error is None else error) <= least for error in left)


def test_only_what_does_not_pass() -> None:
    rows = [row(0.1, status=status) for status in ("pass", "fail", "unknown", "pass", "fail")]
    assert chosen(rows, Choice(failed=True)) == [1, 2, 4]
    assert chosen(rows, Choice(failed=True, top=1)) == [1]


def test_all_of_a_long_table() -> None:
    rows = [row(0.0)] * (3 * SHOWN_ROWS)
    assert len(chosen(rows, Choice())) == SHOWN_ROWS
    assert len(chosen(rows, Choice(all=True))) == 3 * SHOWN_ROWS


@given(st.lists(st.tuples(ERRORS, st.sampled_from("ab")), min_size=1, max_size=300), st.integers(5, 80))
def test_bars_are_in_order_and_fit(found: list[tuple[float | None, str]], width: int) -> None:
    rows = [row(error, component=component) for error, component in found]
    lines = dict(sparks(rows, width=width))
    assert set(lines) == {component for _, component in found}
    assert sum(map(len, lines.values())) <= width + len(lines)
    assert set("".join(lines.values())) <= {*BARS, " "}


def test_a_bar_grows_with_the_error() -> None:
    rows = [row(10.0**power) for power in range(-9, 2)]
    ((_, line),) = sparks(rows, width=80)
    assert list(line) == sorted(line)
    assert (line[0], line[-1]) == (BARS[0], BARS[-1])
    assert next(iter(sparks([row(None, status="fail"), row(None)], width=80)))[1] == f"{BARS[-1]} "


def test_long_tables_are_folded_and_grouped() -> None:
    bad = ("encoder", 90)
    stages = tuple(
        StageResult(f"{component}_{number}", component, "fail" if (component, number) == bad else "pass", "")
        for component in ("preprocessor", "encoder")
        for number in range(100)
    )
    result = CandidateResult("c", "fail", "encoder_90", Coverage(200, 200, 200), stages)
    stream = io.StringIO()
    terminal.render(Report("fail", {}, {}, {}, {"c": result}), terminal.console_for(stream, width=80))
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    places = [lines.index(text) for text in ("preprocessor", "encoder")]
    assert places == sorted(places)
    hidden = [int(line.split()[1]) for line in lines if line.startswith("… ") and line.endswith(" more")]
    assert sum(hidden) == 200 - SHOWN_ROWS
    assert any("140 of 200 stages are not shown" in line for line in lines)
