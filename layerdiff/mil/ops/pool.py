"""Pooling. Everything is padded explicitly first, so that every pad mode goes one way."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from layerdiff.mil.ops.conv import pad_spatial, padding
from layerdiff.mil.ops.signature import Ints

AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
MAXIMUM = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def avg_pool(
    *,
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Mean of each window; with `exclude_padding_from_average`, of its elements that are not padding."""
    strides = strides or (1,) * len(kernel_sizes)
    before, after, extra = _pads(x, kernel_sizes, strides, pad_type=pad_type, pad=pad, ceil_mode=ceil_mode)
    ones = torch.ones_like(x[:1, :1])
    ones = pad_spatial(ones, before, after, value=0.0 if exclude_padding_from_average else 1.0)
    nothing, area = [0] * len(extra), AVERAGE[len(kernel_sizes)]
    total = area(pad_spatial(x, before, [a + e for a, e in zip(after, extra, strict=True)]), kernel_sizes, strides)
    return total / area(pad_spatial(ones, nothing, extra), kernel_sizes, strides)


def l2_pool(
    *,
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """`sqrt(sum(x²))` of each window."""
    strides = strides or (1,) * len(kernel_sizes)
    before, after, extra = _pads(x, kernel_sizes, strides, pad_type=pad_type, pad=pad, ceil_mode=ceil_mode)
    padded = pad_spatial(x.square(), before, [a + e for a, e in zip(after, extra, strict=True)])
    mean = AVERAGE[len(kernel_sizes)](padded, kernel_sizes, strides)
    return torch.sqrt(mean * torch.Size(kernel_sizes).numel())


def max_pool(
    *,
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Largest element of each window; padding never wins."""
    strides = strides or (1,) * len(kernel_sizes)
    before, after, extra = _pads(x, kernel_sizes, strides, pad_type=pad_type, pad=pad, ceil_mode=ceil_mode)
    padded = pad_spatial(x, before, [a + e for a, e in zip(after, extra, strict=True)], value=-torch.inf)
    return MAXIMUM[len(kernel_sizes)](padded, kernel_sizes, strides)


def _pads(
    x: Tensor, kernel: Ints, strides: Ints, *, pad_type: str, pad: Ints | None, ceil_mode: bool
) -> tuple[list[int], list[int], list[int]]:
    """Padding before, after, and what `ceil_mode` adds at the end so that the last window is whole.

    As in torch, a window that would begin in that last part is dropped.
    """
    sizes = x.shape[2:]
    before, after = padding(sizes, list(kernel), strides, pad_type=pad_type, pad=pad)
    extra = [0] * len(kernel)
    if ceil_mode:
        for axis, (n, b, a, k, s) in enumerate(zip(sizes, before, after, kernel, strides, strict=True)):
            windows = -(-(n + b + a - k) // s) + 1
            windows -= (windows - 1) * s >= n + b
            extra[axis] = max(0, (windows - 1) * s + k - (n + b + a))
    return before, after, extra
