"""Reductions against sums, products and extrema in float64 and in Python's integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

OVER_ROWS = {
    "reduce_l1_norm": lambda row: sum(map(abs, row)),
    "reduce_l2_norm": lambda row: math.sqrt(math.fsum(v * v for v in row)),
    "reduce_log_sum": lambda row: math.log(math.fsum(row)) if math.fsum(row) > 0 else -math.inf,
    "reduce_log_sum_exp": lambda row: math.log(math.fsum(map(math.exp, row))) if row else -math.inf,
    "reduce_max": max,
    "reduce_mean": lambda row: math.fsum(row) / len(row) if row else math.nan,
    "reduce_min": min,
    "reduce_prod": math.prod,
    "reduce_sum": sum,
    "reduce_sum_square": lambda row: sum(v * v for v in row),
}
"""Op → its formula over the values that are reduced to one."""

POSITIVE = ("reduce_log_sum",)
NEEDS_A_VALUE = ("reduce_max", "reduce_min")
ARGUMENT = {"reduce_argmax": max, "reduce_argmin": min}

ops_and_dtypes = pytest.mark.parametrize(
    ("op", "dtype"), [(op, dtype) for op in OVER_ROWS for dtype in ("float32", "float64", "int32")]
)
bounded = settings(max_examples=20, derandomize=True, deadline=None)


def expected(op, x, axes, keep_dims):
    """The formula applied to every group of values, as an array of Python's numbers."""
    axes = sorted({axis % x.ndim for axis in axes})
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    shape = [x.shape[axis] for axis in kept]
    groups = x.transpose(*kept, *axes).reshape(math.prod(shape), math.prod(x.shape[axis] for axis in axes))
    results = np.array([OVER_ROWS[op](group) for group in groups.tolist()], np.float64)
    return results.reshape([1 if axis in axes else n for axis, n in enumerate(x.shape)] if keep_dims else shape)


def check(op, result, reference, dtype):
    assert result.shape == reference.shape
    if dtype == "int32":  # the engine cuts to the declared integer afterwards
        np.testing.assert_array_equal(np.trunc(result), np.trunc(reference))
    tolerance = 1e-13 if dtype == "float64" else 3e-6
    np.testing.assert_allclose(result, reference, rtol=tolerance, atol=tolerance)


@st.composite
def arrays(draw, op, dtype):
    low = 1 if op in POSITIVE else -6
    side = 1 if op in NEEDS_A_VALUE else 0
    whole = hnp.arrays(
        np.int32, hnp.array_shapes(min_dims=1, max_dims=4, min_side=side, max_side=3), elements=st.integers(low, 6)
    )
    values = draw(whole)
    return values if dtype == "int32" else (values / 4).astype(dtype)


@ops_and_dtypes
@bounded
@given(data=st.data(), keep_dims=st.booleans())
def test_formula(run, op, dtype, data, keep_dims):
    x = data.draw(arrays(op, dtype))
    axes = data.draw(st.lists(st.integers(0, x.ndim - 1), unique=True, max_size=x.ndim))
    signed = [axis - x.ndim if data.draw(st.booleans()) else axis for axis in axes]
    check(op, run(op, x=x, axes=tuple(signed), keep_dims=keep_dims), expected(op, x, signed, keep_dims), dtype)


@ops_and_dtypes
def test_all_axes_by_default(run, op, dtype):
    x = np.arange(1, 7).reshape(2, 3).astype(dtype)
    for keep_dims in (False, True):
        check(op, run(op, x=x, keep_dims=keep_dims), expected(op, x, (0, 1), keep_dims), dtype)


@ops_and_dtypes
def test_a_scalar_and_no_axes_reduce_each_element_by_itself(run, op, dtype):
    """As numpy does for `axis=()`; torch's own functions take an empty list for all axes."""
    x = np.arange(1, 7).reshape(2, 3).astype(dtype)
    for keep_dims in (False, True):
        check(
            op, run(op, x=x, axes=(), keep_dims=keep_dims), np.vectorize(lambda v: OVER_ROWS[op]([v]))(x * 1.0), dtype
        )
        scalar = np.array(3, dtype)
        check(op, run(op, x=scalar, keep_dims=keep_dims), np.array(float(OVER_ROWS[op]([3]))), dtype)


@pytest.mark.parametrize("op", NEEDS_A_VALUE)
def test_nothing_has_no_extremum(run, op):
    with pytest.raises(IndexError, match="non-zero size"):
        run(op, x=np.zeros((2, 0), np.float32), axes=(1,))
    assert run(op, x=np.zeros((2, 0), np.float32), axes=(0,)).shape == (0,)


@pytest.mark.parametrize(
    ("op", "row", "result"),
    [
        *((op, [1, np.nan], np.nan) for op in OVER_ROWS),
        ("reduce_sum", [np.inf, -np.inf], np.nan),
        ("reduce_mean", [np.inf, 1], np.inf),
        ("reduce_max", [-np.inf, -np.inf], -np.inf),
        ("reduce_min", [np.inf, -np.inf], -np.inf),
        ("reduce_l2_norm", [-np.inf, 1], np.inf),
        ("reduce_prod", [np.inf, 0], np.nan),
        ("reduce_log_sum", [0, 0], -np.inf),
        ("reduce_log_sum", [1, -2], np.nan),
        ("reduce_log_sum_exp", [-np.inf, -np.inf], -np.inf),
        ("reduce_log_sum_exp", [np.inf, 0], np.inf),
        ("reduce_log_sum_exp", [1000, 1000], 1000 + math.log(2)),
        ("reduce_log_sum_exp", [-1000, -1000], -1000 + math.log(2)),
    ],
)
def test_nan_infinity_and_large_values(run, op, row, result):
    np.testing.assert_allclose(run(op, x=np.array(row, np.float32), axes=(0,)), result, rtol=1e-6)


@pytest.mark.parametrize(
    ("op", "row", "result"),
    [
        ("reduce_l1_norm", [-(2**31)], 2**31),
        ("reduce_l2_norm", [2**20, 0], 2**20),
        ("reduce_log_sum", [3269017, 0], 14),  # 15 - 1e-7: rounding to float32 before the cut would give 15
        ("reduce_mean", [2**31 - 1, 2**31 - 1], 2**31 - 1),
        ("reduce_mean", [-3, 0], -1),
        ("reduce_prod", [2**20, 2**20], 2**40),
        ("reduce_sum", [2**31 - 1, 1], 2**31),
        ("reduce_sum_square", [2**20, 1], 2**40 + 1),
    ],
)
def test_integers_lose_nothing_before_they_are_brought_to_the_declared_dtype(run, op, row, result):
    assert int(run(op, x=np.array(row, np.int32), axes=(0,))) == result


@pytest.mark.parametrize("op", ARGUMENT)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@bounded
@given(data=st.data(), keep_dims=st.booleans())
def test_the_first_of_equal_extrema_is_named(run, op, dtype, data, keep_dims):
    x = data.draw(hnp.arrays(dtype, hnp.array_shapes(max_dims=3, max_side=40), elements=st.integers(-2, 2)))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    result = run(op, x=x, axis=axis, keep_dims=keep_dims)
    first = np.apply_along_axis(lambda row: row.tolist().index(ARGUMENT[op](row.tolist())), axis, x)
    np.testing.assert_array_equal(result, np.expand_dims(first, axis) if keep_dims else first)


@pytest.mark.parametrize("op", ARGUMENT)
def test_the_last_axis_by_default_and_nan_before_everything(run, op):
    x = np.array([[1, np.nan, 2], [3, 3, 3]], np.float32)
    np.testing.assert_array_equal(run(op, x=x), [1, 0])
    assert run(op, x=np.float32(3)) == 0
