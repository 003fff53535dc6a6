"""The slicing ops of `tensor_transformation` against numpy's own slices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DTYPES = st.sampled_from(["float32", "float64", "int32", "int16", "uint8", "bool"])
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5)


def numbered(shape, dtype="int32"):
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


@st.composite
def slices(draw, shapes=SHAPES):
    """An array, the parameters of a slice of it, and the same as numpy writes it."""
    x = numbered(draw(shapes), draw(DTYPES))
    index: list[slice | int] = []
    rows = []
    for size in x.shape:
        begin, end = (draw(st.integers(-size - 2, size + 2)) for _ in range(2))
        stride = draw(st.sampled_from([1, 1, 2, 3, -1, -2, 7]))
        begin_mask, end_mask, squeeze = draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 4)) == 0
        if squeeze:
            begin = draw(st.integers(-size, size - 1))
            index.append(0 if begin_mask else begin)
        else:
            index.append(slice(None if begin_mask else begin, None if end_mask else end, stride))
        rows.append((begin, end, stride, begin_mask, end_mask, squeeze))
    names = ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    return x, dict(zip(names, zip(*rows, strict=True), strict=True)), tuple(index)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(drawn=slices())
def test_slice_by_index(run, drawn):
    x, parameters, index = drawn
    result = run("slice_by_index", x=x, **parameters)
    assert (result.dtype, result.shape) == (x.dtype, x[index].shape)
    np.testing.assert_array_equal(result, x[index])


@settings(max_examples=200, derandomize=True, deadline=None)
@given(drawn=slices())
def test_slice_update_writes_where_slice_reads(run, drawn):
    x, parameters, index = drawn
    update = np.flip(numbered(x[index].shape)).astype(x.dtype)
    expected = x.copy()
    expected[index] = update
    result = run("slice_update", opset="CoreML8", x=x, update=update, **parameters)
    assert result.dtype == x.dtype
    np.testing.assert_array_equal(result, expected)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(shape=SHAPES, data=st.data())
def test_without_masks_and_stride_it_is_begin_to_end(run, shape, data):
    x = numbered(shape)
    begin, end = (tuple(data.draw(st.integers(0, n)) for n in shape) for _ in range(2))
    expected = x[tuple(map(slice, begin, end))]
    np.testing.assert_array_equal(run("slice_by_index", x=x, begin=begin, end=end), expected)
    updated = run("slice_update", opset="CoreML8", x=x, update=-expected - 1, begin=begin, end=end)
    np.testing.assert_array_equal(np.sort(updated[updated < 0]), np.sort((-expected - 1).flatten()))


@pytest.mark.parametrize("place", [3, -4, 100])
def test_a_single_element_outside_the_axis_is_an_error(run, place):
    """numpy refuses it too; a slice of length 0 would go on as an empty axis."""
    given = {"begin": (0, place), "end": (2, 0), "squeeze_mask": (False, True)}
    with pytest.raises(IndexError, match=f"index {place} leaves axis 1 of length 3"):
        run("slice_by_index", x=numbered((2, 3)), **given)
    with pytest.raises(IndexError, match=f"index {place} leaves axis 1 of length 3"):
        run("slice_update", opset="CoreML8", x=numbered((2, 3)), update=np.zeros(2, np.int32), **given)


def test_the_end_of_a_single_element_is_ignored(run):
    x = numbered((2, 3))
    for end in (-9, 0, 9):
        given = {"begin": (0, -1), "end": (2, end), "squeeze_mask": (False, True)}
        np.testing.assert_array_equal(run("slice_by_index", x=x, **given), x[:, -1])


def test_one_element_backwards(run):
    """An example from coremltools' tests that Core ML itself gets wrong (rdar://99664032)."""
    x = numbered((1, 3, 2))
    given = {"begin": (-1, 0, 0), "end": (-2, 0, 0), "stride": (-1, 1, 1)}
    masks = {"begin_mask": (False, True, True), "end_mask": (False, True, True)}
    np.testing.assert_array_equal(run("slice_by_index", x=x, **given, **masks), x)


def test_an_empty_axis_stays_empty(run):
    x = numbered((0, 3))
    given = {"begin": (0, 0), "end": (0, 2), "stride": (-1, 2), "begin_mask": (True, False), "end_mask": (True, False)}
    assert run("slice_by_index", x=x, **given).shape == (0, 1)
    assert run("slice_update", opset="CoreML8", x=x, update=x[:, :1], **given).shape == (0, 3)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(shape=SHAPES, data=st.data(), dtype=DTYPES)
def test_slice_by_size(run, shape, data, dtype):
    """`begin` may count from the end; a size of -1 takes the rest."""
    x = numbered(shape, dtype)
    first = [data.draw(st.integers(0, n - 1)) for n in shape]
    size = [data.draw(st.integers(1, n - i)) for n, i in zip(shape, first, strict=True)]
    expected = x[tuple(slice(i, i + s) for i, s in zip(first, size, strict=True))]
    begin = tuple(i - n if data.draw(st.booleans()) else i for n, i in zip(shape, first, strict=True))
    to_the_end = [i + s == n and data.draw(st.booleans()) for n, i, s in zip(shape, first, size, strict=True)]
    given_size = tuple(-1 if rest else s for s, rest in zip(size, to_the_end, strict=True))
    result = run("slice_by_size", x=x, begin=begin, size=given_size)
    assert result.dtype == x.dtype
    np.testing.assert_array_equal(result, expected)


def test_a_size_beyond_the_axis_is_an_error(run):
    with pytest.raises(RuntimeError, match="exceeds dimension size"):
        run("slice_by_size", x=numbered((2, 3)), begin=(0, 1), size=(2, 3))
