"""Resizing, cropping and sampling of images, whose height and width are the last two axes.

Every op works out where in `x` each element of its result lies, and reads there; see `image_sampling`.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from layerdiff.mil.ops.image_sampling import (
    COORDINATES,
    PADDING,
    bilinear,
    grid,
    linear,
    nearest,
    selected,
    whole,
    within,
)
from layerdiff.mil.ops.signature import Ints

IMAGE = (-2, -1)
"""The axes of height and width."""

BOXES = {
    "CORNERS_HEIGHT_FIRST": (False, False),
    "CORNERS_WIDTH_FIRST": (True, False),
    "CENTER_SIZE_HEIGHT_FIRST": (False, True),
    "CENTER_SIZE_WIDTH_FIRST": (True, True),
}
"""Box coordinate mode → whether the width comes first, and whether it is (centre, size) instead of (start, end)."""

# ------------------------------------------------------------------ whole images


def crop(*, x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    """`x` without that many rows and columns at its (begin, end)."""
    (top, bottom), (left, right) = crop_height, crop_width
    height, width = x.shape[-2:]
    return x.narrow(-2, top, height - top - bottom).narrow(-1, left, width - left - right)


def resize(
    *,
    x: Tensor,
    shape: Ints,
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last `resized_dims` axes of `x` brought to the last entries of `shape`; 0 keeps a length."""
    if not resized_dims:
        return x.clone()
    axes = range(-resized_dims, 0)
    lengths = [shape[axis] or x.shape[axis] for axis in axes]
    if interpolation_mode == "LINEAR":
        return linear(x, axes, lengths, sampling_mode)
    if interpolation_mode == "NEAREST_NEIGHBOR":
        return selected(x, axes, lengths, partial(nearest, mode=sampling_mode))
    raise ValueError(f"the interpolation mode '{interpolation_mode}' is neither LINEAR nor NEAREST_NEIGHBOR")


def resize_bilinear(
    *, x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Linear interpolation on the grid of `sampling_mode`."""
    return linear(x, IMAGE, (target_size_height, target_size_width), sampling_mode)


def resize_nearest_neighbor(*, x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """The pixels under the centres of the new ones."""
    return selected(x, IMAGE, (target_size_height, target_size_width), nearest)


def upsample_bilinear(
    *,
    x: Tensor,
    scale_factor_height: float = 1.0,
    scale_factor_width: float = 1.0,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Linear interpolation to `floor(length * scale)`; the grid follows from the lengths, not from the scales.

    `half_pixel_centers`, which iOS16 added, is the contrary of `align_corners` if absent.
    """
    half_pixel_centers = not align_corners if half_pixel_centers is None else half_pixel_centers
    if align_corners and half_pixel_centers:
        raise ValueError("align_corners and half_pixel_centers exclude each other")
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half_pixel_centers else "DEFAULT"
    return linear(x, IMAGE, _scaled(x, scale_factor_height, scale_factor_width), mode)


def upsample_nearest_neighbor(
    *, x: Tensor, scale_factor_height: float = 1.0, scale_factor_width: float = 1.0
) -> Tensor:
    """Element `floor(i * length / new length)` for each i, with the new length `floor(length * scale)`."""
    lengths = _scaled(x, scale_factor_height, scale_factor_width)
    return selected(x, IMAGE, lengths, lambda size, count: torch.arange(count) * size // count)


def _scaled(x: Tensor, *scales: float) -> list[int]:
    """Height and width of the scaled image; the product is rounded to float32, as where shapes are inferred."""
    return [
        math.floor(torch.tensor(scale * x.shape[axis], dtype=torch.float32))
        for axis, scale in zip(IMAGE, scales, strict=True)
    ]


# ------------------------------------------------------------------ parts of images


def crop_resize(
    *,
    x: Tensor,
    boxes: Tensor,
    box_indices: Tensor | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """Boxes [N, 4] of the images [B, C, H, W], each resized: [N, C, H', W']; box i lies in image `box_indices[i]`.

    The grid of `sampling_mode` is laid over the box, ends included; what lies outside the image is `pad_value`.
    """
    spans = _spans(boxes, x, box_coordinate_mode, normalized=normalized_coordinates, scale=spatial_scale)
    rows, columns = _grids(spans, x, (target_height, target_width), sampling_mode)
    images = torch.arange(len(boxes)) if box_indices is None else box_indices
    inside = within(rows, x.shape[2]).unsqueeze(2) & within(columns, x.shape[3]).unsqueeze(1)
    return torch.where(inside.unsqueeze(1), _crops(x, images, rows, columns), pad_value)


def crop_resize_ios16(
    *,
    x: Tensor,
    roi: Tensor,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """iOS16: `roi` [N, 1, 4, 1, 1] holds boxes of every image, for [N, B, C, H', W'].

    `roi` [N, 1, 5, 1, 1] holds the number of an image before each box, for [N, 1, C, H', W'].
    """
    boxes, images = _regions(roi, len(x))
    crops = crop_resize(
        x=x,
        boxes=boxes,
        box_indices=images,
        target_height=target_height,
        target_width=target_width,
        normalized_coordinates=normalized_coordinates,
        spatial_scale=spatial_scale,
        box_coordinate_mode=box_coordinate_mode,
        sampling_mode=sampling_mode,
        pad_value=pad_value,
    )
    return _by_region(crops, roi, x)


def crop_resize_ios15(
    *,
    x: Tensor,
    roi: Tensor,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """iOS15: as in iOS16, but what lies outside the image, which this opset does not define, is the nearest edge."""
    boxes, images = _regions(roi, len(x))
    spans = _spans(boxes, x, box_coordinate_mode, normalized=normalized_coordinates, scale=spatial_scale)
    rows, columns = _grids(spans, x, (target_height, target_width), sampling_mode)
    return _by_region(_crops(x, images, rows, columns), roi, x)


def _regions(roi: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Boxes [N', 4] and the image of each: given, or each box for every image."""
    roi = roi.flatten(1)
    if roi.shape[1] == 5:
        return roi[:, 1:], roi[:, 0]
    return roi.repeat_interleave(batch, 0), torch.arange(batch).repeat(len(roi))


def _by_region(crops: Tensor, roi: Tensor, x: Tensor) -> Tensor:
    """[N', C, H', W'] → [N, 1 or B, C, H', W']."""
    return crops.reshape(len(roi), 1 if roi.shape[2] == 5 else len(x), *crops.shape[1:])


def _spans(boxes: Tensor, x: Tensor, mode: str, *, normalized: bool, scale: float) -> tuple[Tensor, Tensor]:
    """First and last position of each box, float64[N, 2] in the order height, width."""
    width_first, center_size = BOXES[mode]
    boxes = boxes.double() * scale
    boxes = boxes[:, [1, 0, 3, 2]] if width_first else boxes
    starts, ends = boxes[:, :2], boxes[:, 2:]
    if center_size:
        starts, ends = starts - ends / 2, starts + ends / 2
    last = torch.tensor(x.shape[2:], dtype=torch.float64) - 1
    return (starts * last, ends * last) if normalized else (starts, ends)


def _grids(spans: tuple[Tensor, Tensor], x: Tensor, lengths: tuple[int, int], mode: str) -> tuple[Tensor, Tensor]:
    """Where the rows [N, H'] and the columns [N, W'] of each crop lie in the image.

    A box whose end precedes its start gives a mirrored crop. Only with UNALIGN_CORNERS it stands for the whole
    axis, as the one published result for such a box has it, in coremltools' test of iOS15.
    """
    starts, ends = spans
    found = []
    for axis, length in enumerate(lengths):
        first, last = starts[:, axis], ends[:, axis]
        if mode == "UNALIGN_CORNERS":
            mirrored = first > last
            first, last = first.where(~mirrored, 0), last.where(~mirrored, x.shape[2 + axis] - 1)
        found.append(grid(first, last, length, mode))
    return found[0], found[1]


def _crops(x: Tensor, images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels of `images` [N] at the crossings of rows [N, H'] and columns [N, W']: [N, C, H', W']."""
    pixels, image = x.movedim(1, -1), images.long().reshape(-1, 1, 1)
    if bool((image < 0).any()):
        raise IndexError(f"there is no image {int(image.min())} to crop from")
    rows = rows.clamp(0, x.shape[2] - 1).unsqueeze(2)
    columns = columns.clamp(0, x.shape[3] - 1).unsqueeze(1)
    return bilinear(lambda row, column: pixels[image, row, column], rows, columns, x.dtype)


# ------------------------------------------------------------------ free positions


def affine(
    *,
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """`x` read at (a0 u + a1 v + a2, b0 u + b1 v + b2), where (u, v) are the normalised places of the result.

    `transform_matrix` [B or 1, 6] holds a0 … b2. A single row or column has the place 0, as in torch.
    """
    u = _normalised(output_width, coordinates_mode, align_corners)
    v = _normalised(output_height, coordinates_mode, align_corners).unsqueeze(1)
    a0, a1, a2, b0, b1, b2 = transform_matrix.double().reshape(-1, 6, 1, 1).unbind(1)
    coordinates = torch.stack([a0 * u + a1 * v + a2, b0 * u + b1 * v + b2], -1)  # [D, H', W', 2]
    return resample(
        x=x,
        coordinates=coordinates.expand(len(x), -1, -1, -1),
        sampling_mode=sampling_mode,
        padding_mode=padding_mode,
        padding_value=padding_value,
        coordinates_mode=coordinates_mode,
        align_corners=align_corners,
    )


def resample(
    *,
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """`x` [B, C, H, W] read at `coordinates` [B, H', W', 2], which hold (column, row): [B, C, H', W'].

    A padded image is read where a position lies outside; a position half-way between two pixels is nearest to the
    even one, as in torch.
    """
    scaling, padding = COORDINATES[coordinates_mode.lower()], PADDING[padding_mode.lower()]
    columns, rows = (
        padding(scaling(places, size, align_corners), size)
        for places, size in zip(coordinates.double().unbind(-1), (x.shape[3], x.shape[2]), strict=True)
    )
    pixels, image = x.movedim(1, -1), torch.arange(len(x)).reshape(-1, 1, 1)

    def pick(row: Tensor, column: Tensor) -> Tensor:
        there = within(row, x.shape[2]) & within(column, x.shape[3])
        found = pixels[image, row.clamp(0, x.shape[2] - 1), column.clamp(0, x.shape[3] - 1)]
        return torch.where(there.unsqueeze(-1), found, padding_value)

    if sampling_mode.lower() == "nearest":
        return pick(whole(rows.round()), whole(columns.round())).movedim(-1, 1).contiguous()
    if sampling_mode.lower() == "bilinear":
        return bilinear(pick, rows, columns, x.dtype)
    raise ValueError(f"the sampling mode '{sampling_mode}' is neither bilinear nor nearest")


def _normalised(length: int, mode: str, align_corners: bool) -> Tensor:
    """Places of the pixels of an axis, float64[length], in the coordinates of a mode of `resample`."""
    if mode.lower() != "normalized_minus_one_to_one":
        raise ValueError(f"an affine transformation has no coordinates of the mode '{mode}'")
    places = torch.arange(length, dtype=torch.float64)
    if align_corners:
        return 2 * places / (length - 1) - 1 if length > 1 else torch.zeros(1, dtype=torch.float64)
    return (2 * places + 1) / length - 1
