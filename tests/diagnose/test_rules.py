"""A rule must name its own cause, stay silent about others, and say how much it explains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.diagnose import rules
from layerdiff.diagnose.evidence import Evidence
from layerdiff.diagnose.normalising import log_softmax_baked, logsumexp
from layerdiff.diagnose.rules import diagnose


def logits(seed: int, *, rows: int = 40, width: int = 102) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 12, (rows, 1, 1, width)).astype(np.float32)


def evidence(reference: np.ndarray, candidate: np.ndarray, **changes: object) -> Evidence:
    return Evidence("logits", reference, candidate, "a.wav", "None", **changes)  # type: ignore[arg-type]


def log_softmax(value: np.ndarray) -> np.ndarray:
    return torch.from_numpy(value).log_softmax(-1).numpy()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), width=st.integers(2, 200))
def test_logsumexp_agrees_with_torch(seed: int, width: int) -> None:
    rows = np.random.default_rng(seed).normal(0, 300, (5, width))
    np.testing.assert_allclose(logsumexp(rows), torch.from_numpy(rows).logsumexp(-1).numpy(), rtol=1e-13)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_a_baked_log_softmax_is_named_with_its_numbers(seed: int) -> None:
    raw = logits(seed)
    finding = log_softmax_baked(evidence(raw, log_softmax(raw)))
    assert finding is not None
    assert finding.cause == "log_softmax_baked"
    assert finding.confidence > 0.9999
    assert finding.evidence["difference_from_logsumexp_max"] < 1e-4
    assert finding.evidence["width"] == 102
    assert "joint.log_softmax=False" in finding.advice


def test_the_reverse_case_names_the_reference_side() -> None:
    raw = logits(1)
    finding = log_softmax_baked(evidence(log_softmax(raw), raw))
    assert finding is not None
    assert "reference" in finding.summary
    assert "joint_net" in finding.advice


def test_a_float16_candidate_is_still_recognised() -> None:
    raw = logits(2)
    finding = log_softmax_baked(evidence(raw, log_softmax(raw).astype(np.float16)))
    assert finding is not None
    assert finding.confidence > 0.99


@pytest.mark.parametrize("floor", [-103.25, -45440.0], ids=["of the portable engine", "of the device"])
def test_a_log_softmax_that_underflowed_in_float16_is_still_recognised(floor: float) -> None:
    """coremltools computes log(softmax(x)); float16 has no softmax below 2**-24, and no digits of it below 2**-14."""
    raw = logits(2)
    softmax = torch.from_numpy(raw).softmax(-1).half()
    lowered = torch.where(softmax > 0, softmax.float().log(), floor).half().float().numpy()
    finding = log_softmax_baked(evidence(raw, lowered))
    assert finding is not None
    assert finding.confidence > 0.99
    assert finding.evidence["lost_share"] > 0.5
    assert finding.evidence["spread_within_a_row_max"] < 0.05
    assert "too small for float16" in finding.summary


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: np.minimum(x, -20.0), id="cut off"),
        pytest.param(lambda x: x - 300.0, id="low"),
    ],
)
def test_what_is_low_is_not_taken_for_underflow(change: object) -> None:
    raw = logits(3)
    assert log_softmax_baked(evidence(raw, change(raw))) is None  # type: ignore[operator]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: x + 3.0, id="constant offset"),
        pytest.param(lambda x: -x, id="sign"),
        pytest.param(lambda x: 3 * x, id="scale"),
        pytest.param(lambda x: np.roll(x, 1, axis=-1), id="shift"),
        pytest.param(lambda x: x + np.random.default_rng(0).normal(0, 1, x.shape), id="noise"),
        pytest.param(lambda x: np.where(x == x.max(), np.inf, x), id="infinite"),
        pytest.param(lambda x: x + np.random.default_rng(0).normal(0, 5, (*x.shape[:-1], 1)), id="row offsets"),
    ],
)
def test_other_faults_are_not_taken_for_it(change: object) -> None:
    raw = logits(3)
    assert log_softmax_baked(evidence(raw, change(raw))) is None  # type: ignore[operator]


def test_log_softmax_over_the_durations_alone_is_another_fault() -> None:
    raw = logits(4)
    changed = raw.copy()
    changed[..., -5:] = log_softmax(raw[..., -5:])
    assert log_softmax_baked(evidence(raw, changed)) is None


def test_an_error_that_float32_does_not_have_is_precision() -> None:
    raw = logits(5)
    rounded = raw.astype(np.float16).astype(np.float32)
    (finding,) = diagnose(evidence(raw, rounded, conversion_error=1e-8, conversion_limit=1e-6))
    assert finding.cause == "precision_only"
    assert finding.confidence == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "errors", [{"precision_error": 0.0}, {"precision_error": 1e-4, "runtime_error": 1e-2}], ids=["float32", "native"]
)
def test_an_error_that_the_declared_precision_does_not_have_is_not_its(errors: dict[str, float]) -> None:
    """A user's threshold can fail a float32 program, and Core ML itself can be off."""
    raw = logits(5)
    (finding,) = diagnose(evidence(raw, raw * 1.01, conversion_error=1e-8, conversion_limit=1e-6, **errors))
    assert finding.cause == "scale"


def test_a_conversion_error_beyond_its_limit_is_not_precision() -> None:
    raw = logits(6)
    (finding,) = diagnose(evidence(raw, raw * 1.01, conversion_error=0.01, conversion_limit=1e-6))
    assert finding.cause == "scale"


def test_a_stage_without_an_error_has_no_cause_in_its_precision() -> None:
    """A user's threshold can fail a stage whose two sides are equal on the worst clip."""
    raw = logits(7)
    (finding,) = diagnose(evidence(raw, raw.copy(), conversion_error=0.0, conversion_limit=1e-6))
    assert finding.cause == "unexplained"


def test_rows_of_one_value_are_no_log_softmax() -> None:
    """The log-softmax of a single value is 0, and so is a length that was lost."""
    length = np.array([259], np.float32)
    assert log_softmax_baked(evidence(length, np.zeros_like(length))) is None


def test_a_rule_that_fails_is_reported_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Evidence) -> None:
        raise ZeroDivisionError("of a rule")

    monkeypatch.setitem(rules.RULES[0], "wrong_output_width", broken)  # type: ignore[index]
    raw = logits(4)
    (finding,) = diagnose(evidence(raw, log_softmax(raw)))
    assert finding.cause == "log_softmax_baked"
    assert finding.evidence["failed_rules"] == {"wrong_output_width": "ZeroDivisionError: of a rule"}


def test_explanations_that_are_as_simple_and_as_good_are_a_tie() -> None:
    """An antisymmetric matrix: negated is the same as transposed, and nobody can tell which one it was."""
    half = np.random.default_rng(0).normal(0, 1, (8, 8)).astype(np.float32)
    reference = half - half.T
    found = diagnose(evidence(reference, -reference))
    assert {one.cause for one in found} == {"sign_flip", "axis_transposed"}
    assert [one.evidence["ties_with"] for one in found] == [[other.cause] for other in reversed(found)]
    alone = diagnose(evidence(half, -half))
    assert [one.cause for one in alone] == ["sign_flip"]
    assert "ties_with" not in alone[0].evidence
