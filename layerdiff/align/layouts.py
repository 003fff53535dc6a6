"""How the axes of a candidate's tensor have to be read so that it agrees with the reference's.

A layout is a permutation of the candidate's axes, a reshape that only merges or splits neighbouring axes, and a
permutation of the reference's: `[1, 8, T, 64]` against `[1, T, 512]` is axes (0, 2, 1, 3) and a merge. It holds no
lengths, so one layout serves inputs of any length. Where the candidate is longer along an axis, because its input was
padded, the surplus is cut off; without a padded input only if what is left agrees, for a tensor of another width is
another tensor. Which layout is right is decided by the values, never by the shapes alone, unless the shapes leave only
one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, permutations
from math import inf, prod
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdiff.metrics import RelativeL2

Array = NDArray[Any]
Shape = tuple[int, ...]

CLOSE = 0.25
"""A layout under which the tensors are this near, as relative L2 error, is taken to be the right one."""
CLEARLY = 0.5
"""How much nearer another layout must bring the tensors than the plain one, to be taken instead of it."""
MAX_AXES = 6
"""Permutations are tried for at most so many axes that are longer than 1."""

PARTS, PART = 16, 2**16
"""Layouts are held against so many parts of a tensor, of about so many values each: all of a small one, and a million
values of a large one, evenly spread along its longest axis."""


@dataclass(frozen=True)
class Layout:
    """From the candidate's axes to the reference's."""

    candidate_axes: tuple[int, ...]
    """The candidate is transposed so, …"""
    reference_axes: tuple[int, ...]
    """… reshaped to the reference's lengths in this order, and transposed back."""
    cropped: bool = False
    """Whether what the candidate has beyond the reference's lengths is cut off."""

    def apply(self, candidate: Array, shape: Sequence[int]) -> Array:
        """The candidate's tensor in the reference's `shape`.

        Raises:
            ValueError: it has other lengths than this layout can bring together.
        """
        if self.is_plain and candidate.shape == tuple(shape):
            return candidate
        moved = candidate.transpose(self.candidate_axes)
        between = tuple(shape[axis] for axis in self.reference_axes)
        if self.cropped and moved.ndim == len(between):
            moved = moved[tuple(slice(length) for length in between)]
        return moved.reshape(between).transpose(np.argsort(self.reference_axes))

    def invert(self, reference: Array, candidate: Array) -> Array:
        """The reference's tensor in the candidate's shape; a surplus keeps the candidate's own values.

        Raises:
            ValueError: it has other lengths than this layout can bring together.
        """
        moved = reference.transpose(self.reference_axes)
        between = tuple(candidate.shape[axis] for axis in self.candidate_axes)
        if self.cropped and moved.ndim == len(between):
            whole = candidate.transpose(self.candidate_axes).copy()
            whole[tuple(slice(length) for length in moved.shape)] = moved
            moved = whole
        return moved.reshape(between).transpose(np.argsort(self.candidate_axes))

    @cached_property
    def is_plain(self) -> bool:
        """Whether nothing is permuted or cut off."""
        return _is_sorted(self.candidate_axes) and _is_sorted(self.reference_axes) and not self.cropped

    def describe(self, *, reference: Sequence[int], candidate: Sequence[int]) -> str:
        """What is done, in words; empty if nothing is.

        >>> Layout((0, 2, 1), (0, 1, 2)).describe(reference=(1, 188, 640), candidate=(1, 640, 188))
        '[1, 640, 188] read as [1, 188, 640]: axes (0, 2, 1)'
        """
        if tuple(reference) == tuple(candidate) and self.is_plain:
            return ""
        steps = [f"axes {self.candidate_axes}"] if not _is_sorted(self.candidate_axes) else []
        steps += [f"axes of the reference {self.reference_axes}"] if not _is_sorted(self.reference_axes) else []
        steps += ["surplus cut off"] if self.cropped else []
        return f"{list(candidate)} read as {list(reference)}" + (f": {', '.join(steps)}" if steps else "")


def plain(*, reference: int, candidate: int) -> Layout:
    """The layout that permutes nothing, for these numbers of axes."""
    return Layout(tuple(range(candidate)), tuple(range(reference)))


def find(
    *, reference: Array, candidate: Array, padded: bool = True, is_returned: bool = False
) -> tuple[Layout | None, float]:
    """The layout under which the two tensors agree best, and their relative L2 error under it.

    The plain layout is taken where it fits and no other one brings the tensors clearly nearer.

    Args:
        reference: any array.
        candidate: any array.
        padded: whether the candidate was fed a longer input, so that a surplus says nothing.
        is_returned: whether both are what the models return: then axes of equal shapes are not exchanged, as whoever
            calls the model would not do it either.

    Returns:
        (None, inf) if no layout brings the shapes together.
    """
    best: Layout | None = None
    error = inf
    is_plain = is_returned and reference.shape == candidate.shape
    for layout in possible(reference.shape, candidate.shape):
        if is_plain and not layout.is_plain:
            continue
        found = distance(reference, candidate, layout)
        if best is None or found < error * (CLEARLY if best.is_plain else 1.0):
            best, error = layout, found
        if best.is_plain and error <= CLOSE:
            break
    if best is not None and best.cropped and not padded and error > CLOSE:
        return None, inf
    return best, error


def possible(reference: Shape, candidate: Shape) -> Iterator[Layout]:
    """Every layout that brings the two shapes together, the plainest first."""
    if max(len(_long_axes(candidate)), len(_long_axes(reference))) > MAX_AXES:
        return
    back, front = tuple(range(len(reference))), tuple(range(len(candidate)))
    layouts = [Layout(axes, back) for axes in _orders(candidate)]
    layouts += [Layout(front, axes) for axes in _orders(reference)]
    layouts += [Layout(axes, back, cropped=True) for axes in _orders(candidate)]
    yield from (layout for layout in dict.fromkeys(layouts) if _fits(layout, reference, candidate))


def _orders(shape: Shape) -> Iterator[tuple[int, ...]]:
    """Permutations of the axes longer than 1, the identity first; in the others, axes of length 1 stand in front."""
    single = tuple(axis for axis, length in enumerate(shape) if length == 1)
    long = _long_axes(shape)
    for order in permutations(long):
        yield tuple(range(len(shape))) if order == long else (*single, *order)


def _long_axes(shape: Shape) -> tuple[int, ...]:
    return tuple(axis for axis, length in enumerate(shape) if length != 1)


def _fits(layout: Layout, reference: Shape, candidate: Shape) -> bool:
    """Whether the permuted shapes differ by merging or splitting neighbours only, or by a surplus that is cut off."""
    moved = tuple(candidate[axis] for axis in layout.candidate_axes)
    between = tuple(reference[axis] for axis in layout.reference_axes)
    if layout.cropped:
        return (
            len(moved) == len(between)
            and moved != between
            and all(large >= small for large, small in zip(moved, between, strict=True))
        )
    return prod(moved) == prod(between) and _refines(moved, between)


def _refines(first: Shape, second: Shape) -> bool:
    """Whether the ends of the axes of one shape are among those of the other."""
    if 0 in first or 0 in second:
        return True
    ends = {1, *accumulate(first, mul)}, {1, *accumulate(second, mul)}
    return ends[0] <= ends[1] or ends[1] <= ends[0]


def distance(reference: Array, candidate: Array, layout: Layout) -> float:
    """Relative L2 error of the candidate under a layout, on at most `PARTS` parts; inf where it is undefined."""
    moved = layout.apply(candidate, reference.shape)
    total = RelativeL2()
    for part in _parts(reference.shape):
        truth, found = reference[part], moved[part]
        if truth.dtype.kind != found.dtype.kind or truth.dtype.kind == "c":
            truth, found = truth.astype(np.float64), found.astype(np.float64)
        total.update(reference=truth, candidate=found)
    error = total.result() if reference.size else 0.0
    return inf if error is None else error


def _parts(shape: Shape) -> Iterator[tuple[slice, ...]]:
    """Parts of a tensor along its longest axis, of about `PART` values; of many, evenly spread ones."""
    if not shape:
        yield ()
        return
    axis = int(np.argmax(shape))
    step = max(1, PART * shape[axis] // max(1, prod(shape)))
    starts = range(0, shape[axis], step)
    places = np.unique(np.linspace(0, len(starts) - 1, min(PARTS, len(starts))).astype(int))
    for place in places:
        yield (*[slice(None)] * axis, slice(starts[place], starts[place] + step))


def _is_sorted(axes: Sequence[int]) -> bool:
    return list(axes) == sorted(axes)
