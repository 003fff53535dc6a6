"""Layouts: what was done to a random tensor is found again and undone."""

from __future__ import annotations

from math import inf, prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.align.layouts import MAX_AXES, PART, PARTS, Layout, _parts, distance, find, plain, possible

Array = Any
LENGTHS = st.lists(st.integers(2, 4), min_size=1, max_size=4)
SHAPES = st.lists(st.integers(1, 4), min_size=0, max_size=4).map(tuple)


def random(shape: Any) -> Array:
    return np.random.default_rng(prod(shape)).standard_normal(tuple(shape))


def merged(values: Array, at: int) -> Array:
    """Two neighbouring axes as one."""
    shape = values.shape
    return values.reshape(*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])


def assert_found(reference: Array, candidate: Array) -> Layout:
    """The layout that is found gives back every value, in both directions."""
    layout, error = find(reference=reference, candidate=candidate)
    assert layout is not None
    assert error == 0
    np.testing.assert_array_equal(layout.apply(candidate, reference.shape), reference)
    np.testing.assert_array_equal(layout.invert(reference, candidate), candidate)
    return layout


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.randoms(use_true_random=False))
def test_a_permutation_is_found(shape: tuple[int, ...], chance: Any) -> None:
    axes = chance.sample(range(len(shape)), len(shape))
    assert_found(random(shape), random(shape).transpose(axes))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=2, max_size=4), st.data())
def test_a_permutation_and_a_merge_or_a_split_are_found(lengths: list[int], data: Any) -> None:
    values = random(lengths)
    axes = data.draw(st.permutations(range(len(lengths))))
    flat = merged(values.transpose(axes), data.draw(st.integers(0, len(lengths) - 2)))
    assert_found(values, flat)
    assert_found(flat, values)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.data())
def test_axes_of_length_one_do_not_matter(lengths: list[int], data: Any) -> None:
    values = random(lengths)
    axis = data.draw(st.integers(0, len(lengths)))
    assert assert_found(values, np.expand_dims(values, axis)).is_plain
    assert assert_found(np.expand_dims(values, axis), values).is_plain


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.data())
def test_a_surplus_is_cut_off_also_from_permuted_axes(lengths: list[int], data: Any) -> None:
    surplus = [data.draw(st.integers(0, 2)) for _ in lengths]
    axes = data.draw(st.permutations(range(len(lengths))))
    whole = random([a + b for a, b in zip(lengths, surplus, strict=True)])
    values = whole[tuple(slice(length) for length in lengths)]
    layout = assert_found(values, whole.transpose(axes))
    assert layout.cropped == any(surplus)
    changed = whole.copy()
    changed[tuple(slice(length) for length in lengths)] += 1
    np.testing.assert_array_equal(layout.invert(values + 1, whole.transpose(axes)), changed.transpose(axes))
    wide = whole.transpose(axes)
    wrong = layout.invert(-values, wide)
    assert find(reference=values, candidate=wrong)[0] is not None
    assert not layout.cropped or find(reference=values, candidate=wrong, padded=False) == (None, inf)


@settings(max_examples=60, deadline=None)
@given(SHAPES, SHAPES)
def test_every_layout_that_fits_can_be_applied_and_inverted(reference: tuple[int, ...], other: tuple[int, ...]) -> None:
    values = random(reference)
    for layout in possible(reference, other):
        moved = layout.invert(values, random(other))
        assert moved.shape == other
        np.testing.assert_array_equal(layout.apply(moved, reference), values)


@settings(max_examples=40, deadline=None)
@given(SHAPES)
def test_equal_tensors_have_the_plain_layout(shape: tuple[int, ...]) -> None:
    layout = assert_found(random(shape), random(shape))
    assert layout == plain(reference=len(shape), candidate=len(shape))
    assert layout.describe(reference=shape, candidate=shape) == ""


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [((2, 3), (7,)), ((4, 6), (3, 8)), ((5,), (4,)), ((2, 3, 4), (2, 3)), ((3,), (0,)), ((2,) * 7, (2,) * 7)],
)
def test_nothing_is_found_for_shapes_that_do_not_come_together(reference: Any, candidate: Any) -> None:
    assert find(reference=random(reference), candidate=random(candidate)) == (None, inf)


def test_permutations_are_tried_up_to_the_limit_of_axes() -> None:
    values = random([2] * MAX_AXES)
    assert_found(values, values.transpose(range(MAX_AXES - 1, -1, -1)))


def test_a_square_matrix_is_read_by_its_values_not_by_its_shape() -> None:
    values = random((5, 5))
    assert not assert_found(values, np.ascontiguousarray(values.T)).is_plain
    noisy = values + 0.1 * random((5, 5))[::-1]
    assert find(reference=values, candidate=noisy)[0] == plain(reference=2, candidate=2)


def test_the_plain_layout_stays_where_another_one_is_only_a_little_nearer() -> None:
    reference = np.array([[0.0, 1.0], [2.0, 0.0]])
    candidate = np.array([[0.0, 1.6], [1.4, 0.0]])  # relative errors 0.38, and 0.25 transposed
    plainly = distance(reference, candidate, plain(reference=2, candidate=2))
    transposed = distance(reference, candidate, Layout((1, 0), (0, 1)))
    assert 0.25 < transposed < plainly < 2 * transposed
    assert find(reference=reference, candidate=candidate)[0] == plain(reference=2, candidate=2)


@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.float32])
def test_other_dtypes_are_found_too(dtype: Any) -> None:
    values = (random((3, 4)) > 0).astype(dtype)
    assert assert_found(values, values.T).candidate_axes == (1, 0)


def test_the_distance_is_the_relative_error_and_infinite_where_it_is_undefined() -> None:
    values, same = np.array([3.0, 4.0]), plain(reference=1, candidate=1)
    assert distance(values, np.array([3.0, 5.0]), same) == pytest.approx(1 / 5)
    assert distance(np.zeros(2), np.zeros(2), same) == 0
    assert distance(np.zeros(2), values, same) == inf
    assert distance(values, np.array([np.nan, 4.0]), same) == inf
    assert distance(np.array([np.inf, 1.0]), np.array([np.inf, 1.0]), same) == inf


@pytest.mark.parametrize(
    ("layout", "reference", "candidate", "text"),
    [
        (Layout((0, 1), (0, 1)), (2, 3), (2, 3), ""),
        (Layout((1, 0), (0, 1)), (3, 3), (3, 3), "[3, 3] read as [3, 3]: axes (1, 0)"),
        (Layout((0, 1), (0,)), (6,), (2, 3), "[2, 3] read as [6]"),
        (Layout((0,), (1, 0)), (2, 3), (6,), "[6] read as [2, 3]: axes of the reference (1, 0)"),
        (
            Layout((0, 2, 1), (0, 1, 2), cropped=True),
            (1, 5, 4),
            (1, 4, 8),
            "[1, 4, 8] read as [1, 5, 4]: axes (0, 2, 1), surplus cut off",
        ),
    ],
)
def test_a_layout_says_what_is_done(layout: Layout, reference: Any, candidate: Any, text: str) -> None:
    assert layout.describe(reference=reference, candidate=candidate) == text


@pytest.mark.parametrize("shape", [(3, 900, 1100), (5000, 3, 200), (1, 1, 3_000_000), (2, 4)])
def test_a_large_tensor_is_judged_by_parts_spread_over_it(shape: tuple[int, ...]) -> None:
    """At most a million values, from one end to the other, and the layout is found all the same."""
    parts = list(_parts(shape))
    whole = np.zeros(shape, np.uint8)
    for part in parts:
        whole[part] += 1
    assert whole.max() == 1
    assert whole.sum() == prod(shape) if prod(shape) <= PART else PART < whole.sum() <= 1.2 * PARTS * PART
    assert whole.reshape(-1)[0] == whole.reshape(-1)[-1] == 1
    values = random(shape).astype(np.float32)
    axes = tuple(np.roll(range(len(shape)), 1))
    assert_found(values, values.transpose(axes))
