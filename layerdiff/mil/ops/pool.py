"""Pooling. Everything is padded explicitly first, so that every pad mode goes one way."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Mean of each window; with `exclude_padding_from_average`, of its elements that are not padding.

    What `ceil_mode` adds never counts.
    """
    windows = _windows(x, kernel_sizes, strides, pad_type=pad_type, pad=pad, ceil_mode=ceil_mode)
    padding_counts = 0.0 if exclude_padding_from_average else 1.0
    counted = pad_spatial(torch.ones_like(x[:1, :1]), windows.before, windows.after, padding_counts)
    share = windows.mean(pad_spatial(counted, [0] * len(kernel_sizes), windows.rest))
    return windows.mean(windows.around(x)) / share


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
    windows = _windows(x, kernel_sizes, strides, pad_type=pad_type, pad=pad, ceil_mode=ceil_mode)
    return torch.sqrt(windows.mean(windows.around(x.square())) * torch.Size(kernel_sizes).numel())


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
    windows = _windows(x, kernel_sizes, strides, pad_type=pad_type, pad=pad, ceil_mode=ceil_mode)
    padded = windows.around(x, fill=-torch.inf)
    return MAXIMUM[len(kernel_sizes)](padded, kernel_sizes, windows.strides)


@dataclass(frozen=True)
class Windows:
    """How the windows of a pooling lie; one number per spatial axis."""

    sizes: Ints
    strides: Ints
    before: list[int]
    """Padding before the elements."""
    after: list[int]
    """Padding after them."""
    rest: list[int]
    """What `ceil_mode` adds after the padding, or takes from it, so that it ends with the last window."""

    def around(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """`x` with everything around it that a window covers."""
        return pad_spatial(x, self.before, [a + r for a, r in zip(self.after, self.rest, strict=True)], fill)

    def mean(self, padded: Tensor) -> Tensor:
        """Sum of each window over its size."""
        return AVERAGE[len(self.sizes)](padded, self.sizes, self.strides)


def _windows(
    x: Tensor, sizes: Ints, strides: Ints | None, *, pad_type: str, pad: Ints | None, ceil_mode: bool
) -> Windows:
    strides = strides or (1,) * len(sizes)
    before, after = padding(x.shape[2:], sizes, strides, pad_type=pad_type, pad=pad)
    axes = zip(x.shape[2:], before, after, sizes, strides, strict=True)
    rest = [_rest(*axis) if ceil_mode else 0 for axis in axes]
    return Windows(sizes, strides, before, after, rest)


def _rest(length: int, before: int, after: int, size: int, stride: int) -> int:
    """Elements that are missing from the last window, which is dropped if it would begin in the padding at the end.

    Without padding it is kept wherever it begins, as the shapes of MIL have it; a window of nothing has the mean
    nan and the maximum -inf.
    """
    padded = length + before + after
    last = -(-(padded - size) // stride)
    if before + after and last * stride >= length + before:
        last -= 1
    return last * stride + size - padded
