"""Quantization against the definition in float64, and against coremltools' evaluation of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layerdiff import mil, quiet
from layerdiff.mil import ops
from layerdiff.mil.ops import quantization_ops

with quiet.third_party():
    import coremltools  # noqa: F401
    from coremltools.converters.mil import Builder as mb
    from coremltools.optimize import _utils as compression

CASES = settings(max_examples=40, deadline=None, derandomize=True)
RANGE = {"int8": (-128, 127), "uint8": (0, 255)}


@st.composite
def parameters(draw, dtype):
    """A shape, an axis or None, and a scale and a zero point or None for it."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=5, max_side=4))
    axis = draw(st.none() | st.integers(-len(shape), len(shape) - 1))
    size = () if axis is None else (shape[axis],)
    powers = draw(hnp.arrays(np.int64, size, elements=st.integers(-6, 4)))
    zero_point = draw(st.none() | hnp.arrays(dtype, size, elements=st.integers(*RANGE[dtype])))
    return shape, axis, 1.5 * 2.0**powers, zero_point


def tensors(dtype, **arrays):
    return {
        name: None if a is None else torch.from_numpy(np.asarray(a)).to(dtype if name in ("input", "scale") else None)
        for name, a in arrays.items()
    }


def along(parameter, axis, rank):
    """A scalar or vector so that numpy broadcasts it along `axis`."""
    if parameter is None or axis is None:
        return 0 if parameter is None else np.asarray(parameter, np.float64)
    return np.moveaxis(np.asarray(parameter, np.float64).reshape(-1, *[1] * (rank - 1)), 0, axis)


@pytest.mark.parametrize("held", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@given(st.data())
@CASES
def test_quantize_is_its_formula(dtype, held, data):
    shape, axis, scale, zero_point = data.draw(parameters(dtype))
    # Multiples of an eighth of the scale: quotients are exact, halves come up often, and so does saturation.
    eighths = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(-2400, 2400)))
    x = eighths / 8 * along(scale, axis, len(shape))
    levels = np.rint(x / along(scale, axis, len(shape))) + along(zero_point, axis, len(shape))
    expected = np.clip(levels, *RANGE[dtype]).astype(dtype)
    given_ = tensors(held, input=x, scale=scale)
    result = quantization_ops.quantize(
        **given_,
        zero_point=None if zero_point is None else torch.from_numpy(zero_point),
        axis=axis,
        output_dtype=dtype,
    )
    np.testing.assert_array_equal(result, expected, strict=True)
    np.testing.assert_array_equal(given_["input"], x.astype(str(held).removeprefix("torch.")))


@pytest.mark.parametrize("held", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@given(st.data())
@CASES
def test_dequantize_is_its_formula(dtype, held, data):
    shape, axis, scale, zero_point = data.draw(parameters(dtype))
    x = data.draw(hnp.arrays(dtype, shape, elements=st.integers(*RANGE[dtype])))
    expected = along(scale, axis, len(shape)) * (x.astype(np.float64) - along(zero_point, axis, len(shape)))
    result = quantization_ops.dequantize(
        input=torch.from_numpy(x),
        scale=torch.from_numpy(np.asarray(scale)).to(held),
        zero_point=None if zero_point is None else torch.from_numpy(zero_point),
        axis=axis,
    )
    np.testing.assert_array_equal(result, expected.astype(str(held).removeprefix("torch.")), strict=True)


def test_halves_go_to_even_and_what_does_not_fit_is_saturated():
    x = torch.tensor([-0.5, 0.5, 1.5, 2.5, -2.5, 300.0, -300.0, np.inf, -np.inf])
    one = torch.tensor(1.0)
    result = quantization_ops.quantize(input=x, scale=one, output_dtype="int8")
    assert result.tolist() == [0, 0, 2, 2, -2, 127, -128, 127, -128]
    zero_point = torch.tensor(250, dtype=torch.uint8)
    result = quantization_ops.quantize(input=x, scale=one, zero_point=zero_point, output_dtype="uint8")
    assert result.tolist() == [250, 250, 252, 252, 248, 255, 0, 255, 0]


def test_the_quotient_is_a_division():
    """One float32 step above half of 49 is above a half; times float32(1 / 49) it is exactly a half, so 0."""
    x = np.nextafter(np.float32([24.5, 122.5, 220.5]), np.float32(np.inf))
    scale = np.float32(49)
    assert np.rint(x * (1 / scale)).tolist() == [0, 2, 4]
    result = quantization_ops.quantize(input=torch.from_numpy(x), scale=torch.tensor(scale), output_dtype="int8")
    assert result.tolist() == [1, 3, 5]


@pytest.mark.parametrize("axis", [None, 1, -1])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_float32_is_what_coremltools_evaluates(dtype, axis):
    rng = np.random.default_rng(0)
    x = rng.uniform(-40, 40, (3, 4, 4)).astype(np.float32)
    size = () if axis is None else 4
    scale = np.asarray(rng.uniform(0.05, 0.5, size), np.float32)
    zero_point = np.asarray(rng.integers(*RANGE[dtype], size), dtype)
    shaped = [compression.promote_rank_to_same_as_data(p, x, axis) for p in (scale, zero_point)]
    levels = compression.quantize_by_scale_and_zp(x, *shaped, dtype)
    kwargs = {"scale": torch.from_numpy(scale), "zero_point": torch.from_numpy(zero_point), "axis": axis}
    result = quantization_ops.quantize(input=torch.from_numpy(x), output_dtype=dtype, **kwargs)
    np.testing.assert_array_equal(result, levels)
    back = quantization_ops.dequantize(input=result, **kwargs)
    np.testing.assert_array_equal(back, compression.dequantize_by_scale_and_zp(levels, scale, zero_point, axis))


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_in_a_program(build, precision, dtype, per_channel):
    rng = np.random.default_rng(1)
    x = rng.uniform(-3, 9, (2, 3, 5)).astype(precision)
    scale = rng.uniform(0.02, 0.05, 3) if per_channel else np.array(0.04)
    zero_point = rng.integers(*RANGE[dtype], 3) if per_channel else np.array(11)
    axis = {"axis": 1} if per_channel else {}
    fine = np.asarray(scale).astype(precision)

    def function(x):
        levels = mb.quantize(input=x, scale=fine, zero_point=zero_point.astype(dtype), output_dtype=dtype, **axis)
        return mb.dequantize(input=levels, scale=fine, zero_point=zero_point.astype(dtype), **axis)

    model = mil.load(build(function, x=x, precision=precision))
    assert {t.op for t in model.tensors} >= {"quantize", "dequantize"}
    (result,) = model.predict({"x": x}).values()
    place, step = along(zero_point, axis.get("axis"), 3), along(fine, axis.get("axis"), 3)
    quotient = (x.astype(np.float32) / step.astype(np.float32)).astype(np.float32)
    levels = np.clip(np.rint(quotient) + place, *RANGE[dtype])
    np.testing.assert_array_equal(result, (step * (levels - place)).astype(precision))


def test_they_are_registered():
    for name in ("quantize", "dequantize"):
        assert ops.kernel_of(name, "CoreML7").function is getattr(quantization_ops, name)
