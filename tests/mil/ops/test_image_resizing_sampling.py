"""Crops and free positions against padded arrays, loops over the definitions, torch, and coremltools' values."""

from __future__ import annotations

import math

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
NUMPY_PADDING = {"constant": "constant", "border": "edge", "reflection": "reflect", "symmetric": "symmetric"}
TORCH_PADDING = {"constant": "zeros", "border": "border"}
SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5))
X = np.arange(1.0, 17.0).reshape(1, 1, 4, 4)
many = settings(max_examples=60, deadline=None, derandomize=True)


def image(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def read(picture, row, column):
    """A picture [C, H, W] at a fractional position inside it, by the four pixels around."""
    r, c = min(math.floor(row), picture.shape[1] - 2), min(math.floor(column), picture.shape[2] - 2)
    down, across = row - r, column - c
    above = picture[:, r, c] * (1 - across) + picture[:, r, c + 1] * across
    below = picture[:, r + 1, c] * (1 - across) + picture[:, r + 1, c + 1] * across
    return above * (1 - down) + below * down


# ------------------------------------------------------------------ crops


def box_grid(first, last, count, mode):
    """The documented grid of an interval, for a box whose ends may be fractional."""
    size = last - first + 1
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        single = first if mode == "STRICT_ALIGN_CORNERS" else (first + last) / 2
        return np.linspace(first, last, count) if count > 1 else np.array([single])
    spacing = max(1, size - 1) / count if mode == "OFFSET_CORNERS" else size / count
    start = {"DEFAULT": 0.0, "OFFSET_CORNERS": 0.5 * spacing, "UNALIGN_CORNERS": 0.5 * spacing - 0.5}[mode]
    return first + np.clip(start + spacing * np.arange(count), 0, size - 1)


def cropped(x, boxes, images, size, mode, pad):
    """crop_resize by its definition: boxes in pixels, [h_start, w_start, h_end, w_end]."""
    height, width = x.shape[2:]
    padded = np.pad(x, [(0, 0), (0, 0), (0, 1), (0, 1)], mode="edge")
    result = np.full((len(boxes), x.shape[1], *size), np.nan)
    for n, (top, left, bottom, right) in enumerate(boxes):
        for i, row in enumerate(box_grid(top, bottom, size[0], mode)):
            for j, column in enumerate(box_grid(left, right, size[1], mode)):
                if pad is None:
                    row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
                inside = 0 <= row <= height - 1 and 0 <= column <= width - 1
                result[n, :, i, j] = read(padded[images[n]], row, column) if inside else pad
    return result


def written(boxes, mode, scale):
    """Boxes in pixels as a coordinate mode and a spatial scale have them."""
    first, last = boxes[:, :2] / scale, boxes[:, 2:] / scale
    first, last = (first, last) if "CORNERS" in mode else ((first + last) / 2, last - first)
    parts = np.concatenate([first, last], 1)
    return parts if "HEIGHT" in mode else parts[:, [1, 0, 3, 2]]


EIGHTHS = st.integers(-12, 48).map(lambda n: n / 8)
SPAN = st.tuples(EIGHTHS, EIGHTHS).map(sorted)


@many
@given(
    st.lists(st.tuples(SPAN, SPAN), min_size=1, max_size=3),
    SIZES,
    st.sampled_from(MODES),
    st.sampled_from(BOX_MODES),
    st.booleans(),
    st.sampled_from([1.0, 0.25]),
    st.sampled_from([0.0, 7.5]),
)
def test_crop_resize_by_its_definition(spans, size, mode, box_mode, normalized, scale, pad):
    x = image(2, 3, 5, 5)
    boxes = np.array([[top, left, bottom, right] for (top, bottom), (left, right) in spans])
    images = np.arange(len(boxes)) % 2
    shared = {
        "x": torch.from_numpy(x),
        "target_height": size[0],
        "target_width": size[1],
        "normalized_coordinates": normalized,
        "spatial_scale": scale,
        "box_coordinate_mode": box_mode,
        "sampling_mode": mode,
    }
    given_boxes = written(boxes / 4 if normalized else boxes, box_mode, scale)
    expected = cropped(x, boxes, images, size, mode, pad)
    result = image_resizing.crop_resize(
        **shared, boxes=torch.from_numpy(given_boxes), box_indices=torch.from_numpy(images), pad_value=pad
    )
    np.testing.assert_allclose(result, expected, atol=1e-12)

    roi = torch.from_numpy(np.column_stack([images, given_boxes]).reshape(-1, 1, 5, 1, 1))
    result = image_resizing.crop_resize_ios16(**shared, roi=roi, pad_value=pad)
    np.testing.assert_allclose(result, expected[:, None], atol=1e-12)
    clamped = image_resizing.crop_resize_ios15(**shared, roi=roi)
    np.testing.assert_allclose(clamped, cropped(x, boxes, images, size, mode, None)[:, None], atol=1e-12)


def test_an_roi_without_image_numbers_crops_every_image(run):
    x, boxes = image(2, 3, 5, 5), np.array([[0.0, 1.0, 3.0, 4.0], [1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 4.0, 4.0]])
    how = {"x": x, "roi": boxes.reshape(3, 1, 4, 1, 1), "target_height": 2, "target_width": 3}
    for opset in ("CoreML5", "CoreML6"):
        result = run("crop_resize", opset=opset, **how)
        assert result.shape == (3, 2, 3, 2, 3)
        for i in range(2):
            np.testing.assert_allclose(result[:, i], cropped(x, boxes, [i] * 3, (2, 3), "DEFAULT", 0.0))


@pytest.mark.parametrize("numbered", [4, 5])
def test_no_box_at_all_gives_no_crop(run, numbered):
    result = run("crop_resize", opset="CoreML6", x=image(2, 3, 5, 5), roi=np.zeros((0, 1, numbered, 1, 1)))
    assert result.shape == (0, 2 if numbered == 4 else 1, 3, 1, 1)
    assert run("crop_resize", x=image(2, 3, 5, 5), boxes=np.zeros((0, 4))).shape == (0, 3, 1, 1)


def test_crop_resize_defaults_to_one_box_per_image(run):
    x, boxes = image(2, 3, 5, 5), np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 2.0, 2.0]])
    np.testing.assert_allclose(run("crop_resize", x=x, boxes=boxes), x[[0, 1], :, [1, 0], [2, 0]][:, :, None, None])
    small = run("crop_resize", x=x, boxes=boxes.astype(np.uint16))
    np.testing.assert_allclose(small, x[[0, 1], :, [1, 0], [2, 0]][:, :, None, None])


def test_crop_resize_of_whole_boxes_is_a_slice(run):
    x, boxes = image(1, 2, 6, 7), np.array([[1.0, 2.0, 4.0, 6.0]])
    for mode in MODES[:3] + MODES[4:]:
        result = run("crop_resize", x=x, boxes=boxes, target_height=4, target_width=5, sampling_mode=mode)
        np.testing.assert_allclose(result[0], x[0, :, 1:5, 2:7], atol=1e-12)


@pytest.mark.parametrize(
    ("roi", "size", "normalized", "expected"),
    [
        ([1, 1, 2, 2], 2, False, [6, 7, 10, 11]),
        ([1, 1, 2, 2], 1, False, [8.5]),
        ([0, 0, 0, 1 / 3, 1 / 3], 2, True, [1, 2, 5, 6]),
        ([2, 2, 1, 1], 2, False, [11, 10, 7, 6]),
    ],
)
def test_the_values_of_coremltools_for_crop_resize(run, roi, size, normalized, expected):
    roi = np.array(roi, np.float64).reshape(1, 1, -1, 1, 1)
    how = {"target_height": size, "target_width": size, "normalized_coordinates": normalized}
    for opset in ("CoreML5", "CoreML6"):
        result = run("crop_resize", opset=opset, x=X, roi=roi, sampling_mode="ALIGN_CORNERS", **how)
        np.testing.assert_allclose(result.ravel(), expected, rtol=1e-6)


def test_a_mirrored_box_without_aligned_corners_is_the_whole_image(run):
    roi = np.array([2.0, 2, 1, 1]).reshape(1, 1, 4, 1, 1)
    how = {"target_height": 2, "target_width": 2, "normalized_coordinates": True, "sampling_mode": "UNALIGN_CORNERS"}
    result = run("crop_resize", opset="CoreML5", x=X, roi=roi, **how)
    np.testing.assert_allclose(result.ravel(), [3.5, 5.5, 11.5, 13.5])


@pytest.mark.parametrize("pad", [0.0, 10.0])
def test_the_values_of_coremltools_for_padded_crops(run, pad):
    boxes = np.array([[0.1, 0.3, 1.3, 1.0], [0.5, 1.8, 1.0, 0.3], [0.0, 0.4, 0.6, 0.7]])
    expected = [3.1, 5.2, pad, pad, pad, 7.9, pad, 13.9, 2.2, 3.1, 9.4, 10.3]
    how = {"target_height": 2, "target_width": 2, "normalized_coordinates": True, "sampling_mode": "ALIGN_CORNERS"}
    images = np.zeros(3, np.int32)
    result = run("crop_resize", x=X, boxes=boxes, box_indices=images, pad_value=pad, **how)
    np.testing.assert_allclose(result.ravel(), expected)
    roi = np.column_stack([images, boxes]).reshape(3, 1, 5, 1, 1)
    result = run("crop_resize", opset="CoreML6", x=X, roi=roi, pad_value=pad, **how)
    np.testing.assert_allclose(result.ravel(), expected)


@pytest.mark.parametrize("index", [-1, 1])
def test_there_is_no_image_beyond_the_batch(index):
    with pytest.raises(IndexError):
        image_resizing.crop_resize(
            x=torch.ones(1, 1, 2, 2), boxes=torch.zeros(1, 4), box_indices=torch.tensor([index], dtype=torch.int32)
        )


def test_unknown_modes_are_refused():
    for how in ({"box_coordinate_mode": "CORNERS"}, {"sampling_mode": "CUBIC"}):
        with pytest.raises(KeyError):
            image_resizing.crop_resize(x=torch.ones(1, 1, 2, 2), boxes=torch.zeros(1, 4), **how)


# ------------------------------------------------------------------ free positions


def in_pixels(places, size, mode, align):
    if mode == "unnormalized":
        return places
    unit = places if mode == "normalized_zero_to_one" else (places + 1) / 2
    return unit * (size - 1) if align else unit * size - 0.5


@many
@given(
    SIZES,
    st.sampled_from(sorted(NUMPY_PADDING)),
    st.sampled_from(["unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"]),
    st.booleans(),
    st.sampled_from(["bilinear", "nearest"]),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 99),
)
def test_resample_reads_a_padded_image(size, padding, mode, align, sampling, dtype, seed):
    x = image(2, 3, *size, seed=seed).astype(dtype)
    reach = {"unnormalized": 9.0, "normalized_minus_one_to_one": 3.0, "normalized_zero_to_one": 2.0}[mode]
    coordinates = np.random.default_rng(seed).uniform(-reach, reach, (2, 2, 3, 2))
    value = {"constant_values": 6.25} if padding == "constant" else {}
    margin = 20
    padded = np.pad(x, [(0, 0), (0, 0), (margin, margin), (margin, margin)], NUMPY_PADDING[padding], **value)
    expected = np.empty((2, 3, 2, 3))
    for b, i, j in np.ndindex(2, 2, 3):
        column = margin + in_pixels(coordinates[b, i, j, 0], size[1], mode, align)
        row = margin + in_pixels(coordinates[b, i, j, 1], size[0], mode, align)
        row, column = (row, column) if sampling == "bilinear" else (round(row), round(column))
        expected[b, :, i, j] = read(padded[b].astype(np.float64), row, column)
    result = image_resizing.resample(
        x=torch.from_numpy(x),
        coordinates=torch.from_numpy(coordinates),
        sampling_mode=sampling,
        padding_mode=padding,
        padding_value=6.25,
        coordinates_mode=mode,
        align_corners=align,
    )
    assert result.numpy().dtype == dtype
    np.testing.assert_allclose(result, expected, atol=1e-11 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("padding", ["constant", "border", "reflection"])
def test_resample_is_torchs_grid_sample(padding, align, sampling, dtype):
    torch.manual_seed(0)
    x, grid = torch.randn(2, 3, 4, 5, dtype=dtype), torch.rand(2, 6, 7, 2, dtype=dtype) * 4 - 2
    result = image_resizing.resample(
        x=x,
        coordinates=grid,
        sampling_mode=sampling,
        padding_mode="symmetric" if padding == "reflection" and not align else padding,
        padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=align,
    )
    expected = functional.grid_sample(x, grid, sampling, TORCH_PADDING.get(padding, padding), align)
    torch.testing.assert_close(result, expected)


UNIT = {"x": np.array([[[[11.0, 22.0], [33.0, 44.0]]]])}
PLACES = np.array([-1.0, -2.0, -3.7, -1.0, 0.0, 0.0, 3.5, 1.2]).reshape(1, 2, 2, 2)


@pytest.mark.parametrize(
    ("how", "align", "expected"),
    [
        (("bilinear", "constant", "normalized_minus_one_to_one"), True, [8.585, 6.17, 27.5, 6.17]),
        (("nearest", "border", "unnormalized"), False, [11, 11, 11, 44]),
        (("bilinear", "reflection", "normalized_zero_to_one"), True, [22, 36.3, 11, 34.1]),
        (("nearest", "symmetric", "normalized_zero_to_one"), False, [22, 33, 11, 33]),
    ],
)
def test_the_values_of_coremltools_for_resample(run, how, align, expected):
    modes = dict(zip(("sampling_mode", "padding_mode", "coordinates_mode"), how, strict=True))
    result = run("resample", **UNIT, coordinates=PLACES, padding_value=6.17, align_corners=align, **modes)
    np.testing.assert_allclose(result.ravel(), expected)


def test_positions_that_are_no_numbers_spoil_only_their_own_pixels(run):
    places = np.array([[np.nan, 0], [np.inf, 0], [-np.inf, 1], [0, 0]]).reshape(1, 1, 4, 2)
    how = {"sampling_mode": "bilinear", "padding_mode": "constant", "coordinates_mode": "unnormalized"}
    result = run("resample", **UNIT, coordinates=places, padding_value=7.0, align_corners=True, **how)
    np.testing.assert_array_equal(result.ravel(), [np.nan, 7, 7, 11])


def test_resample_takes_integers_and_refuses_an_unknown_mode(run):
    places = np.array([0, 0, 1, 1]).reshape(1, 1, 2, 2)
    how = {"padding_mode": "constant", "padding_value": 0.0, "coordinates_mode": "unnormalized", "align_corners": True}
    for dtype in (np.int8, np.uint8, np.int16, np.uint16, np.int32):
        result = run("resample", **UNIT, coordinates=places.astype(dtype), sampling_mode="nearest", **how)
        np.testing.assert_array_equal(result.ravel(), [11, 44])
    with pytest.raises(ValueError, match="'bicubic' is neither"):
        run("resample", **UNIT, coordinates=places, sampling_mode="bicubic", **how)


AFFINE = {
    "sampling_mode": "bilinear",
    "padding_mode": "constant",
    "padding_value": 0.0,
    "coordinates_mode": "normalized_minus_one_to_one",
}


@pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid behavior:UserWarning")
@many
@given(SIZES, SIZES, st.booleans(), st.booleans(), st.integers(0, 99))
def test_affine_is_torchs(size, new, align, shared, seed):
    x = torch.from_numpy(image(2, 3, *size, seed=seed))
    matrix = torch.from_numpy(image(1 if shared else 2, 6, seed=seed))
    grid = functional.affine_grid(matrix.reshape(-1, 2, 3).expand(2, -1, -1), [2, 3, *new], align_corners=align)
    expected = functional.grid_sample(x, grid, align_corners=align)
    result = image_resizing.affine(
        x=x, transform_matrix=matrix, output_height=new[0], output_width=new[1], align_corners=align, **AFFINE
    )
    torch.testing.assert_close(result, expected, atol=1e-9, rtol=1e-9)


def test_the_values_of_coremltools_for_affine(run):
    matrix = np.array([[-1.0, -2.0, -3.7, -1.0, 3.5, 1.2]])
    how = {**UNIT, **AFFINE, "transform_matrix": matrix, "align_corners": True}
    square = run("affine", **how, output_height=3, output_width=3)
    np.testing.assert_allclose(square.ravel(), [10.7525, 2.5025, 0, 1.98, 0, 0, 0, 0, 0], atol=1e-12)
    flat = run("affine", **how, output_height=2, output_width=5)
    np.testing.assert_allclose(flat.ravel(), [10.7525, 5.94, 2.5025, 0.44, *[0] * 6], atol=1e-12)


def test_affine_has_one_kind_of_coordinates(run):
    how = {**UNIT, **AFFINE, "transform_matrix": np.ones((1, 6)), "coordinates_mode": "unnormalized"}
    with pytest.raises(ValueError, match="'unnormalized'"):
        run("affine", **how, output_height=1, output_width=1, align_corners=True)


def test_crops_and_positions_in_programs(build):
    """The three forms of crop_resize, resample and affine, through the engine."""
    x = X.astype(np.float32)
    boxes = np.array([[1.0, 1.0, 2.0, 2.0], [0.0, 1.0, 4.5, 2.0]], np.float32)
    roi, images = boxes.reshape(2, 1, 4, 1, 1), np.zeros(2, np.int32)
    how = {"target_height": 2, "target_width": 2, "sampling_mode": "STRICT_ALIGN_CORNERS"}
    places = np.random.default_rng(0).uniform(-1.2, 1.2, (1, 3, 2, 2)).astype(np.float32)
    matrix = np.array([[0.5, 0.25, 0.125, -0.5, 1.0, 0.0]], np.float32)

    def program(x):
        from coremltools.converters.mil import Builder as mb

        inputs = {"boxes": boxes, "box_indices": images} if opset == "iOS17" else {"roi": roi}
        pad = {} if opset == "iOS15" else {"pad_value": 7.5}
        sampled = {"align_corners": True, **AFFINE}
        return (
            mb.crop_resize(x=x, **inputs, **how, **pad, name="crops"),
            mb.resample(x=x, coordinates=places, **sampled, name="places"),
            mb.affine(x=x, transform_matrix=matrix, output_height=3, output_width=2, **sampled, name="turned"),
        )

    grid = functional.affine_grid(torch.from_numpy(matrix).reshape(1, 2, 3), [1, 1, 3, 2], align_corners=True)
    for opset, pad in (("iOS15", None), ("iOS16", 7.5), ("iOS17", 7.5)):
        found = mil.load(build(program, x=x, opset=opset)).predict({"x": x})
        crops = cropped(X, boxes, images, (2, 2), "STRICT_ALIGN_CORNERS", pad)
        np.testing.assert_allclose(found["crops"], crops if opset == "iOS17" else crops[:, None], rtol=1e-6)
        for name, positions in (("places", torch.from_numpy(places)), ("turned", grid)):
            expected = functional.grid_sample(torch.from_numpy(x), positions, align_corners=True)
            np.testing.assert_allclose(found[name], expected, atol=1e-5)
