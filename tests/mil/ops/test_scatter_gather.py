"""Gathering and scattering against loops over numpy arrays, written from the formulas of the ops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

COMBINE = {
    "update": lambda old, new: new,
    "add": lambda old, new: old + new,
    "sub": lambda old, new: old - new,
    "mul": lambda old, new: old * new,
    "div": lambda old, new: old / new,
    "max": np.maximum,
    "min": np.minimum,
}
X_DTYPES = ["float32", "float64", "int32", "int16", "int8", "uint8", "bool"]
INDEX_DTYPES = ["int32", "int16", "int8", "uint8"]

bounded = settings(max_examples=20, derandomize=True, deadline=None)
seeds = st.integers(0, 2**32 - 1)
lists = st.lists(st.integers(0, 3), max_size=2)


def values(rng, shape, dtype="float64"):
    return rng.integers(0, 100, shape).astype(dtype)


def indices_into(rng, size, shape, dtype="int32"):
    """Random positions, some of them counted from the end; none if the axis is empty."""
    low = 0 if np.dtype(dtype).kind == "u" else -size
    return rng.integers(low, size, shape).astype(dtype)


# ------------------------------------------------------------------ gather


@pytest.mark.parametrize("dtype", X_DTYPES)
@bounded
@given(data=st.data(), seed=seeds, shape=hnp.array_shapes(max_dims=4, max_side=4), index_shape=lists)
def test_gather(run, dtype, data, seed, shape, index_shape):
    """`result[.., i.., ..] = x[.., indices[i..], ..]`, for indices of any shape and dtype."""
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = values(rng, shape, dtype)
    indices = indices_into(rng, shape[axis], index_shape, data.draw(st.sampled_from(INDEX_DTYPES)))
    before, rank = axis % len(shape), len(index_shape)
    expected = np.empty((*shape[:before], *index_shape, *shape[before + 1 :]), dtype)
    for place in np.ndindex(*expected.shape):
        front, at, back = place[:before], place[before : before + rank], place[before + rank :]
        expected[place] = x[(*front, indices[at], *back)]
    result = run("gather", x=x, indices=indices, axis=axis)
    assert result.dtype == x.dtype
    np.testing.assert_array_equal(result, expected)


@bounded
@given(data=st.data(), seed=seeds, batch=st.lists(st.integers(0, 3), min_size=1, max_size=2), index_shape=lists)
def test_gather_with_batches(run, data, seed, batch, index_shape):
    """Each batch gathers from its own part."""
    rng = np.random.default_rng(seed)
    rest = data.draw(hnp.array_shapes(max_dims=2, max_side=4))
    axis = data.draw(st.integers(0, len(rest) - 1))
    x = values(rng, (*batch, *rest))
    indices = indices_into(rng, rest[axis], (*batch, *index_shape))
    shape = (*batch, *rest[:axis], *index_shape, *rest[axis + 1 :])
    expected = np.empty(shape)
    for b in np.ndindex(*batch):
        expected[b] = np.take(x[b], indices[b], axis)
    count = len(batch)
    for given_axis in (axis + count, axis - len(rest)):
        result = run("gather", x=x, indices=indices, axis=given_axis, batch_dims=count)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", X_DTYPES)
@bounded
@given(data=st.data(), seed=seeds, shape=hnp.array_shapes(max_dims=3, max_side=4), count=st.integers(0, 5))
def test_gather_along_axis(run, dtype, data, seed, shape, count):
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x, index_shape = values(rng, shape, dtype), list(shape)
    index_shape[axis] = count
    indices = indices_into(rng, shape[axis], index_shape, data.draw(st.sampled_from(INDEX_DTYPES)))
    expected = np.empty(index_shape, dtype)
    for place in np.ndindex(*index_shape):
        source = list(place)
        source[axis] = int(indices[place])
        expected[place] = x[tuple(source)]
    np.testing.assert_array_equal(run("gather_along_axis", x=x, indices=indices, axis=axis), expected)


@bounded
@given(data=st.data(), seed=seeds, batch=lists, index_shape=lists)
def test_gather_nd(run, data, seed, batch, index_shape):
    """`result[b, i..] = x[b, indices[b, i.., 0], indices[b, i.., 1], …]`."""
    rng = np.random.default_rng(seed)
    rest = data.draw(hnp.array_shapes(max_dims=3, max_side=3))
    depth = data.draw(st.integers(1, len(rest)))
    x = values(rng, (*batch, *rest))
    columns = [indices_into(rng, size, (*batch, *index_shape)) for size in rest[:depth]]
    indices = np.stack(columns, -1)
    expected = np.empty((*batch, *index_shape, *rest[depth:]))
    for place in np.ndindex(*batch, *index_shape):
        expected[place] = x[(*place[: len(batch)], *indices[place].tolist())]
    result = run("gather_nd", x=x, indices=indices, **({"batch_dims": len(batch)} if batch else {}))
    np.testing.assert_array_equal(result, expected)


# ------------------------------------------------------------------ scatter


def update_values(rng, shape):
    """Powers of two with signs: every product and quotient of them is exact, in any order."""
    return rng.choice([-2.0, -0.5, 0.5, 1.0, 4.0], shape)


@pytest.mark.parametrize("mode", COMBINE)
@bounded
@given(data=st.data(), seed=seeds, shape=hnp.array_shapes(max_dims=3, max_side=4), count=st.integers(0, 5))
def test_scatter(run, mode, data, seed, shape, count):
    """One slice after another is combined, so repeated indices add up and the last update stays."""
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    update_shape = list(shape)
    update_shape[axis] = count
    start, updates = values(rng, shape), update_values(rng, update_shape)
    indices = indices_into(rng, shape[axis], count)
    expected = start.copy()
    rows = np.moveaxis(expected, axis, 0)
    for place, update in zip(indices.tolist(), np.moveaxis(updates, axis, 0), strict=True):
        rows[place] = COMBINE[mode](rows[place], update)
    result = run("scatter", opset="CoreML5", data=start, indices=indices, updates=updates, axis=axis, mode=mode)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("mode", COMBINE)
@bounded
@given(data=st.data(), seed=seeds, shape=hnp.array_shapes(max_dims=3, max_side=4), count=st.integers(0, 5))
def test_scatter_along_axis(run, mode, data, seed, shape, count):
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    index_shape = list(shape)
    index_shape[axis] = count
    start, updates = values(rng, shape), update_values(rng, index_shape)
    indices = indices_into(rng, shape[axis], index_shape)
    expected = start.copy()
    for place in np.ndindex(*index_shape):
        target = list(place)
        target[axis] = int(indices[place])
        expected[tuple(target)] = COMBINE[mode](expected[tuple(target)], updates[place])
    result = run("scatter_along_axis", data=start, indices=indices, updates=updates, axis=axis, mode=mode)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("mode", COMBINE)
@bounded
@given(data=st.data(), seed=seeds, shape=hnp.array_shapes(max_dims=3, max_side=3), index_shape=lists)
def test_scatter_nd(run, mode, data, seed, shape, index_shape):
    rng = np.random.default_rng(seed)
    depth = data.draw(st.integers(1, len(shape)))
    indices = np.stack([indices_into(rng, size, index_shape) for size in shape[:depth]], -1)
    start, updates = values(rng, shape), update_values(rng, (*index_shape, *shape[depth:]))
    expected = start.copy()
    for place in np.ndindex(*index_shape):
        target = tuple(indices[place].tolist())
        expected[target] = COMBINE[mode](expected[target], updates[place])
    result = run("scatter_nd", data=start, indices=indices, updates=updates, mode=mode)
    np.testing.assert_array_equal(result, expected)


def test_updates_are_added_by_default(run):
    """An example from coremltools' documentation of `scatter`."""
    data, updates = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[5.0, 6, 7], [8, 9, 10]])
    expected = [[9, 11, 13], [9, 11, 13]]
    indices = np.array([1, 0], np.int32)
    np.testing.assert_array_equal(run("scatter", data=data, indices=indices, updates=updates), expected)
    np.testing.assert_array_equal(run("scatter_nd", data=data, indices=indices[:, None], updates=updates), expected)
    along = np.broadcast_to(indices[:, None], (2, 3))
    np.testing.assert_array_equal(run("scatter_along_axis", data=data, indices=along, updates=updates), expected)


@pytest.mark.parametrize("mode", COMBINE)
def test_scatter_of_integers(run, mode):
    """Quotients of integers are cut towards zero."""
    data, updates = np.array([7, -7, 100], np.int32), np.array([2, 2, -3], np.int32)
    result = run("scatter", data=data, indices=np.array([0, 1, 2], np.int32), updates=updates, mode=mode)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, np.trunc(COMBINE[mode](data, updates)))


@pytest.mark.parametrize("mode", ["max", "min"])
def test_nan_is_an_extremum(run, mode):
    data, updates = np.array([1, np.nan, 2]), np.array([np.nan, 1, np.inf])
    result = run("scatter", data=data, indices=np.arange(3, dtype=np.int32), updates=updates, mode=mode)
    np.testing.assert_array_equal(result, COMBINE[mode](data, updates))


# ------------------------------------------------------------------ indices outside the axis

DATA = np.arange(12.0).reshape(3, 4)
OPS = {
    "gather": lambda i: {"x": DATA, "indices": i},
    "gather_along_axis": lambda i: {"x": DATA, "indices": np.repeat(i[:, None], 4, 1)},
    "gather_nd": lambda i: {"x": DATA, "indices": i[:, None]},
    "scatter": lambda i: {"data": DATA, "indices": i, "updates": DATA[: i.size]},
    "scatter_along_axis": lambda i: {"data": DATA, "indices": np.repeat(i[:, None], 4, 1), "updates": DATA[: i.size]},
    "scatter_nd": lambda i: {"data": DATA, "indices": i[:, None], "updates": DATA[: i.size]},
}
"""Op → its inputs for row indices [N] into DATA."""


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("bad", [-1, 3, -4])
def test_validation_refuses_negative_indices_too(run, op, bad):
    with pytest.raises(IndexError, match="leave an axis of length 3"):
        run(op, **OPS[op](np.array([0, bad], np.int32)), validate_indices=True)
    run(op, **OPS[op](np.array([0, 2], np.int32)), validate_indices=True)


@pytest.mark.parametrize("op", [op for op in OPS if op != "scatter"])
@pytest.mark.parametrize("bad", [3, -4])
def test_without_validation_an_index_outside_the_axis_is_an_error_too(run, op, bad):
    with pytest.raises(IndexError, match="leave an axis of length 3"):
        run(op, **OPS[op](np.array([0, bad], np.int32)), validate_indices=False)


def test_without_validation_a_scatter_leaves_out_what_is_outside(run):
    indices = np.array([-1, 7, 1], np.int32)
    result = run("scatter", data=DATA, indices=indices, updates=DATA, mode="update", validate_indices=False)
    np.testing.assert_array_equal(result, [DATA[0], DATA[2], DATA[2]])


def test_nothing_to_gather_or_to_scatter(run):
    none = np.zeros(0, np.int32)
    assert run("gather", x=DATA, indices=none, axis=1).shape == (3, 0)
    np.testing.assert_array_equal(run("scatter", data=DATA, indices=none, updates=DATA[:0]), DATA)
    empty = np.zeros((0, 4))
    assert run("scatter", data=empty, indices=none, updates=empty).shape == (0, 4)
    batched = run("gather", x=np.zeros((0, 4, 2)), indices=np.zeros((0, 3), np.int32), axis=1, batch_dims=1)
    assert batched.shape == (0, 3, 2)
