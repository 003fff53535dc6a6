"""Binary ops over random shapes and values against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layerdiff.mil import ops
from layerdiff.mil.ops import elementwise_binary

NEAR = st.floats(-4, 4, width=32, allow_subnormal=False)

BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum}
INTEGER = BINARY | {"floor_div": np.floor_divide, "mod": np.mod}


@pytest.mark.parametrize("op", BINARY)
@settings(max_examples=15, derandomize=True, deadline=None)
@given(st.data())
def test_binary_broadcasts(op, data):
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4))
    x, y = (data.draw(hnp.arrays(np.float32, shape, elements=NEAR)) for shape in shapes.input_shapes)
    result = ops.KERNELS[op](x=torch.from_numpy(x), y=torch.from_numpy(y)).numpy()
    assert result.shape == shapes.result_shape
    np.testing.assert_array_equal(result, BINARY[op](x, y))


@pytest.mark.parametrize("op", INTEGER)
@settings(max_examples=30, derandomize=True, deadline=None)
@given(x=st.integers(-(2**31), 2**31 - 1), y=st.integers(-100, 100).filter(bool))
def test_integers_stay_integers_and_wrap(op, x, y):
    left, right = np.array([x], np.int32), np.array([y], np.int32)
    with np.errstate(over="ignore"):
        expected = INTEGER[op](left, right)
    result = ops.KERNELS[op](x=torch.from_numpy(left), y=torch.from_numpy(right))
    assert result.dtype == torch.int32
    np.testing.assert_array_equal(result.numpy(), expected)


def test_division_of_integers_is_exact_before_it_is_cut():
    x, y = torch.tensor([2**31 - 1, -7], dtype=torch.int32), torch.tensor([1, 2], dtype=torch.int32)
    assert elementwise_binary.real_div(x=x, y=y).tolist() == [2**31 - 1, -3.5]
    assert elementwise_binary.mod(x=torch.tensor([-7.0]), y=torch.tensor([3.0])).item() == 2.0


def test_nan_and_infinity_flow():
    x = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert torch.isnan(elementwise_binary.maximum(x=x, y=torch.zeros(3))).tolist() == [True, False, False]
    assert torch.isnan(elementwise_binary.sub(x=x, y=x)).all()
