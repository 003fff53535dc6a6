from __future__ import annotations

import numpy as np
import pytest

from layerdiff.decode.clip import Heard, Piece
from layerdiff.decode.comparison import Forced, Shift, aligned, first_divergence, forced_counts, shift
from layerdiff.decode.greedy import Decision, Emission, Path
from layerdiff.records import Points

FRAME_S = 0.08


def decided(token: int, duration: int, token_margin: float, duration_margin: float) -> Decision:
    """A decision with these margins."""
    return Decision(token, duration, np.array([0, token_margin, duration_margin, 0], np.float32), 2)


def heard(*steps: tuple[int, int, int], start: int = 0) -> Heard:
    """One piece with a decision (frame, token, duration) at every point."""
    frames = np.array([step[0] for step in steps], np.int64)
    points = Points(frames, np.zeros_like(frames), np.array([9]), FRAME_S)
    decisions = tuple(decided(token, duration, 0.5, 0.25) for _, token, duration in steps)
    return Heard((Piece(start, np.zeros((20, 1), np.float32)),), (Path(points, (), decisions),), 0)


def test_the_same_path_does_not_diverge() -> None:
    assert first_divergence(heard((0, 1, 2), (2, 9, 1)), heard((0, 1, 2), (2, 9, 1)), frame_s=FRAME_S) is None


@pytest.mark.parametrize(
    ("candidate", "kind", "step", "frame", "margin"),
    [
        (((0, 1, 2), (2, 3, 1)), "token", 1, 2, 0.5),
        (((0, 1, 3), (3, 9, 1)), "duration", 0, 0, 0.25),
        (((0, 1, 2),), "end", 1, 2, None),
        (((0, 1, 2), (2, 9, 1), (3, 9, 1)), "end", 2, 3, None),
    ],
)
def test_the_first_step_that_differs(
    candidate: tuple[tuple[int, int, int], ...], kind: str, step: int, frame: int, margin: float | None
) -> None:
    found = first_divergence(heard((0, 1, 2), (2, 9, 1), start=100), heard(*candidate, start=100), frame_s=FRAME_S)
    assert found is not None
    assert (found.kind, found.step, found.frame, found.margin) == (kind, step, 100 + frame, margin)
    assert found.time_s == pytest.approx((100 + frame) * FRAME_S)
    assert not found.is_near_tie


def test_forced_counts() -> None:
    def one(token: int, duration: int, margin: float = 1.0) -> Decision:
        return decided(token, duration, margin, margin)

    pairs = [(one(1, 2), one(1, 2)), (one(1, 2), one(3, 2)), (one(1, 2, 0.01), one(1, 4)), (one(1, 2), one(3, 4))]
    assert forced_counts(pairs, 6) == Forced(points=4, token_flips=2, duration_flips=2, near_ties=1, missing=2)


def test_forced_and_shift_add_up() -> None:
    assert Forced(1, 2, 3, 4, 5) + Forced(1, 1, 1, 1, 1) == Forced(2, 3, 4, 5, 6)
    assert Shift(1, 2, -3, 4, 5, 6, 7) + Shift(1, 1, 1, 1, 1, 1, 1) == Shift(2, 3, -2, 5, 6, 7, 8)


def test_shift_counts_tokens_that_both_have() -> None:
    reference = [Emission(1, 0, 2), Emission(2, 2, 1), Emission(3, 5, 4)]
    candidate = [Emission(1, 0, 3), Emission(7, 3, 1), Emission(3, 4, 4)]
    assert shift(reference, candidate) == Shift(
        tokens=2, starts_moved=1, start_frames=-1, start_frames_abs=1, ends_moved=2, end_frames=0, end_frames_abs=2
    )


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        ([], [], []),
        ([1], [], []),
        ([1, 2, 3], [1, 2, 3], [(0, 0), (1, 1), (2, 2)]),
        ([1, 2, 3], [2, 3, 4], [(1, 0), (2, 1)]),
        ([11, 1], [1, 11], [(0, 1)]),
    ],
)
def test_aligned(reference: list[int], candidate: list[int], expected: list[tuple[int, int]]) -> None:
    found = aligned(reference, candidate)
    assert found == expected or (len(found) == len(expected) and all(reference[i] == candidate[j] for i, j in found))
