"""Affine quantization of activations (iOS17): scalar or per-channel scale and zero point."""

from __future__ import annotations

import torch
from torch import Tensor

QUANTIZED = {"int8": torch.int8, "uint8": torch.uint8}
"""`output_dtype` of `quantize` → the dtype of its result."""


def quantize(
    *,
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """`clip(round(input / scale) + zero_point)`, saturated to the range of `output_dtype`.

    The quotient is a true division in the dtype of computation, not a product with the reciprocal as in torch;
    halves are rounded to even.

    Args:
        input: float*[...].
        scale: float*[] or float*[C], one per element of `axis`.
        output_dtype: `int8` or `uint8`.
        zero_point: of `output_dtype`, in the shape of `scale`; 0 if None.
        axis: the axis of the channels; None if `scale` is a scalar.
    """
    dtype = QUANTIZED[output_dtype]
    levels = torch.div(input, _along(scale, axis, input.dim())).round_()
    if zero_point is not None:
        levels += _along(zero_point, axis, input.dim())
    return levels.clamp_(torch.iinfo(dtype).min, torch.iinfo(dtype).max).to(dtype)


def dequantize(*, input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    """`scale * (input - zero_point)`; the difference is exact, the product is rounded once.

    Args:
        input: int8[...] or uint8[...].
        scale: float*[] or float*[C], one per element of `axis`.
        zero_point: in the shape of `scale`; 0 if None.
        axis: the axis of the channels; None if `scale` is a scalar.

    Returns:
        The dtype of `scale`; no memory but that of the result is used.
    """
    values = input.to(scale.dtype, copy=True)
    if zero_point is not None:
        values -= _along(zero_point, axis, input.dim())
    return values.mul_(_along(scale, axis, input.dim()))


def _along(parameter: Tensor, axis: int | None, rank: int) -> Tensor:
    """A vector of one value per channel in a shape that broadcasts along `axis`; a scalar as it is."""
    if parameter.dim() == 0 or axis is None:
        return parameter.reshape(())
    return parameter.reshape([-1 if i == axis % rank else 1 for i in range(rank)])
