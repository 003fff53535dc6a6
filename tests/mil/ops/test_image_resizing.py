"""Resizing, cropping and sampling against loops over the definitions, torch, and values that coremltools publishes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from layerdiff import mil
from layerdiff.mil.ops import image_resizing

MODES = ["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"]
BOX_MODES = ["CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST"]
SMALL = st.integers(1, 6)
many = settings(max_examples=60, deadline=None, derandomize=True)


def image(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def at(values, place, pad=None):
    """A 1-d array read at a fractional place, element by element; outside it is `pad`, or the end."""
    low = math.floor(place)

    def element(i):
        inside = 0 <= i < len(values)
        return values[i] if inside else pad if pad is not None else values[min(max(i, 0), len(values) - 1)]

    return element(low) * (1 - (place - low)) + element(low + 1) * (place - low)


def documented_grid(size, count, mode):
    """The places of `resize_bilinear` as its docstring has them, and Apple's `SamplingMode` for one point."""
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        single = 0.0 if mode == "STRICT_ALIGN_CORNERS" else (size - 1) / 2
        spacing, start = ((size - 1) / (count - 1), 0.0) if count > 1 else (0.0, single)
    elif mode == "DEFAULT":
        spacing, start = ((size - size / count) / (count - 1) if count > 1 else 0.0), 0.0
    elif mode == "OFFSET_CORNERS":
        spacing = max(1, size - 1) / count
        start = 0.5 * spacing
    else:
        spacing = size / count
        start = 0.5 * spacing - 0.5
    return [min(size - 1, max(0.0, start + i * spacing)) for i in range(count)]


def resized(x, axis, places, pad=None):
    return np.apply_along_axis(lambda values: [at(values, p, pad) for p in places], axis, x)


# ------------------------------------------------------------------ whole images


@many
@given(SMALL, SMALL, SMALL, SMALL, st.sampled_from(MODES), st.sampled_from([np.float32, np.float64]))
def test_resize_bilinear_reads_the_documented_grid(height, width, new_height, new_width, mode, dtype):
    x = image(2, height, width, dtype=dtype)
    result = image_resizing.resize_bilinear(
        x=torch.from_numpy(x), target_size_height=new_height, target_size_width=new_width, sampling_mode=mode
    )
    rows = resized(x.astype(np.float64), 1, documented_grid(height, new_height, mode))
    expected = resized(rows, 2, documented_grid(width, new_width, mode))
    assert result.numpy().dtype == dtype
    np.testing.assert_allclose(result, expected, atol=1e-12 if dtype == np.float64 else 1e-6)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("STRICT_ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
        ("ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
        ("DEFAULT", [0, 0.4, 0.8, 1, 1]),
        ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("UNALIGN_CORNERS", [0, 0.1, 0.5, 0.9, 1]),
    ],
)
def test_the_examples_of_the_docstring(run, mode, expected):
    x = np.array([[[0.0, 1.0]]])
    for op, how in (("resize_bilinear", {"target_size_width": 5}), ("resize", {"shape": (1, 5), "resized_dims": 2})):
        np.testing.assert_allclose(run(op, x=x, sampling_mode=mode, **how).ravel(), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [(10, 9), (3, 2), (1, 1), (5, 4)])
@pytest.mark.parametrize("align", [False, True])
def test_two_of_the_modes_are_torchs(align, size, dtype):
    x = torch.from_numpy(image(2, 3, 5, 4, dtype=dtype))
    mode = "STRICT_ALIGN_CORNERS" if align else "UNALIGN_CORNERS"
    result = image_resizing.resize(x=x, shape=(1, *size), resized_dims=2, sampling_mode=mode)
    torch.testing.assert_close(result, functional.interpolate(x, size, mode="bilinear", align_corners=align))


def test_resize_takes_the_last_entries_of_the_shape_and_keeps_where_it_says_zero(run):
    x = image(2, 3, 4, 5)
    for mode in ("LINEAR", "NEAREST_NEIGHBOR"):
        assert run("resize", x=x, shape=(7, 6, 8), resized_dims=2, interpolation_mode=mode).shape == (2, 3, 6, 8)
        assert run("resize", x=x, shape=(7, 0, 8), resized_dims=2, interpolation_mode=mode).shape == (2, 3, 4, 8)
        assert run("resize", x=x, shape=(7, 6, 0), resized_dims=3, interpolation_mode=mode).shape == (2, 7, 6, 5)
        same = run("resize", x=x, shape=(0, 0), resized_dims=2, interpolation_mode=mode)
        np.testing.assert_array_equal(same, x)


def test_resize_interpolates_any_number_of_axes(run):
    x = image(3, 4, 2)
    expected = x
    for axis, (size, count) in enumerate([(3, 5), (4, 2), (2, 7)]):
        expected = resized(expected, axis, documented_grid(size, count, "UNALIGN_CORNERS"))
    result = run("resize", x=x, shape=(5, 2, 7), resized_dims=3, sampling_mode="UNALIGN_CORNERS")
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_resize_of_integers(run):
    x = np.array([[[10, 20]]], np.int32)
    nearest = run("resize", x=x, shape=(2, 4), resized_dims=2, interpolation_mode="NEAREST_NEIGHBOR", out="int32")
    np.testing.assert_array_equal(nearest, [[[10, 10, 20, 20], [10, 10, 20, 20]]])
    linear = run("resize", x=x, shape=(1, 4), resized_dims=2, out="int32")
    np.testing.assert_array_equal(linear, [[[10, 15, 20, 20]]])  # the engine makes int32 of it


def test_resize_refuses_an_interpolation_that_it_does_not_know():
    with pytest.raises(ValueError, match="'CUBIC' is neither"):
        image_resizing.resize(x=torch.ones(1, 2, 2), shape=(3, 3), resized_dims=2, interpolation_mode="CUBIC")


@many
@given(st.integers(1, 9), st.integers(2, 12))
def test_nearest_neighbours_lie_under_the_new_centres(size, count):
    x = torch.arange(size, dtype=torch.float32).reshape(1, 1, size)
    expected = [math.floor(Fraction(2 * i + 1, 2) * size / count) for i in range(count)]
    old = image_resizing.resize_nearest_neighbor(x=x, target_size_height=1, target_size_width=count)
    new = image_resizing.resize(x=x, shape=(1, count), resized_dims=2, interpolation_mode="NEAREST_NEIGHBOR")
    assert old.flatten().tolist() == new.flatten().tolist() == expected
    torch_exact = functional.interpolate(x, count, mode="nearest-exact").flatten()
    ties = [Fraction(2 * i + 1, 2) * size % count == 0 for i in range(count)]  # torch divides in float32
    assert all(tie or a == b for tie, a, b in zip(ties, expected, torch_exact.tolist(), strict=True))


def test_a_single_nearest_neighbour_is_the_first(run):
    x = np.arange(6.0).reshape(1, 2, 3)
    for op, how in (
        ("resize_nearest_neighbor", {"target_size_height": 1, "target_size_width": 1}),
        ("resize", {"shape": (1, 1), "resized_dims": 2, "interpolation_mode": "NEAREST_NEIGHBOR"}),
    ):
        assert run(op, x=x, **how).ravel() == [0]


@many
@given(st.integers(1, 9), st.integers(1, 12), st.sampled_from(["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"]))
def test_aligned_nearest_neighbours_round_their_grid(size, count, mode):
    x = torch.arange(size, dtype=torch.float64).reshape(1, 1, size)
    result = image_resizing.resize(
        x=x, shape=(1, count), resized_dims=2, interpolation_mode="NEAREST_NEIGHBOR", sampling_mode=mode
    )
    distance = np.abs(result.numpy().ravel() - documented_grid(size, count, mode))
    assert (distance <= 0.5 + 1e-12).all()


def test_the_values_of_coremltools_for_nearest_neighbours(run):
    x = np.array([-6.174, 9.371]).reshape(1, 1, 2, 1)
    result = run("resize", x=x, shape=(1, 1, 3, 2), resized_dims=2, interpolation_mode="NEAREST_NEIGHBOR")
    np.testing.assert_array_equal(result.ravel(), [-6.174, -6.174, 9.371, 9.371, 9.371, 9.371])
    x = np.array([0.37, 6.17]).reshape(1, 1, 2, 1)
    result = run("resize_nearest_neighbor", x=x, target_size_height=2, target_size_width=3)
    np.testing.assert_array_equal(result.ravel(), [0.37] * 3 + [6.17] * 3)
    x = np.array([1.5, -2.5, 3.5]).reshape(1, 1, 1, 3)
    result = run("upsample_nearest_neighbor", x=x, scale_factor_height=3.17, scale_factor_width=0.67)
    np.testing.assert_array_equal(result, np.tile([1.5, -2.5], (1, 1, 3, 1)))
    result = run("upsample_nearest_neighbor", x=x, scale_factor_height=2.0, scale_factor_width=1.12)
    np.testing.assert_array_equal(result, np.tile(x, (1, 1, 2, 1)))


@pytest.mark.parametrize("scales", [(2, 3), (1.5, 2.5), (0.5, 0.75), (1.0, 1.4)])
def test_upsampling_is_torchs_with_recomputed_scales(run, scales):
    x = image(2, 3, 10, 5)
    scales = tuple(float(np.float32(scale)) for scale in scales)
    how = {"x": x, "scale_factor_height": scales[0], "scale_factor_width": scales[1]}
    size = tuple(int(np.floor(np.float32(s) * n)) for s, n in zip(scales, x.shape[2:], strict=True))
    tx = torch.from_numpy(x)
    np.testing.assert_array_equal(run("upsample_nearest_neighbor", **how), functional.interpolate(tx, size))
    for align in (True, False):
        expected = functional.interpolate(tx, size, mode="bilinear", align_corners=align)
        np.testing.assert_allclose(run("upsample_bilinear", **how, align_corners=align), expected, atol=1e-12)
    default = functional.interpolate(tx, size, mode="bilinear", align_corners=True)
    np.testing.assert_allclose(run("upsample_bilinear", **how), default, atol=1e-12)


@pytest.mark.parametrize(
    ("align", "half", "expected"),
    [
        (True, False, [1, 1.2, 1.4, 1.6, 1.8, 2]),
        (True, None, [1, 1.2, 1.4, 1.6, 1.8, 2]),
        (False, True, [1, 1, 4 / 3, 5 / 3, 2, 2]),
        (False, None, [1, 1, 4 / 3, 5 / 3, 2, 2]),
        (False, False, [1, 4 / 3, 5 / 3, 2, 2, 2]),
    ],
)
def test_the_values_of_coremltools_for_half_pixel_centers(align, half, expected):
    result = image_resizing.upsample_bilinear(
        x=torch.tensor([[[1.0, 2.0]]]), scale_factor_width=3, align_corners=align, half_pixel_centers=half
    )
    torch.testing.assert_close(result, torch.tensor([[expected]]))


def test_aligned_corners_have_no_half_pixel_centers():
    with pytest.raises(ValueError, match="exclude each other"):
        image_resizing.upsample_bilinear(x=torch.ones(1, 2, 2), align_corners=True, half_pixel_centers=True)


@many
@given(st.tuples(*[st.integers(0, 2)] * 4), st.booleans())
def test_crop_is_a_slice(amounts, batched):
    x = image(2, 3, 5, 6) if batched else image(3, 5, 6)
    top, bottom, left, right = amounts
    result = image_resizing.crop(x=torch.from_numpy(x), crop_height=(top, bottom), crop_width=(left, right))
    np.testing.assert_array_equal(result, x[..., top : 5 - bottom, left : 6 - right])


@pytest.mark.parametrize(("opset", "precision"), [("iOS15", "float32"), ("iOS17", "float16")])
def test_resizing_in_a_program(build, opset, precision):
    x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)

    def program(x):
        from coremltools.converters.mil import Builder as mb

        large = {"target_size_height": 5, "target_size_width": 2}
        results = [
            mb.crop(x=x, crop_height=[1, 0], crop_width=[0, 2], name="crop"),
            mb.resize_bilinear(x=x, **large, sampling_mode="UNALIGN_CORNERS", name="bilinear"),
            mb.resize_nearest_neighbor(x=x, **large, name="nearest"),
            mb.upsample_bilinear(x=x, scale_factor_height=2.0, scale_factor_width=1.5, name="up"),
            mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3, name="repeated"),
        ]
        if opset == "iOS17":
            results.append(mb.resize(x=x, shape=[5, 0], resized_dims=np.uint32(2), name="resize"))
        return tuple(results)

    found = mil.load(build(program, x=x, opset=opset, precision=precision)).predict({"x": x})
    tx = torch.from_numpy(x)
    expected = {
        "crop": x[:, :, 1:, :2],
        "bilinear": functional.interpolate(tx, (5, 2), mode="bilinear", align_corners=False),
        "nearest": functional.interpolate(tx, (5, 2), mode="nearest-exact"),
        "up": functional.interpolate(tx, (6, 6), mode="bilinear", align_corners=True),
        "repeated": x.repeat(2, 2).repeat(3, 3),
        "resize": resized(x, 2, documented_grid(3, 5, "DEFAULT")),
    }
    assert set(found) == set(expected) - ({"resize"} if opset == "iOS15" else set())
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5 if precision == "float32" else 1e-2, err_msg=name)
