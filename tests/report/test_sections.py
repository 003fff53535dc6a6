"""What is said around the table: alignment, coverage, confirmation, and what of a long table is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.records import AlignmentSummary, CandidateResult, Coverage, Missing, StageResult, Unpaired
from layerdiff.report import sections
from layerdiff.report.rows import candidate_rows
from layerdiff.report.selection import SHOWN_ROWS, Choice, chosen
from tests.report.conftest import failing, passing

ALIGNMENT = AlignmentSummary(
    methods={"weights": 17, "structure": 8},
    reference_tensors=30,
    reference_paired=25,
    candidate_tensors=41,
    candidate_paired=25,
    unpaired=tuple(Unpaired("reference", f"t{i}", "aten.sin", f"reason {i}") for i in range(20)),
)


def text_of(parts: Any) -> str:
    return "\n".join(part.plain for part in parts)


def aligned(candidate: CandidateResult) -> CandidateResult:
    stages = tuple(replace(s, alignment_method="weights", alignment_confidence=0.97) for s in candidate.stages)
    return replace(candidate, stages=stages, alignment=ALIGNMENT)


def test_the_alignment_says_how_much_of_either_side_it_covers_and_each_pair() -> None:
    text = text_of(sections.alignment(ALIGNMENT, candidate_rows(aligned(passing())), width=100))
    assert "17 by weights · 8 by structure · 25 of the reference's 30 tensors" in text
    assert "25 of the candidate's 41 tensors" in text
    assert "joint.enc = enc_proj (weights 97 %)" in text
    assert "reference's t0 (aten.sin): reason 0" in text


@pytest.mark.parametrize("whole", [False, True])
def test_many_leftovers_are_counted_or_listed_whole(whole: bool) -> None:
    text = text_of(sections.alignment(ALIGNMENT, [], width=100, whole=whole))
    shown = [left.tensor for left in ALIGNMENT.unpaired if f"'s {left.tensor} (" in text]
    assert len(shown) == (20 if whole else sections.SHOWN_PAIRS)
    assert ("… and 8 more, in report.json" in text) != whole


def test_many_missing_stages_are_counted_too() -> None:
    missing = tuple(Missing(f"stage {i}", "no counterpart") for i in range(30))
    text = sections.coverage(Coverage(30, 0, 0, missing), width=100).plain
    assert "30 asked" in text
    assert "30 skipped" in text
    assert text.count("no counterpart") == sections.SHOWN_PAIRS
    assert "… and 18 more, in report.json" in text


@pytest.mark.parametrize(
    ("again", "verdict"), [(0.4, "confirms"), (0.42, "confirms"), (0.5, "contradicts"), (0.0, "contradicts")]
)
def test_a_second_measurement_confirms_or_contradicts(again: float, verdict: str) -> None:
    row = {"confirmed_own_error": again, "own_error": 0.4}
    assert f"which {verdict} 0.4" in sections.confirmation(row)


def test_stages_that_only_inherit_share_a_sentence() -> None:
    bad = failing()
    stages = list(bad.stages)
    stages[2] = replace(stages[2], own_error=1e-7)
    lines = list(sections.failures(candidate_rows(replace(bad, stages=tuple(stages)))))
    assert lines[0].startswith("first divergence: logits: ")
    assert lines[1] == "duration_logits: fails by the error inherited from the stages before"


# ------------------------------------------------------------------ several components


def test_equal_names_of_two_components_are_told_apart_and_one_is_first() -> None:
    """Both have a `logits` that fails; the table says which is which, and marks the first one alone."""
    bad = failing()
    twice = replace(bad, stages=(*bad.stages, *(replace(stage, component="encoder") for stage in bad.stages)))
    rows = candidate_rows(twice)
    assert [row["label"] for row in rows] == [f"{row['component']}: {row['stage']}" for row in rows]
    assert len({row["label"] for row in rows}) == len(rows)
    assert [row["label"] for row in rows if row["first_divergence"]] == ["joint: logits"]
    assert {row["label"] for row in candidate_rows(bad)} == {stage.name for stage in bad.stages}


def test_of_two_components_the_failing_one_is_marked() -> None:
    bad, good = failing(), passing()
    healthy = tuple(replace(stage, component="encoder") for stage in good.stages)
    rows = candidate_rows(replace(bad, stages=(*healthy, *bad.stages)))
    assert [row["label"] for row in rows if row["first_divergence"]] == ["joint: logits"]


# ------------------------------------------------------------------ long tables


def long_table(statuses: list[str]) -> list[dict[str, Any]]:
    stages = tuple(StageResult(f"s{i}", "model", status, "") for i, status in enumerate(statuses))  # type: ignore[arg-type]
    return list(candidate_rows(replace(passing(), stages=stages)))  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["pass", "pass", "pass", "pass", "fail", "unknown"]), max_size=200))
def test_a_long_table_shows_what_tells_in_order(statuses: list[str]) -> None:
    rows = long_table(statuses)
    shown = [rows[place] for place in chosen(rows, Choice())]
    places = [rows.index(row) for row in shown]
    assert places == sorted(set(places))
    assert len(shown) == min(len(rows), SHOWN_ROWS)
    bad = [row for row in rows if row["status"] != "pass"]
    if len(bad) <= SHOWN_ROWS // 2:
        assert all(row in shown for row in bad)


def test_the_first_failure_and_the_stage_before_it_are_always_shown() -> None:
    rows = long_table(["pass"] * 150 + ["fail"] * 150)
    names = [row["stage"] for row in (rows[place] for place in chosen(rows, Choice()))]
    assert names[:2] == ["s149", "s150"]
    assert len(names) == SHOWN_ROWS
