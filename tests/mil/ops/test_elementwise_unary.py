"""Unary ops against their formulas in float64 numpy; casts against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layerdiff.mil.ops import elementwise_unary
from layerdiff.mil.ops.signature import Census, Out

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e30, -1e30])
RTOL = {"float32": 1e-6, "float64": 1e-14}

UNARY = {
    "abs": (np.abs, -1e3, 1e3),
    "acos": (np.arccos, -1, 1),
    "asin": (np.arcsin, -1, 1),
    "atan": (np.arctan, -1e3, 1e3),
    "atanh": (np.arctanh, -0.99, 0.99),
    "ceil": (np.ceil, -1e3, 1e3),
    "cos": (np.cos, -30, 30),
    "cosh": (np.cosh, -20, 20),
    "erf": (np.vectorize(math.erf, otypes=[float]), -4, 4),
    "exp": (np.exp, -20, 20),
    "exp2": (lambda x: 2.0**x, -20, 20),
    "floor": (np.floor, -1e3, 1e3),
    "inverse": (lambda x: 1 / (x + 1e-4), 0.01, 1e3),
    "log": (np.log, 1e-6, 1e6),  # the default epsilon only shows at 0
    "round": (np.round, -1e3, 1e3),
    "rsqrt": (lambda x: 1 / np.sqrt(x + 1e-12), 1e-6, 1e6),
    "sign": (np.sign, -1e3, 1e3),
    "sin": (np.sin, -30, 30),
    "sinh": (np.sinh, -20, 20),
    "sqrt": (np.sqrt, 0, 1e6),
    "square": (np.square, -1e3, 1e3),
    "tan": (np.tan, -1.5, 1.5),
    "tanh": (np.tanh, -10, 10),
}
"""Op → its formula, and the domain that it is tried on."""


def values(low, high, dtype):
    """Arrays of any rank, zero-length axes included, with values in [low, high]."""
    width = {"float32": 32, "float64": 64}[dtype]
    low, high = float(np.float32(low)), float(np.float32(high))
    return hnp.arrays(dtype, SHAPES, elements=st.floats(low, high, width=width, allow_subnormal=False))


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=12, derandomize=True, deadline=None)
@given(data=st.data())
def test_formula(run, op, dtype, data):
    formula, low, high = UNARY[op]
    x = data.draw(values(low, high, dtype))
    result = run(op, x=x)
    assert (result.dtype, result.shape) == (x.dtype, x.shape)
    np.testing.assert_allclose(result, formula(x.astype(np.float64)), rtol=RTOL[dtype], atol=RTOL[dtype])


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_infinity_and_zero_go_where_the_formula_sends_them(run, op, dtype):
    if op in ("sin", "cos", "tan"):
        special = SPECIAL[np.isnan(SPECIAL) | (np.abs(SPECIAL) < 1e9) | np.isinf(SPECIAL)]  # 1e30 is another in float32
    else:
        special = SPECIAL
    x = special.astype(dtype)
    with np.errstate(all="ignore"):
        expected = np.asarray(UNARY[op][0](x.astype(np.float64))).astype(dtype)
        if op == "log":  # 1e-45 is the smallest float32, so the logarithm of 0 is finite
            expected = np.log(x.astype(np.float64) + float(np.float32(1e-45)))
    result = run(op, x=x, epsilon=float(np.float32(1e-45))) if op == "log" else run(op, x=x)
    np.testing.assert_allclose(result, expected, rtol=RTOL[dtype], atol=RTOL[dtype])


@pytest.mark.parametrize("op", ["abs", "sign", "square"])
@settings(max_examples=20, derandomize=True, deadline=None)
@given(x=hnp.arrays(np.int32, SHAPES, elements=st.integers(-40_000, 40_000)))
def test_integers_stay_integers(run, op, x):
    result = run(op, x=x)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, UNARY[op][0](x.astype(np.int64)))


def test_a_power_of_two_of_an_integer_is_exact(run):
    np.testing.assert_array_equal(run("exp2", x=np.arange(-3, 31, dtype=np.int32)), 2.0 ** np.arange(-3, 31))


def test_halves_are_rounded_to_the_even_neighbour(run):
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    np.testing.assert_array_equal(run("round", x=x), [-2, -2, 0, 0, 2, 2])


@pytest.mark.parametrize("op", ["inverse", "log", "rsqrt"])
@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 0.5])
def test_epsilon_is_added_first(run, op, epsilon):
    x = np.array([0, 1e-3, 1, 100], np.float64)
    outer = {"inverse": lambda v: 1 / v, "log": np.log, "rsqrt": lambda v: 1 / np.sqrt(v)}[op]
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(run(op, x=x, epsilon=epsilon), outer(x + epsilon), rtol=1e-12)


def test_the_logarithm_of_zero_shows_the_epsilon(run):
    zero = np.zeros(1, np.float32)
    assert run("log", x=zero, epsilon=0.0).item() == -np.inf
    assert run("log", x=zero, epsilon=1.401298464324817e-45).item() == pytest.approx(-103.2789, abs=1e-3)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(x=values(-10, 10, "float32"), bounds=st.lists(st.floats(-8, 8, width=16), min_size=2, max_size=2))
def test_clip(run, x, bounds):
    """Before iOS17 alpha may lie above beta: then everything becomes beta."""
    alpha, beta = bounds
    np.testing.assert_array_equal(run("clip", x=x, alpha=alpha, beta=beta), np.minimum(np.maximum(x, alpha), beta))


def test_clip_of_nan_and_infinity(run):
    x = np.array([np.nan, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(run("clip", x=x, alpha=-1.0, beta=2.0), [np.nan, 2, -1])
    np.testing.assert_array_equal(run("clip", x=x, alpha=0.0, beta=np.inf), [np.nan, np.inf, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_threshold(run, dtype):
    x = np.array([[-3, 0], [2, 5]], dtype)
    result = run("threshold", x=x, alpha=2.0)
    assert result.dtype == x.dtype
    np.testing.assert_array_equal(result, [[2, 2], [2, 5]])


def test_threshold_of_nan_and_infinity(run):
    x = np.array([np.nan, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(run("threshold", x=x, alpha=0.25), [np.nan, np.inf, 0.25])


@given(x=hnp.arrays(bool, SHAPES))
@settings(max_examples=20, derandomize=True, deadline=None)
def test_logical_not(run, x):
    result = run("logical_not", x=x)
    assert result.dtype == bool
    np.testing.assert_array_equal(result, ~x)


# ------------------------------------------------------------------ cast


def cast(values, dtype, held):
    census = Census()
    result = elementwise_unary.cast(x=torch.tensor(values), dtype="ignored", out=Out("y", dtype, held), census=census)
    return result, census.integer_overflows.get("y", 0)


def test_casts_cut_towards_zero():
    result, overflows = cast([1.9, -1.9, 0.5], "int32", torch.int32)
    assert (result.tolist(), overflows) == ([1, -1, 0], 0)
    assert cast([True, False], "int32", torch.int32)[0].tolist() == [1, 0]
    assert cast([0.0, 0.5, torch.nan], "bool", torch.bool)[0].tolist() == [False, True, True]
    assert cast([-0.9, 255.9], "uint8", torch.uint8)[1] == 0


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(st.floats(-(2**31) + 256, 2**31 - 256, width=32), min_size=1, max_size=8))
def test_floats_inside_the_range_become_the_integer_that_python_takes(values):
    result, overflows = cast(values, "int32", torch.int32)
    assert (result.tolist(), overflows) == ([int(v) for v in values], 0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 2.0**31, -(2.0**31) - 256, 1e30])
def test_floats_that_no_integer_holds_are_counted(value):
    assert cast([1.0, value], "int32", torch.int32)[1] == 1


@pytest.mark.parametrize("source", ["int32", "uint8", "bool", "float32"])
@pytest.mark.parametrize("held", [torch.float32, torch.float64])
def test_casts_to_float(source, held):
    x = np.array([0, 1, 200]).astype(source)
    result, overflows = cast(x, "float32", held)
    assert (result.dtype, result.tolist(), overflows) == (held, x.astype(float).tolist(), 0)


@settings(max_examples=80, derandomize=True, deadline=None)
@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8),
    st.sampled_from(["int8", "int16", "int32", "uint8", "uint16", "uint32"]),
    st.sampled_from(["int32", "int64"]),
)
def test_integer_casts_wrap_as_in_numpy_and_are_counted(values, dtype, source):
    held = {"uint16": torch.int32, "uint32": torch.int64}.get(dtype, getattr(torch, dtype))
    array = np.array(values, source)
    result, overflows = cast(array, dtype, held)
    np.testing.assert_array_equal(result.numpy(), array.astype(dtype))
    info = np.iinfo(dtype)
    assert overflows == ((array < info.min) | (array > info.max)).sum()


@pytest.mark.parametrize("dtype", ["float16", "int32", "uint16", "bool"])
def test_a_cast_never_returns_its_input_because_the_engine_rounds_in_place(dtype):
    held = {"float16": torch.float32, "uint16": torch.int32}.get(dtype, getattr(torch, dtype))
    x = torch.ones(3, dtype=held)
    result = elementwise_unary.cast(x=x, dtype="ignored", out=Out("y", dtype, held), census=Census())
    assert result.data_ptr() != x.data_ptr()
