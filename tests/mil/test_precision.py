"""Rounding against numpy's float16, the policies, dithering, and the budget of decoded constants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layerdiff.errors import EngineError
from layerdiff.mil.precision import (
    Constants,
    Precision,
    array_of,
    dithered,
    round_float16,
    round_significand,
    tensor_of,
)
from layerdiff.mil.program import Constant, TensorType

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


def constant(array: np.ndarray, name: str = "w") -> Constant:
    return Constant(name, TensorType(str(array.dtype), array.shape), inline=array)


def test_dithering_shifts_by_at_most_half_a_unit_evenly_and_repeatably():
    values = np.random.default_rng(0).standard_normal(20_000).astype(np.float16)
    values[:4] = [0, np.inf, -np.inf, 6e-8]
    shifted = dithered(values, seed=3, name="w")
    finite = np.isfinite(values)
    ulp = np.spacing(np.abs(values[finite])).astype(np.float64)
    shift = (shifted[finite].astype(np.float64) - values[finite]) / ulp
    assert np.abs(shift).max() <= 0.5001
    assert abs(shift.mean()) < 0.01
    assert abs(shift[4:].std() - np.sqrt(1 / 12)) < 0.005
    np.testing.assert_array_equal(shifted[:3], values[:3].astype(np.float32))
    np.testing.assert_array_equal(shifted, dithered(values, seed=3, name="w"))
    assert (shifted != dithered(values, seed=4, name="w")).mean() > 0.99
    assert (shifted != dithered(values, seed=3, name="v")).mean() > 0.99


def test_under_float64_it_is_the_float32_constants_that_are_dithered():
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    precision = Precision("float64", dither_seed=3)
    shifted = Constants().tensor(constant(values), precision)
    assert shifted.dtype == torch.float64
    shift = (shifted.numpy() - values) / np.spacing(np.abs(values)).astype(np.float64)
    assert 0.45 < np.abs(shift).max() <= 0.5
    half = np.arange(1, 9, dtype=np.float16)
    assert torch.equal(Constants().tensor(constant(half), precision), torch.arange(1.0, 9, dtype=torch.float64))


def test_only_float16_constants_that_are_no_scalars_are_dithered():
    precision = Precision("float32", dither_seed=0)
    constants = Constants()
    for array in (np.float16(0.5).reshape(()), np.ones(3, np.float32), np.ones(3, np.int32)):
        assert torch.equal(constants.tensor(constant(array), precision), constants.tensor(constant(array), Precision()))
    assert not torch.equal(constants.tensor(constant(np.ones(3, np.float16)), precision), torch.ones(3))


def test_constants_are_decoded_once_and_shared_between_policies():
    constants, weight = Constants(), constant(np.arange(8, dtype=np.float16))
    first = constants.tensor(weight, Precision())
    assert constants.tensor(weight, Precision("float32")) is first
    assert constants.tensor(weight, Precision("float64")).dtype == torch.float64
    assert constants.used_bytes == 8 * 4 + 8 * 8


def test_what_does_not_fit_the_budget_is_decoded_each_time():
    constants, weight = Constants(budget_bytes=40), constant(np.arange(8, dtype=np.float16))
    other = constant(np.arange(8, dtype=np.float16) + 1, "v")
    kept = constants.tensor(weight, Precision())
    assert constants.keeps(weight, Precision())
    assert not constants.keeps(other, Precision())
    first, second = constants.tensor(other, Precision()), constants.tensor(other, Precision())
    assert first is not second
    assert torch.equal(first, second)
    assert constants.tensor(weight, Precision()) is kept


def test_constants_that_need_no_conversion_cost_nothing():
    constants, array = Constants(budget_bytes=0), np.arange(8, dtype=np.float32)
    tensor = constants.tensor(constant(array), Precision())
    assert np.shares_memory(tensor.numpy(), array)
    assert constants.used_bytes == 0
