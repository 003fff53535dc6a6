"""Convolutions; float16 accumulates in float32 and is rounded once, bias included."""

from __future__ import annotations

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

    Computed without padding, then cropped: `custom` by `pad`, `same` to D * stride; then, if there is an
    `output_shape`, cut or zero-extended at the end to it.
    """
    spatial = x.dim() - 2
    strides, dilations = strides or (1,) * spatial, dilations or (1,) * spatial
    full = CONV_TRANSPOSE[spatial](x, weight, None, strides, 0, 0, groups, dilations)
    begins, lengths = _crop(x, full, strides, pad_type=pad_type, pad=pad or (0, 0) * spatial)
    if output_shape:
        lengths = list(output_shape[-spatial:])
    missing = [max(0, b + n - size) for b, n, size in zip(begins, lengths, full.shape[2:], strict=True)]
    if any(missing):
        full = pad_spatial(full, [0] * spatial, missing)
    for axis, (begin, length) in enumerate(zip(begins, lengths, strict=True), start=2):
        full = full.narrow(axis, begin, length)
    return full + (0 if bias is None else bias.reshape(-1, *[1] * spatial))


def _crop(x: Tensor, full: Tensor, strides: Ints, *, pad_type: str, pad: Ints) -> tuple[list[int], list[int]]:
    """First position and length per spatial axis of what remains of the unpadded result."""
    sizes = list(full.shape[2:])
    if pad_type == "same":
        lengths = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        return [max(0, size - n) // 2 for size, n in zip(sizes, lengths, strict=True)], lengths
    if pad_type == "custom":
        begins, ends = list(pad[0::2]), list(pad[1::2])
        return begins, [size - b - e for size, b, e in zip(sizes, begins, ends, strict=True)]
    return [0] * len(sizes), sizes


def padding(
    sizes: tuple[int, ...], kernel: list[int], strides: Ints, *, pad_type: str, pad: Ints | None
) -> tuple[list[int], list[int]]:
    """Elements to add before and after each spatial axis.

    `same` keeps ceil(size / stride) outputs; an odd total puts the extra element after, `same_lower` before.
    """
    if pad_type == "valid" or (pad_type == "custom" and not pad):
        return [0] * len(sizes), [0] * len(sizes)
    if pad_type == "custom":
        assert pad is not None
        return list(pad[0::2]), list(pad[1::2])
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, strides, strict=True)]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (small, large) if pad_type == "same" else (large, small)


def pad_spatial(x: Tensor, before: list[int], after: list[int], value: float = 0.0) -> Tensor:
    """`x` with `value` added around its spatial axes."""
    pairs = [n for b, a in reversed(list(zip(before, after, strict=True))) for n in (b, a)]
    return functional.pad(x, pairs, value=value)
