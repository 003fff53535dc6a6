"""Constants: decoding, dithering, decompression, and the budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerdiff.errors import EngineError
from layerdiff.mil import constants as module
from layerdiff.mil.constants import Constants, dithered
from layerdiff.mil.precision import Precision
from layerdiff.mil.program import Constant, Named, Op, TensorType


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


# ------------------------------------------------------------------ compressed


def compressed(data: np.ndarray, scale: np.ndarray, *, dtype: str = "float16") -> Constant:
    """`data * scale`, scale per element of the first axis, as a package of iOS16 holds it."""
    shape = data.shape
    inputs = {
        "quantized_data": (constant(data, "data"),),
        "zero_point": (constant(np.zeros((), np.int8), "zero_point"),),
        "scale": (constant(scale, "scale"),),
        "axis": (constant(np.array(0, np.int32), "axis"),),
    }
    result = Named("w", TensorType(dtype, shape))
    op = Op("constexpr_affine_dequantize", "w", inputs, (result,))
    return Constant("w", result.type, decompressed_by=op, opset="CoreML6")


def test_a_compressed_constant_is_computed_and_rounded_like_any_result():
    data, scale = np.arange(-4, 4, dtype=np.int8).reshape(2, 4), np.array([0.1, 3.3], np.float16)
    weight = compressed(data, scale)
    exact = data.astype(np.float64) * scale.astype(np.float64)[:, None]
    np.testing.assert_array_equal(Constants().tensor(weight, Precision()), exact.astype(np.float16))
    wide = Constants().tensor(weight, Precision("float64"))
    assert wide.dtype == torch.float64
    np.testing.assert_allclose(wide, exact, rtol=1e-15)


def test_a_compressed_constant_is_decompressed_once_within_the_budget(monkeypatch):
    calls = []
    decoded = module._decompressed
    monkeypatch.setattr(module, "_decompressed", lambda c, p: calls.append(c.name) or decoded(c, p))
    weight = compressed(np.ones((2, 4), np.int8), np.ones(2, np.float32), dtype="float32")
    enough, little = Constants(budget_bytes=32), Constants(budget_bytes=31)
    assert enough.tensor(weight, Precision()) is enough.tensor(weight, Precision())
    assert (calls, enough.used_bytes) == (["w"], 32)
    little.tensor(weight, Precision())
    little.tensor(weight, Precision())
    assert (len(calls), little.used_bytes) == (3, 0)


def test_policies_that_round_differently_do_not_share_what_is_decompressed():
    weight = compressed(np.array([[100], [7]], np.int8), np.array([0.1, 3.3], np.float16))
    alone = {p: Constants().tensor(weight, Precision(p)) for p in ("declared", "float32", "float16_unbounded")}
    constants = Constants()
    for policy, expected in alone.items():
        assert torch.equal(constants.tensor(weight, Precision(policy)), expected)
    assert not torch.equal(alone["declared"], alone["float32"])


def test_what_is_decompressed_from_shifted_constants_is_not_taken_for_the_stored_one():
    stored = np.array([0.1, 0.2, 0.3], np.float16)
    inputs = {
        "source_val": (constant(stored, "stored"),),
        "output_dtype": (Constant("o", TensorType("str", ()), "fp32"),),
    }
    result = Named("w", TensorType("float32", (3,)))
    weight = Constant("w", result.type, decompressed_by=Op("constexpr_cast", "w", inputs, (result,)), opset="CoreML6")
    constants = Constants()
    assert not np.array_equal(constants.tensor(weight, Precision(dither_seed=1)), stored)
    np.testing.assert_array_equal(constants.tensor(weight, Precision()), stored)


def test_the_values_of_a_compressed_constant_are_not_stored():
    with pytest.raises(ValueError, match="'w' is compressed; its values are computed by constexpr_affine_dequantize"):
        compressed(np.ones((2, 4), np.int8), np.ones(2, np.float16)).array()


def test_a_constant_that_no_machine_can_hold_is_refused_before_it_is_allocated():
    small = compressed(np.ones((2, 4), np.int8), np.ones(2, np.float16))
    huge = Constant("w", TensorType("float16", (10**6, 10**6)), decompressed_by=small.decompressed_by, opset="CoreML6")
    with pytest.raises(EngineError, match="the tensor 'w' does not fit into memory") as raised:
        Constants().tensor(huge, Precision())
    assert "float16[1000000, 1000000] takes 3725.3 GiB" in str(raised.value)
