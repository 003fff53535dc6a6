"""Unary ops over random shapes and values against numpy in float64; casts against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layerdiff.mil import ops
from layerdiff.mil.ops import elementwise_unary
from layerdiff.mil.ops.signature import Census, Out

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=4)
NEAR = st.floats(-4, 4, width=32, allow_subnormal=False)

UNARY = {
    "abs": np.abs, "atan": np.arctan, "ceil": np.ceil, "cos": np.cos, "cosh": np.cosh, "exp": np.exp,
    "exp2": np.exp2, "floor": np.floor, "round": np.round, "sign": np.sign, "sin": np.sin, "sinh": np.sinh,
    "square": np.square, "tanh": np.tanh, "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(x, 0), "softsign": lambda x: x / (1 + np.abs(x)),
}  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
@settings(max_examples=15, derandomize=True, deadline=None)
@given(x=hnp.arrays(np.float32, SHAPES, elements=NEAR))
def test_unary(op, x):
    result = ops.KERNELS[op](x=torch.from_numpy(x)).numpy()
    assert result.shape == x.shape
    np.testing.assert_allclose(result, UNARY[op](x.astype(np.float64)), rtol=2e-6, atol=1e-6)


def test_nan_and_infinity_flow():
    x = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert torch.isnan(elementwise_unary.clip(x=x, alpha=-1.0, beta=1.0)).tolist() == [True, False, False]


def test_the_logarithm_of_zero_shows_the_epsilon():
    zero = torch.zeros(1)
    assert elementwise_unary.log(x=zero, epsilon=0.0).item() == -torch.inf
    assert elementwise_unary.log(x=zero, epsilon=1.401298464324817e-45).item() == pytest.approx(-103.2789, abs=1e-3)


def cast(values, dtype, held):
    census = Census()
    result = elementwise_unary.cast(x=torch.tensor(values), dtype="ignored", out=Out("y", dtype, held), census=census)
    return result, census.integer_overflows.get("y", 0)


def test_casts_cut_towards_zero():
    result, overflows = cast([1.9, -1.9, 0.5], "int32", torch.int32)
    assert (result.tolist(), overflows) == ([1, -1, 0], 0)
    assert cast([True, False], "int32", torch.int32)[0].tolist() == [1, 0]
    assert cast([0.0, 0.5, torch.nan], "bool", torch.bool)[0].tolist() == [False, True, True]


@settings(max_examples=80, derandomize=True, deadline=None)
@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8),
    st.sampled_from(["int8", "int16", "uint8", "uint16"]),
)
def test_integer_casts_wrap_as_in_numpy_and_are_counted(values, dtype):
    held = {"uint16": torch.int32}.get(dtype, getattr(torch, dtype))
    result, overflows = cast(values, dtype, held)
    array = np.array(values, np.int64)
    np.testing.assert_array_equal(result.numpy(), array.astype(dtype))
    info = np.iinfo(dtype)
    assert overflows == ((array < info.min) | (array > info.max)).sum()


def test_a_cast_never_returns_its_input_because_the_engine_rounds_in_place():
    x = torch.ones(3)
    result = elementwise_unary.cast(x=x, dtype="fp16", out=Out("y", "float16", torch.float32), census=Census())
    assert result.data_ptr() != x.data_ptr()
