"""Binary ops over random shapes and values against numpy."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

INT32 = st.integers(-(2**31), 2**31 - 1)
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0, -1.0, 2.5, -3.0])

ARITHMETIC = {
    "add": np.add,
    "floor_div": lambda x, y: np.floor(x / y),
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mod": lambda x, y: x - np.floor(x / y) * y,
    "mul": np.multiply,
    "pow": np.power,
    "real_div": np.divide,
    "sub": np.subtract,
}
COMPARISON = {
    "equal": operator.eq,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "less": operator.lt,
    "less_equal": operator.le,
    "not_equal": operator.ne,
}
LOGICAL = {"logical_and": operator.and_, "logical_or": operator.or_, "logical_xor": operator.xor}

ANY = st.sampled_from(np.arange(-64, 64) / 8)
"""Multiples of 1/8: sums, products and floors of quotients of them are exact, so a floor has one answer."""
DOMAIN = {
    "pow": (st.sampled_from(np.arange(1, 32) / 8), ANY),
    **dict.fromkeys(["floor_div", "mod", "real_div"], (ANY, ANY.filter(bool))),
}

broadcast = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, min_side=0, max_side=3)
bounded = settings(max_examples=15, derandomize=True, deadline=None)


def draw_pair(data, dtype, elements):
    shapes = data.draw(broadcast)
    pair = zip(shapes.input_shapes, elements, strict=True)
    return shapes.result_shape, *(data.draw(hnp.arrays(dtype, shape, elements=e)) for shape, e in pair)


@pytest.mark.parametrize("op", ARITHMETIC)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@bounded
@given(data=st.data())
def test_arithmetic_broadcasts(run, op, dtype, data):
    shape, x, y = draw_pair(data, dtype, DOMAIN.get(op, (ANY, ANY)))
    result = run(op, x=x, y=y)
    assert (result.shape, result.dtype) == (shape, dtype)
    rtol = {"float32": 1e-6, "float64": 1e-14}[dtype]
    np.testing.assert_allclose(result, ARITHMETIC[op](x.astype(np.float64), y.astype(np.float64)), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("op", COMPARISON)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@bounded
@given(data=st.data())
def test_comparisons_broadcast(run, op, dtype, data):
    near = st.integers(-2, 2)  # so that many are equal
    shape, x, y = draw_pair(data, dtype, (near, near))
    result = run(op, x=x, y=y)
    assert (result.shape, result.dtype) == (shape, bool)
    np.testing.assert_array_equal(result, COMPARISON[op](x, y))


@pytest.mark.parametrize("op", LOGICAL)
@bounded
@given(data=st.data())
def test_logic_broadcasts(run, op, data):
    shape, x, y = draw_pair(data, bool, (st.booleans(), st.booleans()))
    result = run(op, x=x, y=y)
    assert (result.shape, result.dtype) == (shape, bool)
    np.testing.assert_array_equal(result, LOGICAL[op](x, y))


@pytest.mark.parametrize("op", LOGICAL)
def test_truth_tables(run, op):
    x, y = np.array([False, False, True, True]), np.array([False, True, False, True])
    table = {"logical_and": [0, 0, 0, 1], "logical_or": [0, 1, 1, 1], "logical_xor": [0, 1, 1, 0]}[op]
    np.testing.assert_array_equal(run(op, x=x, y=y), np.array(table, bool))


# ------------------------------------------------------------------ NaN and infinity


@pytest.mark.parametrize("op", [*ARITHMETIC, *COMPARISON])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_infinity_and_zero(run, op, dtype):
    """Against numpy's own op; NaN comes out of `maximum` and `minimum` wherever it goes in."""
    own = {"floor_div": np.floor_divide, "mod": np.mod}
    x, y = SPECIAL[:, None].astype(dtype), SPECIAL[None, :].astype(dtype)
    with np.errstate(all="ignore"):
        expected = (ARITHMETIC | own | COMPARISON)[op](x, y)
    np.testing.assert_allclose(run(op, x=x, y=y), expected, rtol=1e-6)


# ------------------------------------------------------------------ integers

WRAPPED = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "maximum": max,
    "minimum": min,
    "floor_div": operator.floordiv,
    "mod": operator.mod,
}
"""Op → its meaning for Python's integers, which have no bounds."""


@pytest.mark.parametrize("op", WRAPPED)
@settings(max_examples=40, derandomize=True, deadline=None)
@given(x=INT32, y=st.one_of(st.integers(-5, 5), INT32).filter(bool))
def test_integers_stay_integers_and_wrap(run, op, x, y):
    result = run(op, x=np.array([x], np.int32), y=np.array([y], np.int32))
    assert result.dtype == np.int32
    assert result.item() == (WRAPPED[op](x, y) + 2**31) % 2**32 - 2**31


@settings(max_examples=40, derandomize=True, deadline=None)
@given(x=INT32, y=INT32.filter(bool))
def test_division_of_integers_is_exact_before_it_is_cut(run, x, y):
    """The engine cuts the quotient towards zero, so it has to be on the right side of every integer."""
    quotient = run("real_div", x=np.array([x], np.int32), y=np.array([y], np.int32)).item()
    assert int(quotient) == (abs(x) // abs(y)) * (1 if (x < 0) == (y < 0) else -1)
    assert quotient == x / y


@settings(max_examples=40, derandomize=True, deadline=None)
@given(x=st.integers(-20, 20), y=st.integers(0, 7))
def test_powers_of_integers(run, x, y):
    result = run("pow", x=np.array([x], np.int32), y=np.array([y], np.int32))
    assert (result.dtype, result.item()) == (np.int32, x**y)


def test_a_negative_power_of_an_integer_is_cut_towards_zero(run):
    x, y = np.array([1, -1, -1, 2, -3], np.int32), np.array([-1, -1, -2, -1, -3], np.int32)
    np.testing.assert_array_equal(run("pow", x=x, y=y), np.trunc(x.astype(float) ** y))


@pytest.mark.parametrize("op", ["floor_div", "mod"])
def test_an_integer_divided_by_zero_is_an_error(run, op):
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run(op, x=np.array([1], np.int32), y=np.array([0], np.int32))
