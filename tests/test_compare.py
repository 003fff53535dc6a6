"""Comparison of one stage: shapes that agree or don't, the splits, the limits of slices, the worst clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from layerdiff.compare import (
    Stage,
    StageComparison,
    Witness,
    agree,
    expected_of,
    log_softmax,
    merge_shapes,
    worst_row,
)
from layerdiff.records import Points

RNG = np.random.default_rng(0)


def noise(shape: tuple[int, ...], size: float) -> np.ndarray:
    return RNG.normal(0, size, shape)


def relative(reference: np.ndarray, candidate: np.ndarray) -> float:
    wide = reference.astype(np.float64)
    return float(np.linalg.norm(candidate.astype(np.float64) - wide) / np.linalg.norm(wide))


def compared(*, error: float, precision: float = 0.0, clips: int = 3, **stage: object) -> StageComparison:
    """A stage over some clips whose candidate is off by `error`, by `precision` more as declared."""
    comparison = StageComparison(Stage("logits", "joint", "joint.joint_net.2", "logits", **stage))  # type: ignore[arg-type]
    for clip in range(clips):
        reference = noise((20, 1, 1, 30), 5).astype(np.float32)
        exact = reference + noise(reference.shape, error)
        variants = {
            "declared": (exact + noise(reference.shape, precision)).astype(np.float32),
            "float32": exact.astype(np.float32),
            "float64": exact,
            "own": reference + noise(reference.shape, error / 2),
        }
        if precision:
            for seed in range(2):
                variants[f"weights/{seed}"] = exact + noise(reference.shape, precision / 4)
                variants[f"cost/{seed}"] = exact + noise(reference.shape, precision)
        comparison.update(reference, variants, clip=f"{clip}.wav", points=None, layout="")
    return comparison


def result(comparison: StageComparison, **thresholds: float):  # type: ignore[no-untyped-def]
    return comparison.result(depth=5, parent=None, thresholds=thresholds)


def test_equal_shapes_agree_without_a_word() -> None:
    value = np.ones((2, 3))
    agreed, note = agree(value, value)
    assert agreed is value
    assert note == ""


def test_single_axes_may_differ_and_it_is_said() -> None:
    agreed, note = agree(np.ones((4, 1, 6), np.float32), np.ones((4, 1, 1, 6), np.float32))
    assert agreed is not None
    assert agreed.shape == (4, 1, 6)
    assert note == "float32[4, 1, 1, 6] read as float32[4, 1, 6]"


@pytest.mark.parametrize("shape", [(6, 4), (4, 5), (24,), (2, 12), (1, 24)])
def test_nothing_else_is_reshaped_or_broadcast(shape: tuple[int, ...]) -> None:
    agreed, note = agree(np.ones((4, 6)), np.ones(shape))
    assert agreed is None
    assert note.endswith("against the reference's float64[4, 6]")


def test_the_surplus_of_a_padded_input_is_cut_off() -> None:
    candidate = np.arange(12.0).reshape(1, 2, 6)
    agreed, note = agree(np.ones((1, 2, 4)), candidate, padded="audio_signal padded from 4 to 6 along axis 1")
    assert agreed is not None
    assert agreed.tolist() == candidate[:, :, :4].tolist()
    assert "padded from 4 to 6" in note
    assert agree(np.ones((1, 2, 4)), candidate)[0] is None


def test_lengths_that_differ_between_clips_are_left_open() -> None:
    assert merge_shapes((1, 10, 64), (1, 12, 64)) == (1, None, 64)


def test_a_right_conversion_passes() -> None:
    row = result(compared(error=1e-7))
    assert (row.status, row.reason) == ("pass", "")
    assert row.conversion_error is not None
    assert row.conversion_error < 1e-6


def test_a_wrong_conversion_fails_and_says_by_how_much() -> None:
    row = result(compared(error=0.1))
    assert row.status == "fail"
    assert row.conversion_error == pytest.approx(0.1 / 5, rel=0.1)
    assert row.own_error == pytest.approx(0.05 / 5, rel=0.1)
    assert row.inherited_error == pytest.approx(np.hypot(0.1, 0.05) / 5, rel=0.1)
    assert row.reference is not None
    assert row.reference.shape == (20, 1, 1, 30)


def test_a_float16_error_of_the_size_that_float16_must_cost_passes() -> None:
    row = result(compared(error=1e-7, precision=2e-3))
    assert row.status == "pass"
    assert row.precision_error == pytest.approx(2e-3 / 5, rel=0.1)
    assert row.total_limit == pytest.approx(1.5 * 2e-3 / 5, rel=0.1)


def test_an_error_beyond_what_float16_must_cost_fails() -> None:
    comparison = compared(error=1e-7, precision=2e-3)
    reference = noise((20, 1, 1, 30), 5).astype(np.float32)
    variants = {"declared": reference + noise(reference.shape, 0.1), "float32": reference, "float64": reference}
    comparison.update(reference, variants, clip="x.wav", points=None, layout="")
    assert result(comparison).status == "fail"


def test_a_users_threshold_replaces_the_derived_one() -> None:
    comparison = compared(error=0.1)
    assert result(comparison, relative_l2_error=0.5).status == "pass"
    assert result(comparison, cosine_similarity=0.99999).status == "fail"


def test_shapes_that_disagree_fail_with_both_shapes() -> None:
    comparison = StageComparison(Stage("logits", "joint", "a", "b"))
    reference = np.ones((2, 3), np.float32)
    comparison.update(reference, {"declared": np.ones((2, 4), np.float32)}, clip="a.wav", points=None, layout="")
    row = result(comparison)
    assert row.status == "fail"
    assert "float32[2, 4] against the reference's float32[2, 3]" in row.reason


def test_what_was_not_captured_is_unknown_with_its_reason() -> None:
    comparison = StageComparison(Stage("logits", "joint", "a", "b"))
    comparison.missing = "the candidate did not produce 'b'"
    row = result(comparison)
    assert (row.status, row.reason) == ("unknown", "the candidate did not produce 'b'")


def test_what_was_missing_on_one_clip_takes_a_pass_away_but_no_failure() -> None:
    right, wrong = compared(error=1e-7), compared(error=0.1)
    right.missing = wrong.missing = "b.wav: 'mel' is longer than the window"
    row = result(right)
    assert (row.status, row.reason) == ("unknown", right.missing)
    assert row.metrics["relative_l2_error"] is not None
    assert result(wrong).status == "fail"


def test_an_expectation_is_checked_row_by_row() -> None:
    comparison = StageComparison(Stage("durations", "joint", "a", "b", some_positive=True))
    reference = np.array([[1, -1], [-1, -1], [2, 3]], np.float32)
    candidate = np.array([[-1, -1], [-1, -1], [2, 3]], np.float32)
    comparison.update(reference, {"declared": candidate, "float64": candidate}, clip="a.wav", points=None, layout="")
    row = result(comparison, relative_l2_error=100.0)
    assert row.status == "fail"
    assert "no positive value in 1 of 2 rows where the reference has one" in row.reason


def test_the_worst_clip_is_kept_whatever_the_order() -> None:
    def worst(sizes: list[float]) -> str:
        comparison = StageComparison(Stage("logits", "joint", "a", "b"))
        reference = np.ones((4, 8), np.float32)
        for size in sizes:
            variants = {"declared": reference + np.float32(size), "float64": reference}
            comparison.update(reference, variants, clip=str(size), points=None, layout="")
        assert comparison.witness is not None
        return comparison.witness.clip

    assert worst([0.1, 0.3, 0.2]) == worst([0.3, 0.2, 0.1]) == "0.3"


def test_the_worst_row_is_placed_in_the_audio() -> None:
    reference = np.ones((5, 1, 3), np.float32)
    candidate = reference.copy()
    candidate[3, 0, 1] = 2
    points = Points(np.arange(5) * 4, np.arange(5), np.zeros(5, np.int64), frame_s=0.08)
    assert worst_row(Witness("a.wav", 0.1, reference, candidate, points)) == (3, pytest.approx(1 / np.sqrt(3)))
    comparison = StageComparison(Stage("hidden", "joint", "a", "b"))
    variants = {"declared": candidate, "float64": candidate}
    comparison.update(reference, variants, clip="a.wav", points=points, layout="")
    row = result(comparison)
    assert row.worst is not None
    assert (row.worst["frame"], row.worst["step"]) == (12, 3)
    assert row.worst["time_s"] == pytest.approx(0.96)


def test_the_total_is_that_of_all_clips_together() -> None:
    comparison = StageComparison(Stage("logits", "joint", "a", "b"))
    sides = [(noise((3, 7), 2).astype(np.float32), noise((3, 7), 2).astype(np.float32)) for _ in range(4)]
    for number, (reference, candidate) in enumerate(sides):
        variants = {"declared": candidate, "float64": candidate}
        comparison.update(reference, variants, clip=str(number), points=None, layout="")
    whole = [np.concatenate(side) for side in zip(*sides, strict=True)]
    assert result(comparison).metrics["relative_l2_error"] == pytest.approx(relative(*whole), rel=1e-12)


@settings(deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-200, 200, width=32)))
def test_log_probabilities_are_torchs(logits: np.ndarray) -> None:
    expected = torch.log_softmax(torch.from_numpy(logits).double(), dim=-1).numpy()
    assert np.allclose(log_softmax(logits), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.exp(log_softmax(logits)).sum(axis=-1), 1, rtol=1e-12)


def test_what_is_expected_of_log_probabilities_is_the_normalised_slice() -> None:
    logits = np.random.default_rng(0).standard_normal((2, 3, 7)).astype(np.float32)
    stage = Stage("s", "joint", "r", "c", slices=((..., slice(-2, None)),), log_softmax=True)
    found = expected_of(logits, stage)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, torch.log_softmax(torch.from_numpy(logits[..., -2:]), dim=-1).numpy(), atol=1e-6)
    assert expected_of(logits, Stage("s", "joint", "r", "c")) is logits
