"""Images as Core ML's features: pictures outside, tensors inside.

A program knows no images. What the description calls one is a tensor `[1, C, H, W]` (or `[C, H, W]`) of
values from 0 to 255 inside, with three channels in the order of the colour layout, or one for grey:

| layout | pillow's mode given | returned | a pixel is |
|---|---|---|---|
| RGB, BGR | RGB, or RGBA without its A | RGBA, A is 255 | 8 bits per channel |
| GRAYSCALE | L | L | 8 bits |
| GRAYSCALE_FLOAT16 | F | F | a float16 |

Nothing is resized or converted to another mode: neither does coremltools. Pillow is imported only when an
image is returned.

Source: the checks of `MLModel.predict`, the tests of coremltools' torch frontend, its Python binding.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdiff.errors import FeedError, MissingExtraError
from layerdiff.mil.features import TensorSpec

Array = NDArray[Any]

MODES = {"RGB": ("RGB", "RGBA"), "BGR": ("RGB", "RGBA"), "GRAYSCALE": ("L",), "GRAYSCALE_FLOAT16": ("F",)}
"""Colour layout → pillow's modes that are taken for it."""


def is_image(value: Any) -> bool:
    """Whether it is an image of pillow; nothing can be one before pillow is imported."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def pixels(value: Any, spec: TensorSpec, *, where: str) -> Array:
    """The tensor of an image, its values as the program gets them, in any dtype that holds them.

    Args:
        value: an image of pillow; an array [H, W, 3] in the order R, G, B, or [H, W] if it is grey; or an array
            of the shape of `spec`, with its channels in the order of the layout.
        spec: the input.
        where: the package and function, for messages.

    Returns:
        uint8 or float*[…, C, H, W] of the rank of `spec`.

    Raises:
        FeedError: the mode, the number of channels or the size is another.
    """
    if is_image(value) and value.mode not in MODES[spec.color]:
        raise _refused(f"the image given for '{spec.name}' is of the mode '{value.mode}'.", spec, where, value.mode)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refused(
            f"what is given for '{spec.name}' is no image: {error}.", spec, where, type(value).__name__
        ) from error
    if array.dtype.kind not in "fiu":
        raise _refused(f"what is given for '{spec.name}' is no image.", spec, where, type(value).__name__)
    inside = array if array.ndim > 2 and spec.accepts(array.shape) else _inside(array, spec)
    if not spec.accepts(inside.shape):
        got = f"{value.mode} {value.size[0]} × {value.size[1]}" if is_image(value) else f"{array.dtype}{[*array.shape]}"
        raise _refused(f"the image given for '{spec.name}' has another size.", spec, where, got)
    return _as_pixels(inside, spec, where)


def _inside(array: Array, spec: TensorSpec) -> Array:
    """Rows of pixels as the program has them: channels first, in the order of the layout, under leading ones."""
    if array.ndim == 3 and array.shape[2] in (3, 4):
        channels = array[..., :3] if spec.color == "RGB" else array[..., 2::-1]
        array = channels.transpose(2, 0, 1)
    return array.reshape((1,) * (len(spec.shape) - array.ndim) + array.shape) if array.ndim < 4 else array


def _as_pixels(array: Array, spec: TensorSpec, where: str) -> Array:
    """The values as far as a pixel can hold them."""
    half = spec.color == "GRAYSCALE_FLOAT16"
    limits = np.finfo(np.float16) if half else np.iinfo(np.uint8)
    if array.size and not (limits.min <= array.min() and array.max() <= limits.max):
        raise _refused(
            f"the image given for '{spec.name}' holds values that do not fit its pixels.",
            spec,
            where,
            f"{array.min()} … {array.max()}",
        )
    if half:
        return array.astype(np.float16)
    return np.rint(array) if np.dtype(spec.dtype).kind == "u" else array


def _refused(what: str, spec: TensorSpec, where: str, got: str) -> FeedError:
    allowed = f"; allowed shapes: {', '.join(map(str, map(list, spec.enumerated)))}" if spec.enumerated else ""
    modes = " or ".join(MODES[spec.color])
    return FeedError(what, where=where, detail=f"expected {spec}, of the mode {modes}, got {got}{allowed}")


def picture(array: Array, spec: TensorSpec) -> Any:
    """The image of pillow for an output, as `MLModel.predict` returns it.

    Args:
        array: float*[1, C, H, W] or [C, H, W]. Values of 8 bits are rounded to the nearest and limited to
            0 … 255; NaN is 0.
        spec: the output.

    Raises:
        MissingExtraError: pillow is not installed.
    """
    image = _pillow()
    channels = array.reshape(array.shape[-3:])  # [C, H, W]
    if spec.color == "GRAYSCALE_FLOAT16":
        with np.errstate(over="ignore"):
            return image.fromarray(channels[0].astype(np.float16).astype(np.float32))
    bounded = np.nan_to_num(channels.astype(np.float64), nan=0.0).clip(0, 255)
    bytes_ = np.rint(bounded).astype(np.uint8)
    if spec.color == "GRAYSCALE":
        return image.fromarray(np.ascontiguousarray(bytes_[0]))
    colors = bytes_[::-1] if spec.color == "BGR" else bytes_
    opaque = np.full_like(bytes_[:1], 255)
    return image.fromarray(np.ascontiguousarray(np.concatenate([colors, opaque]).transpose(1, 2, 0)))


def _pillow() -> Any:
    try:
        return import_module("PIL.Image")
    except ImportError as error:
        raise MissingExtraError("pillow", extra="images", purpose="returning an image") from error
