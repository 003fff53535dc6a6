"""Rounding against numpy's float16, the policies, and arrays as tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layerdiff.errors import EngineError
from layerdiff.mil.precision import Precision, array_of, is_short, round_float16, round_significand, tensor_of

floats = hnp.arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=True, allow_infinity=True))
EVERY_FLOAT16 = np.arange(2**16, dtype=np.uint16).view(np.float16)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(floats)
def test_rounding_to_float16_is_numpys(values):
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(round_float16(torch.from_numpy(values.copy())).numpy(), expected)


def test_every_float16_and_every_midpoint_between_two():
    finite = np.sort(EVERY_FLOAT16[np.isfinite(EVERY_FLOAT16)].astype(np.float32))
    middles = ((finite[1:].astype(np.float64) + finite[:-1]) / 2).astype(np.float32)
    for values in (finite, middles):
        expected = values.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(round_float16(torch.from_numpy(values.copy())).numpy(), expected)


def test_rounding_works_in_place():
    x = torch.tensor([1.0001, 2.0])
    assert round_float16(x) is x
    assert round_significand(x) is x


def significand_of_11_bits(values: np.ndarray) -> np.ndarray:
    """The oracle: split off the exponent, round 11 bits to even, put it back; in float64."""
    fraction, exponent = np.frexp(values.astype(np.float64))
    with np.errstate(invalid="ignore", over="ignore"):
        return np.ldexp(np.round(fraction * 2**11), exponent - 11).astype(np.float32)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(hnp.arrays(np.float32, 20, elements=st.floats(width=32, allow_subnormal=False)))
def test_unbounded_rounding_keeps_11_bits_and_any_exponent(values):
    rounded = round_significand(torch.from_numpy(values.copy())).numpy()
    np.testing.assert_array_equal(rounded, significand_of_11_bits(values))


def test_unbounded_rounding_agrees_with_float16_inside_its_range_and_does_not_overflow_outside():
    normal = np.concatenate([np.linspace(6.2e-5, 1, 5000), np.linspace(1, 65504, 5000)]).astype(np.float32)
    np.testing.assert_array_equal(
        round_significand(torch.from_numpy(normal.copy())).numpy(), normal.astype(np.float16).astype(np.float32)
    )
    extremes = torch.tensor([1e30, 1e-30, torch.inf, -torch.inf, torch.nan])
    rounded = round_significand(extremes.clone())
    torch.testing.assert_close(rounded, extremes, rtol=2**-11, atol=0, equal_nan=True)
    every_nan = torch.from_numpy(np.array([0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32))
    assert torch.isnan(round_significand(every_nan)).all()


def test_what_each_policy_holds_and_gives():
    table = {
        ("declared", "float16"): (torch.float32, "float16"),
        ("float32", "float16"): (torch.float32, "float32"),
        ("float64", "float16"): (torch.float64, "float64"),
        ("float64", "float32"): (torch.float64, "float64"),
        ("float16_unbounded", "float16"): (torch.float32, "float32"),
        ("float64", "int32"): (torch.int32, "int32"),
        ("declared", "uint16"): (torch.int32, "uint16"),
    }
    for (policy, dtype), (held, given_dtype) in table.items():
        precision = Precision(policy)
        assert (precision.held(dtype), precision.given(dtype)) == (held, given_dtype)
    assert Precision("float32").rounding("float16") is None
    assert Precision("declared").rounding("float32") is None
    assert Precision("declared").rounding("float16") is round_float16


def test_an_unknown_policy_lists_the_known_ones():
    with pytest.raises(EngineError, match="no precision policy 'float23'") as raised:
        Precision("float23")
    assert "did you mean 'float32'?" in str(raised.value)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int32", "bool", "uint16", "uint8", "int8", "int16"])
def test_arrays_go_in_and_out_unchanged(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    declared = Precision()
    back = array_of(tensor_of(array.T, dtype, declared), dtype, declared)
    np.testing.assert_array_equal(back, array.T)
    assert back.dtype == array.dtype
    assert not np.shares_memory(back, array)


def test_feeding_rounds_to_the_declared_dtype_and_leaves_the_callers_array_alone():
    array = np.array([1.0001, 2.0], np.float32)
    tensor = tensor_of(array, "float16", Precision())
    np.testing.assert_array_equal(tensor.numpy(), array.astype(np.float16).astype(np.float32))
    assert array[0] == np.float32(1.0001)
    assert tensor_of(array, "float16", Precision("float32"))[0] == array[0]
    narrow = tensor_of(np.array([1.001], np.float16), "bfloat16", Precision())
    assert narrow.tolist() == [1.0]
    frozen = np.ones(3, np.float32)
    frozen.flags.writeable = False
    assert tensor_of(frozen, "float32", Precision()).sum() == 3


def test_only_what_is_owned_and_needs_no_conversion_is_given_without_a_copy():
    tensor = torch.arange(6.0).reshape(2, 3)
    assert np.shares_memory(array_of(tensor, "float32", Precision(), owned=True), tensor.numpy())
    for value, dtype in ((tensor.T, "float32"), (tensor, "float16"), (tensor, "int32")):
        array = array_of(value, dtype, Precision(), owned=True)
        assert not np.shares_memory(array, tensor.numpy())
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, value.numpy())


@pytest.mark.parametrize("shape", [(3, 200_001), (2, 3, 100_001)])
@pytest.mark.parametrize("transposed", [False, True])
def test_large_tensors_are_rounded_in_pieces(shape, transposed):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    tensor = torch.from_numpy(values.copy())
    tensor = tensor.transpose(0, 1) if transposed else tensor
    assert round_float16(tensor) is tensor
    expected = values.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(tensor.numpy(), expected.swapaxes(0, 1) if transposed else expected)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3.0, dtype=np.float32).reshape(1, 3)[::-1],
        np.arange(3, dtype=">i4"),
        np.arange(3, dtype=np.longdouble),
        np.arange(6.0)[::-2],
    ],
    ids=["negative stride", "big-endian", "longdouble", "backwards"],
)
def test_arrays_that_torch_does_not_take_are_converted(array):
    dtype = "int32" if array.dtype.kind == "i" else "float32"
    np.testing.assert_array_equal(tensor_of(array, dtype, Precision()).numpy(), array.astype(dtype))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_short_number_needs_half_of_the_significand(dtype):
    bits = (np.finfo(dtype).nmant + 1) // 2
    for exponent in (-4, 0, 6):
        for significand in (1, 3, 2**bits - 1):
            assert is_short(dtype(significand * 2.0**exponent))
        assert not is_short(dtype((2**bits + 1) * 2.0**exponent))
    assert is_short(dtype(0))
    assert is_short(dtype(-10))
