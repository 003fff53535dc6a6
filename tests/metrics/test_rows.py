"""Rows without copies, and blocks of bounded size."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerdiff.metrics import rows


@given(st.integers(1, 300), st.integers(1, 4000))
def test_blocks_cover_every_element_once_within_bounds(count, length):
    seen = 0
    for place, segment, columns in rows.blocks(count, length):
        size = (place.stop - place.start) * (columns.stop - columns.start)
        assert 0 < size <= rows.SEGMENT
        assert segment == 0
        seen += size
    assert seen == count * length


@pytest.mark.parametrize("length", [rows.SEGMENT + 1, 2 * rows.SEGMENT, 5 * rows.SEGMENT - 3])
def test_long_rows_are_cut_at_multiples_of_the_segment(length):
    found = [(place.start, segment, columns.start, columns.stop) for place, segment, columns in rows.blocks(2, length)]
    starts = range(0, length, rows.SEGMENT)
    expected = [(row, i, a, min(a + rows.SEGMENT, length)) for row in range(2) for i, a in enumerate(starts)]
    assert found == expected
    assert rows.segments(length) == len(starts)


@given(st.integers(1, 20_000), st.integers(1, 300_000))
def test_groups_cover_every_row_once(count, length):
    borders = [(group.start, group.stop) for group in rows.groups(count, length)]
    assert borders[0][0] == 0
    assert borders[-1][1] == count
    assert all(left[1] == right[0] for left, right in itertools.pairwise(borders))
    assert all((stop - start) * rows.segments(length) <= rows.GROUP_ROWS for start, stop in borders)


@pytest.mark.parametrize(
    "view",
    [
        np.zeros((3, 4, 5)),
        np.zeros((3, 4, 9))[..., 4:],
        np.zeros((3, 2, rows.SEGMENT // 2)).swapaxes(0, 1),
        np.zeros((3, 1, 4, 5))[:, 0],
        np.broadcast_to(np.zeros(5), (3, 4, 5)),
        np.zeros(7),
        np.zeros(14)[::2],
        np.zeros(()),
    ],
)
def test_matrices_never_copy(view):
    parts = [part for (part,) in rows.matrices(view)]
    assert all(part.ndim == 2 and np.shares_memory(part, view) for part in parts)
    assert sum(part.size for part in parts) == view.size


@pytest.mark.parametrize(
    "view",
    [
        np.arange(60.0).reshape(4, 3, 5).swapaxes(0, 1),
        np.arange(60.0).reshape(5, 4, 3).T,
        np.arange(120.0).reshape(6, 4, 5)[::2],
        np.arange(7 * 30 * 1000.0).reshape(7, 30, 1000).swapaxes(0, 1),
        np.arange(2 * 50 * 40 * 60.0).reshape(2, 50, 40, 60).transpose(0, 2, 1, 3),
    ],
)
def test_small_matrices_are_gathered_in_order_and_bounds(view):
    parts = [part for (part,) in rows.matrices(view)]
    assert all(part.ndim == 2 and part.size <= rows.SEGMENT for part in parts)
    assert len(parts) <= 2 * -(-view.size // rows.SEGMENT)
    assert np.array_equal(np.concatenate(parts), view.reshape(-1, view.shape[-1]))


def test_a_contiguous_tensor_is_one_matrix():
    assert [part.shape for (part,) in rows.matrices(np.zeros((2, 1, 3, 4)))] == [(6, 4)]
