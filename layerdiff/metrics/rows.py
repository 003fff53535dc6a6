"""Tensors as rows, and rows as cache-sized blocks.

A row is the last axis of a tensor and the unit of streaming: everything that is summed is summed within the row
in an order that depends on the length of the row alone, so that neither the number of rows in a block nor the
memory layout of the tensor can change a bit of it. Rows are then added exactly (`exact.ExactSum`). A row longer
than `SEGMENT` is cut into segments of that length, which are treated as rows of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]

SEGMENT = 65536
"""Elements per block and at most per segment: small enough for a cache, large enough for NumPy's calls not to count."""
GROUP_ROWS = 16384
"""Rows whose sums are collected before they are added exactly; bounds the memory for narrow rows."""


def check_pair(reference: Array, candidate: Array) -> None:
    """Raises ValueError unless both sides have one shape and one kind of dtype; nothing is broadcast."""
    if reference.shape != candidate.shape:
        raise ValueError(f"reference is {_written(reference)}, candidate is {_written(candidate)}: the shapes differ")
    kinds = [{"u": "i"}.get(side.dtype.kind, side.dtype.kind) for side in (reference, candidate)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"reference is {_written(reference)}, candidate is {_written(candidate)}: the kinds differ")
    if kinds[0] not in "fib":
        raise ValueError(f"reference is {_written(reference)}: only floating, integer and bool tensors have metrics")


def _written(value: Array) -> str:
    return f"{value.dtype}[{', '.join(map(str, value.shape))}]"


def matrices(*sides: Array) -> Iterator[tuple[Array, ...]]:
    """The sides as views [rows, length]; several where their strides don't allow a single one.

    Nothing is copied but where strides leave matrices so small that calls would cost more: they are gathered, at most
    SEGMENT elements at once. A one-dimensional array is one row, a number is one row of one element, an empty array
    is nothing.
    """
    if sides[0].size == 0:
        return
    if sides[0].ndim < 2:
        yield tuple(side.reshape(1, -1) for side in sides)
    elif sides[0].ndim == 2:
        yield sides
    elif all(_leading_axes_merge(side) for side in sides):
        yield tuple(side.reshape(-1, side.shape[-1]) for side in sides)
    elif (together := SEGMENT // sides[0][0].size) > 1:
        for start in range(0, len(sides[0]), together):
            yield tuple(side[start : start + together].reshape(-1, side.shape[-1]) for side in sides)
    else:
        for parts in zip(*sides, strict=True):
            yield from matrices(*parts)


def _leading_axes_merge(array: Array) -> bool:
    """Whether all axes but the last can be read as one without a copy."""
    axes = [(n, stride) for n, stride in zip(array.shape[:-1], array.strides[:-1], strict=True) if n > 1]
    return all(outer[1] == inner[0] * inner[1] for outer, inner in itertools.pairwise(axes))


def groups(rows: int, length: int) -> Iterator[slice]:
    """Rows whose sums are added exactly in one go."""
    size = max(1, GROUP_ROWS // segments(length))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def segments(length: int) -> int:
    """Number of segments of a row."""
    return -(-length // SEGMENT)


def blocks(rows: int, length: int, *, size: int = SEGMENT) -> Iterator[tuple[slice, int, slice]]:
    """Blocks of at most `size` elements: the rows, the number of the segment, the columns."""
    if length > SEGMENT:
        for row in range(rows):
            for segment in range(segments(length)):
                start = segment * SEGMENT
                yield slice(row, row + 1), segment, slice(start, min(start + SEGMENT, length))
        return
    together = size // length
    for start in range(0, rows, together):
        yield slice(start, min(start + together, rows)), 0, slice(0, length)
