"""The table of a repair: never a cut number, whatever the width, and every fact that it has."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from layerdiff.records import CandidateResult, Coverage, StageResult, TensorSummary
from layerdiff.repairs import Attempt, Repair
from layerdiff.report import repair, terminal


def stage(name: str, status: str, low: float, error: float | None) -> StageResult:
    side = TensorSummary("t", "float32", (1, 5), low, 15.78, 0.0)
    metrics = {} if error is None else {"max_abs_error": error}
    return StageResult(name, "joint", status, "too far off", reference=side, candidate=side, metrics=metrics)  # type: ignore[arg-type]


def side(status: str, *stages: StageResult) -> CandidateResult:
    return CandidateResult("it", status, None, Coverage(1, 1, 1, ()), stages)  # type: ignore[arg-type]


DONE = Repair(
    package="out/RNNTJoint_fixed.mlpackage",
    replaces="RNNTJoint.mlpackage",
    before=side(
        "fail", stage("encoder_projection", "pass", -9.372e4, 0.0), stage("duration_logits", "fail", -38.46, 23.21)
    ),
    after=side("pass", stage("encoder_projection", "pass", -9.372e4, 0.0), stage("log_probs", "pass", -9.8, 1e-5)),
    attempts=(
        Attempt("raw_logits", (), "fail", "logits: 3 NaN"),
        Attempt("raw_logits", ("linear 'linear_0'",), "pass", ""),
    ),
    float32_ops=("linear 'linear_0' (joint.enc)",),
    interface=("output 'logits' is gone",),
    weights=(6, 6),
    bytes_before=43_000,
    bytes_after=76_200,
    bytes_of_float32_ops=33_000,
)


def shown(done: Repair, width: int) -> str:
    stream = io.StringIO()
    repair.render(done, terminal.console_for(stream, color=False, width=width))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100, 140])
def test_everything_is_there_and_fits(width: int) -> None:
    text = shown(DONE, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for fact in (
        "✗ fail",
        "[-9.372e4, 15.78]",
        "23.21",
        "1e-5",
        "3 NaN",
        "(joint.enc)",
        "33 kB",
        "43 kB → 76.2 kB",
        "is gone",
    ):
        assert fact in text, fact
    assert text.count("✓ pass → ✓ pass") == 1
    assert text.rstrip().endswith("it: {coreml: out/RNNTJoint_fixed.mlpackage}")


def test_a_plain_repair_says_that_it_can_take_the_old_ones_place() -> None:
    text = shown(replace(DONE, interface=(), float32_ops=(), attempts=DONE.attempts[1:]), 80)
    assert "it can take its place" in text
    assert "in float32" not in text
    assert "tried" not in text


def test_the_document_is_plain() -> None:
    found = repair.document(DONE)
    assert found["attempts"][0] == {"way": "raw_logits", "float32_ops": [], "status": "fail", "reason": "logits: 3 NaN"}
    assert found["before"]["stages"][1]["status"] == "fail"
    assert found["weights"] == [6, 6]
