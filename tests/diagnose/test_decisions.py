"""Decisions against a plain restatement of TDT's rule, point by point."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.diagnose.decisions import DecisionLens, decide
from layerdiff.records import Points

FRAMES = (0, 1, 2, 3, 4)
VOCABULARY = 7
BLANK = VOCABULARY


def points(count: int) -> Points:
    return Points(np.arange(count) * 2, np.arange(count), np.zeros(count, np.int64), frame_s=0.08)


def random_logits(seed: int, count: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 4, (count, 1, 1, VOCABULARY + 1 + 5)).astype(np.float32)


def watch(reference: np.ndarray, candidate: np.ndarray, durations: np.ndarray | None = None) -> DecisionLens:
    lens = DecisionLens(FRAMES, BLANK)
    lens.update(
        reference=reference,
        candidate=candidate,
        candidate_durations=candidate[..., -5:] if durations is None else durations,
        points=points(len(reference)),
        clip="a.wav",
    )
    return lens


def advance_of(row: np.ndarray) -> int:
    """The rule in words: the best duration, but blank goes on by one frame at least."""
    token, duration = int(np.argmax(row[:-5])), FRAMES[int(np.argmax(row[-5:]))]
    return 1 if token == BLANK and duration == 0 else duration


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), noise=st.floats(0, 5))
def test_flips_are_counted_as_the_rule_says(seed: int, noise: float) -> None:
    reference = random_logits(seed)
    candidate = reference + np.random.default_rng(seed + 1).normal(0, noise, reference.shape)
    lens = watch(reference, candidate)
    rows = list(zip(reference[:, 0, 0], candidate[:, 0, 0], strict=True))
    assert lens.counts == {
        "token": sum(np.argmax(r[:-5]) != np.argmax(c[:-5]) for r, c in rows),
        "duration": sum(np.argmax(r[-5:]) != np.argmax(c[-5:]) for r, c in rows),
        "frame_advance": sum(advance_of(r) != advance_of(c) for r, c in rows),
    }


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_log_softmax_makes_durations_negative_and_changes_no_decision(seed: int) -> None:
    reference = random_logits(seed)
    candidate = torch.from_numpy(reference).log_softmax(-1).numpy()
    analysis = watch(reference, candidate).result("duration_logits", parent="logits")
    assert analysis.candidate_all_negative == analysis.points == 30
    assert analysis.reference_all_negative == int((reference[..., -5:].max(-1) < 0).sum())
    assert (analysis.token_flips, analysis.duration_flips, analysis.frame_advance_flips) == (0, 0, 0)
    assert analysis.sign_lost_at == "logits"
    assert "no decision changes" in analysis.summary


def test_the_first_negative_point_is_placed_in_time_with_both_sides() -> None:
    reference = np.abs(random_logits(0)) + 1
    candidate = reference.copy()
    candidate[4:, ..., -5:] *= -1
    first = watch(reference, candidate).result("duration_logits", parent="logits").first_all_negative
    assert first is not None
    assert (first.clip, first.frame, first.step) == ("a.wav", 8, 4)
    assert first.time_s == pytest.approx(0.64)
    assert first.reference == tuple(reference[4, 0, 0, -5:].tolist())
    assert first.candidate == tuple(-value for value in first.reference)


def test_a_slice_that_loses_the_sign_is_told_from_its_parent() -> None:
    reference = np.abs(random_logits(0)) + 1
    analysis = watch(reference, reference, durations=-reference[..., -5:]).result("durations", parent="logits")
    assert analysis.sign_lost_at == "durations"


def test_a_flip_carries_the_references_margin() -> None:
    reference = random_logits(0, count=1)
    reference[0, 0, 0] = [5, 4.25, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0]
    candidate = reference.copy()
    candidate[..., 1] = 6
    (flip,) = watch(reference, candidate).result("d", parent="l").flips
    assert (flip.kind, flip.reference, flip.candidate, flip.margin) == ("token", 0, 1, 0.75)


def test_counts_add_up_over_calls() -> None:
    reference, other = random_logits(1), random_logits(2)
    whole = watch(reference, other)
    parts = DecisionLens(FRAMES, BLANK)
    for rows in (slice(0, 11), slice(11, 30)):
        parts.update(
            reference=reference[rows],
            candidate=other[rows],
            candidate_durations=other[rows][..., -5:],
            points=points(len(reference[rows])),
            clip="a.wav",
        )
    assert parts.counts == whole.counts
    assert parts.candidate_all_negative == whole.candidate_all_negative
    assert sum(parts.counts.values()) > 20 == len(parts.flips)


def test_blank_with_duration_zero_advances_one_frame() -> None:
    logits = np.zeros((1, VOCABULARY + 1))
    logits[0, BLANK] = 1
    assert decide(logits, np.array([[1.0, 0, 0, 0, 0]]), frames=FRAMES, blank=BLANK).advances.tolist() == [1]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), noise=st.floats(0, 5))
def test_zero_durations_and_times_are_those_of_the_rule(seed: int, noise: float) -> None:
    reference = random_logits(seed)
    candidate = reference + np.random.default_rng(seed + 1).normal(0, noise, reference.shape)
    found = watch(reference, candidate).result("duration_logits", parent="logits")
    sides = reference[:, 0, 0], candidate[:, 0, 0]
    durations = [[FRAMES[int(np.argmax(row[-5:]))] for row in side] for side in sides]
    assert (found.reference_zero_durations, found.candidate_zero_durations) == tuple(d.count(0) for d in durations)
    steps = [sum(advance_of(row) for row in side) / len(side) for side in sides]
    assert (found.reference_frames_per_step, found.candidate_frames_per_step) == pytest.approx(steps)
    emitted = [index for index, row in enumerate(sides[0]) if np.argmax(row[:-5]) != BLANK]
    shifts = [0.08 * (durations[1][index] - durations[0][index]) for index in emitted]
    assert found.token_end_shift_s == (pytest.approx(np.mean(shifts), abs=1e-12) if emitted else None)


def test_a_sentence_says_what_stays_and_by_how_much_tokens_end_early() -> None:
    """whisper.cpp #4017: 41 % of the decisions stay at their frame, the reference's 1 %."""
    reference = np.zeros((100, 1, 1, VOCABULARY + 1 + 5), np.float32)
    reference[..., 0] = 5.0  # a token everywhere
    reference[..., VOCABULARY + 1 + 2] = 3.0  # for two frames
    reference[7, ..., VOCABULARY + 1] = 9.0
    candidate = reference.copy()
    candidate[20:60, ..., VOCABULARY + 1] = 4.0
    lens = watch(reference, candidate)
    found = lens.result("duration_logits", parent="logits")
    assert (found.reference_zero_durations, found.candidate_zero_durations) == (1, 41)
    assert found.token_end_shift_s == pytest.approx(-0.4 * 2 * 0.08)
    assert found.near_ties == 0
    assert found.summary.endswith(
        "decisions that change: 40 duration, 40 frame advance, first in a.wav at 3.20 s, step 20; "
        "41% of the steps choose duration 0 (reference 1%); tokens end 64 ms early on average"
    )


def test_near_ties_are_counted_beyond_those_that_are_listed() -> None:
    reference = np.zeros((50, 1, 1, VOCABULARY + 1 + 5), np.float32)
    reference[..., 0], reference[..., 1] = 1.0, 0.95
    candidate = reference.copy()
    candidate[..., 1] = 1.05
    found = watch(reference, candidate).result("duration_logits", parent="logits")
    assert (found.token_flips, found.near_ties, len(found.flips)) == (50, 50, 20)
    assert "50 token (near-ties)" in found.summary


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_a_transducer_without_durations_has_tokens_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.normal(0, 4, (30, 1, 1, VOCABULARY + 1)).astype(np.float32)
    candidate = reference + rng.normal(0, 2, reference.shape)
    lens = DecisionLens((), BLANK)
    lens.update(
        reference=reference,
        candidate=candidate,
        candidate_durations=candidate[..., :0],
        points=points(30),
        clip="a.wav",
    )
    ours, theirs = (side[:, 0, 0].argmax(-1) for side in (reference, candidate))
    found = lens.result("logits", parent="logits")
    assert found.token_flips == int((ours != theirs).sum())
    assert found.frame_advance_flips == int(((ours == BLANK) != (theirs == BLANK)).sum())
    assert (found.duration_flips, found.durations, found.token_end_shift_s) == (0, (), None)
    assert "negative" not in found.summary
