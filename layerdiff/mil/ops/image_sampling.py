"""Where in an image the elements of a result lie, and what is read there: what the image ops share.

Positions are fractional numbers of pixels in float64, so that the end of a grid is the end of its interval. What is
read is the nearest pixel, or a linear mixture of the pixels around, in the dtype of computation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Pick = Callable[[Tensor, Tensor], Tensor]
"""Whole rows and columns that broadcast to [N, H', W'] → the pixels there, [N, H', W', C]."""

# ------------------------------------------------------------------ grids


@dataclass(frozen=True)
class Sampling:
    """Point i of n on an interval of X pixels lies at `(i + shift) * span / steps - lead`, kept inside."""

    span: Callable[[Tensor], Tensor]
    """X - 1 → length to divide."""
    steps: Callable[[int], int]
    """n → how many parts it is divided into."""
    shift: Callable[[int], float] = lambda n: 0.0
    lead: float = 0.0


SAMPLING = {
    "STRICT_ALIGN_CORNERS": Sampling(lambda last: last, lambda n: max(n - 1, 1)),
    "ALIGN_CORNERS": Sampling(lambda last: last, lambda n: max(n - 1, 1), lambda n: 0.5 if n == 1 else 0.0),
    "DEFAULT": Sampling(lambda last: last + 1, lambda n: n),
    "OFFSET_CORNERS": Sampling(lambda last: last.clamp(min=1), lambda n: n, lambda n: 0.5),
    "UNALIGN_CORNERS": Sampling(lambda last: last + 1, lambda n: n, lambda n: 0.5, lead=0.5),
}
"""The sampling modes, as `resize_bilinear` and Apple's specification of `SamplingMode` define them."""


def grid(first: Tensor, last: Tensor, count: int, mode: str) -> Tensor:
    """`count` positions on each interval from `first` [N] to `last` [N], float64[N, count]."""
    sampling = SAMPLING[mode]
    first, last = first.double().unsqueeze(-1), last.double().unsqueeze(-1)
    length = (last - first).abs()
    step = torch.arange(count, dtype=torch.float64) + sampling.shift(count)
    places = step * sampling.span(length) / sampling.steps(count) - sampling.lead
    places = torch.minimum(places.clamp(min=0), length)
    return first + torch.where(last < first, -places, places)


def nearest(size: int, count: int, mode: str = "DEFAULT") -> Tensor:
    """Which of `size` elements each of `count` takes, int64[count].

    DEFAULT and UNALIGN_CORNERS take the element under the centre of the new one, computed in integers, as TensorFlow
    does with half-pixel centres. A single element has no spacing in DEFAULT, so that it takes the first:
    coremltools' tests note that there the device differs from TensorFlow. The other modes round their grid.
    """
    if mode == "DEFAULT" and count == 1:
        return torch.zeros(1, dtype=torch.int64)
    if mode in ("DEFAULT", "UNALIGN_CORNERS"):
        return (2 * torch.arange(count) + 1) * size // (2 * count)
    return (_axis_grid(size, count, mode) + 0.5).long()


def _axis_grid(size: int, count: int, mode: str) -> Tensor:
    return grid(torch.zeros(1), torch.tensor([size - 1.0]), count, mode)[0]


# ------------------------------------------------------------------ free positions


def _from_minus_one(places: Tensor, size: int, align_corners: bool) -> Tensor:
    return _from_zero((places + 1) / 2, size, align_corners)


def _from_zero(places: Tensor, size: int, align_corners: bool) -> Tensor:
    return places * (size - 1) if align_corners else places * size - 0.5


COORDINATES: dict[str, Callable[[Tensor, int, bool], Tensor]] = {
    "unnormalized": lambda places, size, align_corners: places,
    "normalized_minus_one_to_one": _from_minus_one,
    "normalized_zero_to_one": _from_zero,
}
"""Coordinates mode of `resample` → positions of pixels; with `align_corners` 0 and 1 are centres, else edges."""


def _mirrored(places: Tensor, first: float, last: float) -> Tensor:
    """Places outside [first, last] reflected at its ends until they are inside."""
    span = last - first
    if span == 0:
        return torch.full_like(places, first)
    return span - ((places - first).remainder(2 * span) - span).abs() + first


PADDING: dict[str, Callable[[Tensor, int], Tensor]] = {
    "constant": lambda places, size: places.clamp(-1, size),
    "border": lambda places, size: places.clamp(0, size - 1),
    "reflection": lambda places, size: _mirrored(places, 0, size - 1),
    "symmetric": lambda places, size: _mirrored(places, -0.5, size - 0.5).clamp(0, size - 1),
}
"""Padding mode of `resample` → the places of the image that stand for any place; -1 and `size` are the padding."""

# ------------------------------------------------------------------ reading


def selected(x: Tensor, axes: Sequence[int], lengths: Sequence[int], places: Callable[[int, int], Tensor]) -> Tensor:
    """`x` with each axis brought to its length by `places`: (size, length) → which elements to take."""
    for axis, length in zip(axes, lengths, strict=True):
        x = x.index_select(axis, places(x.shape[axis], length))
    return x


def linear(x: Tensor, axes: Sequence[int], lengths: Sequence[int], mode: str) -> Tensor:
    """Linear interpolation along one axis, counted from the end, after the other; integers become float64."""
    x = x.clone() if x.is_floating_point() else x.double()
    for axis, length in reversed(list(zip(axes, lengths, strict=True))):  # the last is slowest while it is long
        before, after, weight = _neighbours(_axis_grid(x.shape[axis], length, mode), x.dtype)
        weight = weight.reshape(-1, *[1] * (-axis - 1))
        x = torch.lerp(x.index_select(axis, before), x.index_select(axis, after), weight)
    return x


def bilinear(pick: Pick, rows: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor:
    """Mixtures of the four pixels around each position, [N, C, H', W']."""
    top, bottom, down = _neighbours(rows, dtype)
    left, right, across = _neighbours(columns, dtype)
    above = torch.lerp(pick(top, left), pick(top, right), across.unsqueeze(-1))
    below = torch.lerp(pick(bottom, left), pick(bottom, right), across.unsqueeze(-1))
    return torch.lerp(above, below, down.unsqueeze(-1)).movedim(-1, 1).contiguous()


def _neighbours(places: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The elements before and after each place, the same one where it is whole, and the weight of the latter."""
    return whole(places.floor()), whole(places.ceil()), (places - places.floor()).to(dtype)


def whole(places: Tensor) -> Tensor:
    """Whole places as indices; nan reads element 0, and is left to the weights."""
    return places.nan_to_num().long()


def within(places: Tensor, size: int) -> Tensor:
    """Which places lie on the elements 0 to size - 1; nan counts as one that does, so that its result is nan."""
    return ~((places < 0) | (places > size - 1))
