"""Convolutions; float16 accumulates in float32 and is rounded once, bias included."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from layerdiff.mil.ops.signature import Ints

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
CONV_TRANSPOSE = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def conv(
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of `x` [N, C, *D] with `weight` [C_out, C / groups, *K]."""
    spatial = x.dim() - 2
    strides, dilations = strides or (1,) * spatial, dilations or (1,) * spatial
    kernel = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    before, after = padding(x.shape[2:], kernel, strides, pad_type=pad_type, pad=pad)
    if before != after:
        x, before = pad_spatial(x, before, after), [0] * spatial
    return CONV[spatial](x, weight, bias, strides, before, dilations, groups)


def conv_quantized(
    *,
    x: Tensor,
    weight: Tensor,
    quantization_type: str,
    quant_scale: Tensor,
    quant_bias: Tensor,
    bias: Tensor | None = None,
    nbits: int = 8,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """`conv` with the weights `weight * quant_scale + quant_bias`, per output channel or for all of them.

    `nbits` says how many bits of a weight are used; one byte holds one weight all the same.
    """
    if quantization_type != "linear":
        raise ValueError(f"'{quantization_type}' weights need a table, which the op conv_quantized does not have")
    along = (-1, *[1] * (weight.dim() - 1))
    weight = weight.to(x.dtype) * quant_scale.reshape(along) + quant_bias.reshape(along)
    bias = None if bias is None else bias.to(x.dtype)
    return conv(
        x=x, weight=weight, bias=bias, strides=strides, pad_type=pad_type, pad=pad, dilations=dilations, groups=groups
    )


def conv_transpose(
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """Transposed convolution of `x` [N, C, *D] with `weight` [C, C_out / groups, *K].

    Computed without padding, then cropped: `custom` by `pad`, `same` to D * stride, or to `output_shape`, with an
    odd rest at the end. For the other modes an `output_shape` sets the length. What lies beyond is 0.
    """
    spatial = x.dim() - 2
    strides, dilations = strides or (1,) * spatial, dilations or (1,) * spatial
    full = CONV_TRANSPOSE[spatial](x, weight, None, strides, 0, 0, groups, dilations)
    asked = output_shape[-spatial:] if output_shape else None
    begins, lengths = _kept(x, full, strides, pad_type=pad_type, pad=pad or (0, 0) * spatial, asked=asked)
    missing = [max(0, b + n - size) for b, n, size in zip(begins, lengths, full.shape[2:], strict=True)]
    if any(missing):
        full = pad_spatial(full, [0] * spatial, missing)
    for axis, (begin, length) in enumerate(zip(begins, lengths, strict=True), start=2):
        full = full.narrow(axis, begin, length)
    return full + (0 if bias is None else bias.reshape(-1, *[1] * spatial))


def _kept(
    x: Tensor, full: Tensor, strides: Ints, *, pad_type: str, pad: Ints, asked: Ints | None
) -> tuple[Sequence[int], Sequence[int]]:
    """First position and length per spatial axis of what remains of the unpadded result."""
    sizes = full.shape[2:]
    if pad_type == "same":
        lengths = asked or [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        return [max(0, size - n) // 2 for size, n in zip(sizes, lengths, strict=True)], lengths
    if pad_type == "custom":
        begins, ends = pad[0::2], pad[1::2]
        return begins, asked or [size - b - e for size, b, e in zip(sizes, begins, ends, strict=True)]
    if pad_type == "valid":
        return [0] * len(sizes), asked or sizes
    raise ValueError(f"the pad type '{pad_type}' is none of valid, same and custom")


def padding(
    sizes: Sequence[int], kernel: Sequence[int], strides: Ints, *, pad_type: str, pad: Ints | None
) -> tuple[list[int], list[int]]:
    """Elements to add before and after each spatial axis.

    `same` keeps ceil(size / stride) outputs; an odd total puts the extra element after, `same_lower` before.
    """
    pad_type, nothing = pad_type.lower(), [0] * len(sizes)
    if pad_type == "valid" or (pad_type == "custom" and not pad):
        return nothing, nothing
    if pad_type == "custom" and pad:
        return list(pad[0::2]), list(pad[1::2])
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, strides, strict=True)]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    if pad_type == "same":
        return small, large
    if pad_type == "same_lower":
        return large, small
    raise ValueError(f"the pad type '{pad_type}' is none of valid, same, same_lower and custom")


def pad_spatial(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` with `value` added around its spatial axes."""
    pairs = [n for b, a in reversed(list(zip(before, after, strict=True))) for n in (b, a)]
    return functional.pad(x, pairs, value=value)
