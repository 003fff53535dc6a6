"""A sample of the fault catalogue: every cause once, on a small network where there is one, and what is healthy."""

from __future__ import annotations

import re

import pytest

from benchmarks.faults import score
from benchmarks.faults.__main__ import chosen
from benchmarks.faults.faults import REGISTRY
from benchmarks.faults.score import HEALTHY_NAME, Outcome, Score
from benchmarks.faults.table import is_reached, markdown, summary
from layerdiff.diagnose.rules import RULES

CAUSES = """
log_softmax_baked softmax_baked row_offset scale channel_scale sign_flip bias_missing bias_changed weight_changed
weight_missing weight_quantization channel_permutation axis_transposed slice_shift frame_shift activation_missing
activation_changed overflow underflow_log_zero nan_source length_mask stale_state constant_output epsilon_changed
integer_overflow wrong_output_width precision_only unexplained
"""
"""The stable identifiers."""

SPECIAL = {"unexplained"}
"""No fault: what is said where none is found."""


@pytest.mark.parametrize("cause", REGISTRY)
def test_a_fault_is_found_where_it_is_and_named(cause: str) -> None:
    (outcome,) = score.faulty(cause, times=1)
    assert outcome.is_stage_found, outcome
    assert outcome.is_cause_found, outcome


@pytest.mark.parametrize("network", ["joint", "decoder", "preprocessor"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_healthy_conversion_is_not_blamed(network: str, precision: str) -> None:
    outcomes = list(score.healthy((network,), (precision,)))
    assert not any(outcome.is_false_alarm for outcome in outcomes), outcomes
    assert all(outcome.status == "pass" for outcome in outcomes) or (network, precision) == ("preprocessor", "float16")


def test_every_cause_of_the_issue_has_faults() -> None:
    causes = set(re.findall(r"\w+", CAUSES))
    assert set(REGISTRY) == causes - SPECIAL
    named = {cause for level in RULES for cause in level} - {
        "activation",
        "activation_before",
        "constant_operand",
        "exponential_overflow",
    }
    assert named <= causes


def outcome(cause: str, **changes: object) -> Outcome:
    known = {"cause": cause, "network": "joint", "words": "w", "status": "fail", "first": "s", "named": (cause,)}
    return Outcome(**{**known, "is_stage_found": True, "seconds": 1.0, **changes})  # type: ignore[arg-type]


def test_the_score_counts_what_was_missed() -> None:
    right, wrong = outcome("scale"), outcome("scale", named=("unexplained", "scale"))
    elsewhere = outcome("scale", is_stage_found=False, first="other")
    healthy = outcome("", status="pass", first="", named=())
    alarm = outcome("", named=("scale",))
    scores = [Score.of("scale", [right, wrong, elsewhere]), Score.of(HEALTHY_NAME, [healthy, alarm])]
    assert (scores[0].stages, scores[0].causes) == (2, 2)
    assert summary(scores) == "3 faults: first bad stage 2, cause named first 2 (66.7%); false alarms: 1"
    assert not is_reached(scores)
    assert is_reached([Score.of("scale", [right]), Score.of(HEALTHY_NAME, [healthy])])
    page = markdown(scores)
    assert "| `scale` | 3 | 2 | 2 | 1.00 s |" in page
    assert "- `scale`, joint, w: first `other`, named scale" in page


def test_unknown_causes_are_refused() -> None:
    with pytest.raises(Exception, match="'magic' has no faults"):
        chosen(["magic"])
