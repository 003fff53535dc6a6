"""Activations against their formulas in float64 numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
CHANNELS = hnp.array_shapes(min_dims=3, max_dims=5, min_side=1, max_side=3)
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 7.0]
TOLERANCE = {"float32": {"rtol": 2e-6, "atol": 5e-7}, "float64": {"rtol": 1e-13, "atol": 1e-14}}

erf = np.vectorize(math.erf, otypes=[float])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


GELU = {
    "EXACT": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "TANH_APPROXIMATION": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "SIGMOID_APPROXIMATION": lambda x: x * sigmoid(1.702 * x),
}

PLAIN = {
    "gelu": GELU["EXACT"],
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
}
"""Op → its formula."""

WITH_ALPHA = {
    "elu": lambda x, a: np.where(x > 0, x, a * (np.exp(x) - 1)),
    "leaky_relu": lambda x, a: np.where(x >= 0, x, a * x),
    "thresholded_relu": lambda x, a: np.where(x >= a, x, 0),
}
WITH_BOTH = {
    "clamped_relu": lambda x, a, b: np.where(x >= 0, np.minimum(b, x), np.minimum(b, a * x)),
    "linear_activation": lambda x, a, b: x * a + b,
    "scaled_tanh": lambda x, a, b: a * np.tanh(b * x),
    "sigmoid_hard": lambda x, a, b: np.minimum(np.maximum(a * x + b, 0), 1),
}
"""Op → its formula with the parameters alpha and beta."""

parameters = st.sampled_from([-1.5, -0.25, 0.0, 0.125, 0.5, 1.0, 3.0])
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
few = settings(max_examples=15, derandomize=True, deadline=None)


@st.composite
def floats(draw, dtype, shapes=SHAPES):
    width = {"float32": 32, "float64": 64}[dtype]
    return draw(hnp.arrays(dtype, shapes, elements=st.floats(-12, 12, width=width, allow_subnormal=False)))


def check(result, expected, x):
    assert (result.dtype, result.shape) == (x.dtype, x.shape)
    np.testing.assert_allclose(result, expected, **TOLERANCE[str(x.dtype)])


@pytest.mark.parametrize("op", PLAIN)
@dtypes
@few
@given(data=st.data())
def test_formula(run, op, dtype, data):
    x = data.draw(floats(dtype))
    check(run(op, x=x), PLAIN[op](x.astype(np.float64)), x)


@pytest.mark.parametrize("op", WITH_ALPHA)
@dtypes
@few
@given(data=st.data(), alpha=parameters)
def test_formula_with_alpha(run, op, dtype, data, alpha):
    x = data.draw(floats(dtype))
    check(run(op, x=x, alpha=alpha), WITH_ALPHA[op](x.astype(np.float64), alpha), x)


@pytest.mark.parametrize("op", WITH_BOTH)
@dtypes
@few
@given(data=st.data(), alpha=parameters, beta=parameters)
def test_formula_with_alpha_and_beta(run, op, dtype, data, alpha, beta):
    x = data.draw(floats(dtype))
    check(run(op, x=x, alpha=alpha, beta=beta), WITH_BOTH[op](x.astype(np.float64), alpha, beta), x)


@pytest.mark.parametrize("mode", GELU)
@dtypes
@few
@given(data=st.data())
def test_gelu(run, mode, dtype, data):
    x = data.draw(floats(dtype))
    check(run("gelu", x=x, mode=mode), GELU[mode](x.astype(np.float64)), x)


def test_the_tail_of_gelu_keeps_its_digits(run):
    """0.5 * x * (1 + erf) cancels there: torch's float32 gelu is 17 % off at -5."""
    x = np.array([-3, -5, -8], np.float32)
    expected = [0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.tolist()]
    np.testing.assert_allclose(run("gelu", x=x), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("op", "formula", "given"),
    [
        *((op, formula, {}) for op, formula in PLAIN.items()),
        *((op, formula, {"alpha": 0.5}) for op, formula in WITH_ALPHA.items()),
        *((op, formula, {"alpha": 0.5, "beta": 0.25}) for op, formula in WITH_BOTH.items()),
        *(("gelu", formula, {"mode": mode}) for mode, formula in GELU.items()),
    ],
)
@pytest.mark.parametrize("repeats", [1, 16])  # 16: beyond the width at which torch takes its vectorised form
def test_nan_infinity_and_zero_go_where_the_formula_sends_them(run, op, formula, given, repeats):
    x = np.array(SPECIAL * repeats)
    with np.errstate(all="ignore"):
        expected = formula(x, *(v for k, v in given.items() if k != "mode"))
    for dtype in TOLERANCE:
        check(run(op, x=x.astype(dtype), **given), expected, x.astype(dtype))


@pytest.mark.parametrize("op", ["softplus", "silu", "sigmoid", "gelu"])
def test_nothing_overflows_on_the_way(run, op):
    x = np.array([-1e4, -200, 200, 1e4], np.float32)
    limits = {"sigmoid": [0, 0, 1, 1]}.get(op, [0, 0, 200, 1e4])
    np.testing.assert_array_equal(run(op, x=x), limits)


# ------------------------------------------------------------------ parameters per channel


def along_channels(parameter, x):
    return parameter.reshape(1, -1, *[1] * (x.ndim - 2)).astype(np.float64)


@dtypes
@few
@given(data=st.data())
def test_prelu(run, dtype, data):
    x = data.draw(floats(dtype, CHANNELS))
    alpha = data.draw(hnp.arrays(dtype, x.shape[1], elements=st.sampled_from([-1.0, 0.0, 0.25, 2.0])))
    expected = np.where(x > 0, x, along_channels(alpha, x) * x)
    check(run("prelu", x=x, alpha=alpha), expected, x)


@dtypes
@few
@given(data=st.data())
def test_softplus_parametric(run, dtype, data):
    x = data.draw(floats(dtype, CHANNELS))
    alpha, beta = (data.draw(hnp.arrays(dtype, x.shape[1], elements=parameters)) for _ in range(2))
    expected = along_channels(alpha, x) * np.log1p(np.exp(along_channels(beta, x) * x))
    check(run("softplus_parametric", x=x, alpha=alpha, beta=beta), expected, x)


def test_prelu_of_nan_and_infinity(run):
    x = np.array([[[np.nan, np.inf, -np.inf]]], np.float32)
    np.testing.assert_array_equal(run("prelu", x=x, alpha=np.array([0.5], np.float32)), x)


# ------------------------------------------------------------------ softmax


@dtypes
@few
@given(data=st.data())
def test_softmax(run, dtype, data):
    x = data.draw(floats(dtype, hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    powers = np.exp(x.astype(np.float64))
    check(run("softmax", x=x, axis=axis), powers / powers.sum(axis, keepdims=True), x)


def test_softmax_along_the_last_axis_by_default(run):
    x = np.array([[0.0, np.log(3)], [1, 1]])
    np.testing.assert_allclose(run("softmax", x=x), [[0.25, 0.75], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([-np.inf, 0.0], [0, 1]),
        ([-np.inf, -np.inf], [np.nan, np.nan]),  # what a mask does that leaves nothing
        ([np.inf, 0.0], [np.nan, np.nan]),
        ([np.nan, 0.0], [np.nan, np.nan]),
        ([1e30, 1e30], [0.5, 0.5]),
    ],
)
def test_softmax_of_extreme_rows(run, row, expected):
    np.testing.assert_array_equal(run("softmax", x=np.array(row, np.float32)), expected)
