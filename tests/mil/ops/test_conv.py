"""Convolutions against explicit sums in float64, and the transposed one as the adjoint of the plain one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from layerdiff import mil
from layerdiff.mil.ops import conv

DTYPES = [np.float32, np.float64]
ATOL = {np.float32: 1e-5, np.float64: 1e-12}
many = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def geometry(draw, pad_types=("valid", "same", "same_lower", "custom"), transposed=False):
    """Arrays and parameters of a small convolution: 1 to 3 axes, any padding, strides, dilations and groups."""
    axes, groups, dtype = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2])), draw(st.sampled_from(DTYPES))
    numbers = [st.tuples(*[st.integers(low, high)] * axes) for low, high in ((1, 3), (1, 3), (1, 2), (0, 3))]
    kernel, strides, dilations, extra = map(draw, numbers)
    pad_type = draw(st.sampled_from(pad_types))
    pad = tuple(draw(st.integers(0, 2)) for _ in range(2 * axes)) if pad_type == "custom" else (0,) * 2 * axes
    size = tuple((k - 1) * d + 1 + e for k, d, e in zip(kernel, dilations, extra, strict=True))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    weight = (2 * groups, 4 // groups, *kernel) if transposed else (4, 2, *kernel)
    arrays = {"x": (2, 2 * groups, *size), "weight": weight, "bias": (4,)}
    parameters = {"strides": strides, "dilations": dilations, "groups": groups, "pad_type": pad_type, "pad": pad}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in arrays.items()}, parameters


def grouped(array, groups):
    """[N, C, …] as [N, groups, C / groups, …]."""
    return array.astype(np.float64).reshape(array.shape[0], groups, -1, *array.shape[2:])


def pads(size, kernel, strides, dilations, pad_type, pad):
    """Before and after each axis; `same` keeps ceil(size / stride) and has an odd rest after, `same_lower` before."""
    if pad_type in ("valid", "custom"):
        return list(zip(pad[0::2], pad[1::2], strict=True))
    pairs = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        wanted = -(-n // s)
        total = max(0, (wanted - 1) * s + (k - 1) * d + 1 - n)
        pairs.append((total // 2, total - total // 2) if pad_type == "same" else (total - total // 2, total // 2))
    return pairs


def places(kernel, strides, dilations, counts):
    """For each element of the kernel, the slices that it reads, or writes when transposed."""
    for k in itertools.product(*map(range, kernel)):
        yield (
            k,
            tuple(
                slice(i * d, i * d + (n - 1) * s + 1, s)
                for i, d, n, s in zip(k, dilations, counts, strides, strict=True)
            ),
        )


def correlated(x, weight, bias, *, strides, dilations, groups, pad_type, pad):
    """Cross-correlation by its definition, in float64."""
    kernel = weight.shape[2:]
    padded = np.pad(x, [(0, 0), (0, 0), *pads(x.shape[2:], kernel, strides, dilations, pad_type, pad)])
    spans = zip(padded.shape[2:], kernel, strides, dilations, strict=True)
    counts = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in spans]
    padded, result = grouped(padded, groups), 0.0
    w = weight.astype(np.float64).reshape(groups, -1, *weight.shape[1:])
    for k, where in places(kernel, strides, dilations, counts):
        result = result + np.einsum("ngc...,goc->ngo...", padded[(..., *where)], w[(..., *k)])
    return result.reshape(len(x), -1, *counts) + bias.reshape(-1, *[1] * len(kernel))


def spread(x, weight, *, strides, dilations, groups):
    """Transposed convolution by its definition: every element adds its multiple of the kernel, in float64."""
    kernel, counts = weight.shape[2:], x.shape[2:]
    spans = zip(counts, kernel, strides, dilations, strict=True)
    shape = [(n - 1) * s + (k - 1) * d + 1 for n, k, s, d in spans]
    x, w = grouped(x, groups), weight.astype(np.float64).reshape(groups, -1, *weight.shape[1:])
    result = np.zeros((x.shape[0], groups, w.shape[2], *shape))
    for k, where in places(kernel, strides, dilations, counts):
        result[(..., *where)] += np.einsum("ngc...,gco->ngo...", x, w[(..., *k)])
    return result.reshape(x.shape[0], -1, *shape)


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@many
@given(geometry(), st.booleans())
def test_conv_by_its_definition(case, biased):
    arrays, parameters = case
    arrays["bias"] = arrays["bias"] * biased
    result = conv.conv(**{k: v for k, v in tensors(arrays).items() if biased or k != "bias"}, **parameters).numpy()
    dtype = arrays["x"].dtype.type
    assert result.dtype == dtype
    np.testing.assert_allclose(result, correlated(**arrays, **parameters), atol=ATOL[dtype], rtol=1e-5)
    if parameters["pad_type"].startswith("same"):
        strides = parameters["strides"]
        assert result.shape[2:] == tuple(-(-n // s) for n, s in zip(arrays["x"].shape[2:], strides, strict=True))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_defaults_are_no_padding_and_unit_strides(run, axes):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 3, *[4] * axes)), rng.standard_normal((2, 3, *[2] * axes))
    ones, zeros = (1,) * axes, (0,) * 2 * axes
    plain = {"strides": ones, "dilations": ones, "groups": 1, "pad_type": "valid", "pad": zeros}
    expected = correlated(x, weight, np.zeros(2), **plain)
    for op in ("conv", "conv_quantized"):
        how = {"quantization_type": "linear", "quant_scale": np.ones(1), "quant_bias": np.zeros(1)}
        result = run(op, x=x, weight=weight, **(how if op == "conv_quantized" else {}))
        np.testing.assert_allclose(result, expected, atol=1e-12)
    back = spread(x, weight[:1].repeat(3, 0), strides=ones, dilations=ones, groups=1)
    np.testing.assert_allclose(run("conv_transpose", x=x, weight=weight[:1].repeat(3, 0)), back, atol=1e-12)


@many
@given(geometry(), st.sampled_from([1, 4]), st.booleans())
def test_quantized_weights_are_scaled_and_shifted(case, channels, biased):
    arrays, parameters = case
    rng = np.random.default_rng(0)
    x = arrays["x"].astype(np.float64)
    weight = rng.integers(0, 256, arrays["weight"].shape).astype(np.uint8)
    bias = rng.integers(0, 256, 4).astype(np.uint8) * biased
    scale, shift = rng.uniform(0.01, 0.1, channels), rng.standard_normal(channels)
    around = (-1, *[1] * (weight.ndim - 1))
    expected = correlated(x, weight * scale.reshape(around) + shift.reshape(around), bias * 1.0, **parameters)
    given_arrays = tensors({"x": x, "weight": weight, "quant_scale": scale, "quant_bias": shift, "bias": bias})
    result = conv.conv_quantized(**given_arrays, quantization_type="linear", nbits=8, **parameters)
    np.testing.assert_allclose(result, expected, atol=1e-10)


def test_quantized_weights_without_a_table_are_refused():
    one = torch.ones(1, 1, 1)
    with pytest.raises(ValueError, match="'lut' weights need a table"):
        conv.conv_quantized(x=one, weight=one, quantization_type="lut", quant_scale=one, quant_bias=one)


def test_an_unknown_pad_type_is_refused():
    one = torch.ones(1, 1, 1)
    for kernel in (conv.conv, conv.conv_transpose):
        with pytest.raises(ValueError, match="the pad type 'full' is none of"):
            kernel(x=one, weight=one, pad_type="full")


# ------------------------------------------------------------------ transposed


def cut(full, begins, lengths, bias):
    """A part of the unpadded result; what lies beyond it is 0."""
    widest = np.pad(full, [(0, 0), (0, 0), *[(0, b + n) for b, n in zip(begins, lengths, strict=True)]])
    part = tuple(slice(b, b + n) for b, n in zip(begins, lengths, strict=True))
    return widest[(..., *part)] + bias.reshape(-1, *[1] * len(begins))


def kept(full, size, *, strides, pad_type, pad, **_):
    """What each mode keeps of the unpadded result without an `output_shape`: first position and length."""
    if pad_type == "same":
        return [max(0, f - n * s) // 2 for f, n, s in zip(full, size, strides, strict=True)], [
            n * s for n, s in zip(size, strides, strict=True)
        ]
    return list(pad[0::2]), [f - b - a for f, b, a in zip(full, pad[0::2], pad[1::2], strict=True)]


@many
@given(geometry(pad_types=("valid", "same", "custom"), transposed=True), st.integers(0, 3), st.booleans())
def test_conv_transpose_by_its_definition(case, more, biased):
    arrays, parameters = case
    arrays["bias"] = arrays["bias"] * biased
    shared = {name: parameters[name] for name in ("strides", "dilations", "groups")}
    full = spread(arrays["x"], arrays["weight"], **shared)
    begins, lengths = kept(full.shape[2:], arrays["x"].shape[2:], **parameters)
    assume(min(lengths) > 0)
    given_arrays = {k: v for k, v in tensors(arrays).items() if biased or k != "bias"}
    asked = {}
    if more:
        lengths = [n + more - 1 for n in lengths]
        asked = {"output_shape": (*full.shape[:2], *lengths)}
        if parameters["pad_type"] == "same":
            begins = [max(0, f - n) // 2 for f, n in zip(full.shape[2:], lengths, strict=True)]
    result = conv.conv_transpose(**given_arrays, **parameters, **asked).numpy()
    dtype = arrays["x"].dtype.type
    assert result.dtype == dtype
    expected = cut(full, begins, lengths, arrays["bias"].astype(np.float64))
    np.testing.assert_allclose(result, expected, atol=ATOL[dtype], rtol=1e-5)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize(("stride", "cropped"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_same_padding_inverts_that_of_conv(kernel, stride, cropped):
    """<conv(x), y> = <x, conv_transpose(y)> for every x of the length asked for, as TensorFlow defines it."""
    rng = np.random.default_rng(0)
    weight, y = torch.from_numpy(rng.standard_normal((1, 2, kernel))), torch.from_numpy(rng.standard_normal((1, 1, 4)))
    length = 4 * stride - cropped
    z = conv.conv_transpose(x=y, weight=weight, strides=(stride,), pad_type="same", output_shape=(1, 2, length))
    x = torch.from_numpy(rng.standard_normal((1, 2, length)))
    forward = conv.conv(x=x, weight=weight, strides=(stride,), pad_type="same")
    assert forward.shape == y.shape
    torch.testing.assert_close((forward * y).sum(), (x * z).sum())


@many
@given(geometry(pad_types=("valid", "custom")))
def test_conv_transpose_is_the_adjoint_of_conv(case):
    """<conv(x), y> = <x, conv_transpose(y)>, with the length of x asked for where several give the same y."""
    arrays, parameters = case
    x, weight = (torch.from_numpy(arrays[name].astype(np.float64)) for name in ("x", "weight"))
    forward = conv.conv(x=x, weight=weight, **parameters)
    y = torch.randn(forward.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = conv.conv_transpose(x=y, weight=weight, **parameters, output_shape=tuple(x.shape))
    torch.testing.assert_close((forward * y).sum(), (x * z).sum())


@pytest.mark.parametrize("opset", ["iOS15", "iOS17"])
def test_convolutions_of_a_program(build, opset):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 2, 5, 6)).astype(np.float32), rng.standard_normal((3, 2, 3, 2)).astype(np.float32)

    def program(x):
        from coremltools.converters.mil import Builder as mb

        y = mb.conv(x=x, weight=w, strides=[2, 1], pad_type="same", dilations=[1, 2], name="down")
        return mb.conv_transpose(x=y, weight=w, strides=[2, 2], pad_type="custom", pad=[1, 0, 0, 1], name="up")

    model = mil.load(build(program, x=x, opset=opset))
    found = model.run({"x": x}, fetch=["down", "up"])
    plain = {"strides": (2, 1), "dilations": (1, 2), "groups": 1, "pad_type": "same", "pad": (0,) * 4}
    np.testing.assert_allclose(found["down"], correlated(x, w, np.zeros(3), **plain), atol=1e-5)
    full = spread(found["down"], w, strides=(2, 2), dilations=(1, 1), groups=1)
    np.testing.assert_allclose(found["up"], full[:, :, 1:, :-1], atol=1e-5)
