from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerdiff.decode.greedy import Emission
from layerdiff.decode.windows import Window, Windowing, merged, seams

SHIPPED = Windowing(240_000, 1280, 160, overlap_frames=25)
"""The window of shipped Parakeet packages."""


def test_the_shipped_window() -> None:
    assert SHIPPED.windows(240_000) == [Window(0, 188)]
    first, second, third = SHIPPED.windows(500_000)
    assert (first, second) == (Window(0, 186), Window(161, 347, 1))
    assert third == Window(322, 391, 1)
    for window in (first, second, third):
        part = SHIPPED.samples(window)
        assert part.stop - part.start <= 240_000 - 160
    assert SHIPPED.samples(second).start == 160 * 1280  # one frame of context


@given(st.integers(1, 2_000_000), st.integers(4_000, 300_000), st.integers(0, 60), st.integers(0, 3))
def test_windows_cover_every_frame(samples: int, limit: int, overlap: int, context: int) -> None:
    windowing = Windowing(limit, 1280, 160, overlap, context)
    windows = windowing.windows(samples)
    assert windows[0].start == 0
    assert windows[-1].stop == -(-samples // 1280)
    for left, right in itertools.pairwise(windows):
        assert left.start < right.start <= left.stop
        assert right.stop > left.stop
        assert left.stop - right.start == windowing.overlap
    contributed = seams(windows)
    assert contributed[0][0] == 0
    assert contributed[-1][1] == windows[-1].stop
    for (start, stop), window, after in zip(contributed, windows, [*contributed[1:], None], strict=True):
        assert window.start <= start <= stop <= window.stop
        assert after is None or after[0] == stop


def emissions(*pairs: tuple[int, int]) -> tuple[Emission, ...]:
    return tuple(Emission(token, frame, 1) for token, frame in pairs)


@given(st.integers(0, 2**32), st.none() | st.integers(1, 12), st.integers(2, 40))
def test_cutting_and_merging_gives_back_the_sequence(seed: int, vocabulary: int | None, overlap: int) -> None:
    """Windows that hear the same in their overlap merge into what was cut; without a vocabulary no token is repeated.

    Of repeated tokens two runs can be taken for each other, so that only the order of the frames is sure.
    """
    rng = random.Random(seed)
    whole, frame = [], 0
    for place in range(rng.randrange(60)):
        frame += rng.randrange(1, 6)
        whole.append(Emission(place if vocabulary is None else rng.randrange(vocabulary), frame, 1))
    stride = overlap + rng.randrange(1, 40)
    pieces = [
        [e for e in whole if start <= e.frame < start + stride + overlap] for start in range(0, frame + 1, stride)
    ]
    again = merged(pieces, overlap=overlap)
    if vocabulary is None:
        assert again == tuple(whole)
    assert [e.frame for e in again] == sorted(e.frame for e in again)


def test_a_run_of_equal_tokens_is_spliced_over_small_shifts() -> None:
    left = emissions((1, 0), (2, 10), (3, 20), (4, 24), (5, 28))
    right = emissions((3, 21), (4, 25), (5, 28), (6, 33))
    assert [e.token for e in merged([left, right], overlap=12)] == [1, 2, 3, 4, 5, 6]


def test_tokens_that_one_side_missed_are_kept_where_no_run_is_long_enough() -> None:
    left = emissions((1, 0), (3, 20), (5, 24), (7, 28), (2, 32))
    right = emissions((3, 20), (4, 22), (5, 24), (6, 26), (7, 28), (9, 30), (2, 32), (8, 40))
    assert [e.token for e in merged([left, right], overlap=16)] == [1, 3, 4, 5, 6, 7, 9, 2, 8]


def test_without_any_match_the_middle_of_the_overlap_parts_the_sides() -> None:
    left = emissions((1, 0), (2, 20), (3, 26))
    right = emissions((7, 20), (8, 26), (9, 40))
    assert [e.token for e in merged([left, right], overlap=10)] == [1, 2, 8, 9]


def test_frames_never_go_back() -> None:
    left = emissions((1, 0), (2, 20), (3, 24))
    right = emissions((2, 18), (3, 21), (4, 22))
    frames = [e.frame for e in merged([left, right], overlap=10)]
    assert frames == sorted(frames)


@pytest.mark.parametrize("pieces", [[], [()], [(), ()]])
def test_nothing_said(pieces: list[tuple[Emission, ...]]) -> None:
    assert merged(pieces, overlap=10) == ()


def test_silent_windows_between() -> None:
    left, right = emissions((1, 0)), emissions((2, 90))
    assert merged([left, (), right], overlap=10) == left + right
