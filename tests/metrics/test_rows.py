"""Rows without copies, blocks of bounded size, and sums that know nothing of their surroundings."""

import itertools
import math

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
        np.zeros((4, 3, 5)).swapaxes(0, 1),
        np.zeros((5, 4, 3)).T,
        np.zeros((3, 1, 4, 5))[:, 0],
        np.zeros((6, 4, 5))[::2],
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


def test_a_contiguous_tensor_is_one_matrix():
    assert [part.shape for (part,) in rows.matrices(np.zeros((2, 1, 3, 4)))] == [(6, 4)]


@pytest.mark.parametrize("length", [1, 5, 15, 16, 511, 512, 2047, 2048, 2560, 8198])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_sums_are_accurate_and_independent_of_their_surroundings(length, count):
    flat = np.random.default_rng(length).standard_normal((3, count * length))
    stored = rows.shaped(np.empty_like(flat), rows=count, length=length)
    stored[...] = values = flat.reshape(3, count, length)
    sums, products = rows.row_sums(stored), rows.row_products(stored, stored[::-1])
    for k in range(3):
        for row in range(count):
            alone = rows.shaped(np.empty((1, length)), rows=1, length=length)
            other = rows.shaped(np.empty((1, length)), rows=1, length=length)
            alone[...], other[...] = values[k, row], values[2 - k, row]
            assert rows.row_sums(alone)[0, 0] == sums[k, row]
            assert rows.row_products(alone, other)[0, 0] == products[k, row]
            assert sums[k, row] == pytest.approx(math.fsum(values[k, row]), rel=1e-11, abs=1e-12)
            exact = math.fsum((values[k, row] * values[2 - k, row]).tolist())
            assert products[k, row] == pytest.approx(exact, rel=1e-11, abs=1e-12)


def test_narrow_rows_are_stored_transposed():
    flat = np.empty((2, 30))
    view = rows.shaped(flat, rows=6, length=5)
    assert view.shape == (2, 6, 5)
    assert np.shares_memory(view, flat)
    assert view[0, :, 0].strides == (8,)
