"""One cache-sized block of both sides, measured in a single visit.

The block is copied into scratch memory once, and everything that any metric needs is taken from there while it
is in the cache: range, row sums, largest difference, tolerance, ULP. Nothing of a tensor's size is allocated.
Blocks with an element that is not finite leave the fast path: they are counted, and their errors are nan.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdiff.metrics.rows import SEGMENT, Array, Floats, row_products, row_sums, shaped

QUANTITIES = (
    "reference_sum",
    "candidate_sum",
    "abs_error_sum",
    "reference_energy",
    "candidate_energy",
    "error_energy",
    "product",
)
"""What is summed per row, in the order of the leading axis of `Block.sums`; an energy is a sum of squares."""

REFERENCE_ENERGY, ERROR_ENERGY = QUANTITIES.index("reference_energy"), QUANTITIES.index("error_energy")


SPARSE = 1 / 16
"""Below this share elements are looked at one by one."""


class Scratch(threading.local):
    """Buffers of one block, one set per thread, reused by every accumulator of that thread (3.7 MB)."""

    def __init__(self) -> None:
        self.native = np.empty((2, SEGMENT), np.float32)
        """Both sides, where float32 holds them exactly."""
        self.wide = np.empty((3, SEGMENT), np.float64)
        """Reference, candidate, candidate - reference."""
        self.tolerance = np.empty(SEGMENT, np.float64)
        self.exceeds = np.empty(SEGMENT, np.bool_)
        self.half = np.empty((2, SEGMENT), np.float16)
        self.index = np.empty((2, SEGMENT), np.int32)
        self.distance = np.empty(SEGMENT, np.int32)


SCRATCH = Scratch()


@dataclass(frozen=True)
class Side:
    """The range of one side of a block, over its finite values, and what is not finite."""

    low: float
    """inf if nothing is finite."""
    high: float
    """-inf if nothing is finite."""
    nan_count: int = 0
    inf_count: int = 0


@dataclass(frozen=True)
class Block:
    """What one block adds to the metrics."""

    sums: Floats
    """float64[len(QUANTITIES), rows]; the error quantities are nan in rows with an element that is not finite."""
    reference: Side
    candidate: Side
    max_abs: float = 0.0
    max_ulp: int = 0
    mismatches: int = 0
    unmatched: int = 0
    """Elements of the candidate that are not finite and differ from the reference's."""


def measure(reference: Array, candidate: Array, *, dtype: str, atol: float, rtol: float) -> Block:
    """Everything about one block, [rows, length] on both sides and of at most SEGMENT elements."""
    native, wide = load(reference, candidate)
    low, high = np.minimum.reduce(native, axis=1).tolist(), np.maximum.reduce(native, axis=1).tolist()
    sides = (Side(low[0], high[0]), Side(low[1], high[1]))
    if not all(map(math.isfinite, low + high)):
        return _not_finite(wide, shape=reference.shape)
    np.subtract(wide[1], wide[0], out=wide[2])
    sums = _sums(wide, shape=reference.shape)
    max_abs = float(np.maximum.reduce(wide[2]))
    mismatches = _mismatches(wide, atol=atol, rtol=rtol) if max_abs > atol else 0
    max_ulp = _max_ulp(reference, candidate, native=native, dtype=dtype) if max_abs else 0
    return Block(sums, *sides, max_abs=max_abs, max_ulp=max_ulp, mismatches=mismatches)


def summarise(values: Array) -> tuple[Side, Floats]:
    """The range of one side of a block, and its row sums over the finite values, float64[rows]."""
    native, wide = load(values)
    low, high = float(np.minimum.reduce(native[0])), float(np.maximum.reduce(native[0]))
    side = Side(low, high)
    if not math.isfinite(low - high):
        side = _clear(wide[0], np.isfinite(wide[0]))
    return side, row_sums(shaped(wide, rows=values.shape[0], length=values.shape[1])[0])


def energies(reference: Array, candidate: Array) -> Floats:
    """Row sums of reference² and of (candidate - reference)², float64[2, rows]."""
    _, wide = load(reference, candidate)
    np.subtract(wide[1], wide[0], out=wide[1])
    view = shaped(wide[:2], rows=reference.shape[0], length=reference.shape[1])
    return row_products(view, view)


def load(*sides: Array) -> tuple[NDArray[Any], Floats]:
    """The sides in scratch memory: [k, n] in the narrowest of float32 and float64 that is exact, [3, n] in float64.

    float64 is the widest: integers beyond 2**53 are rounded.
    """
    (rows, length), size, count = sides[0].shape, sides[0].size, len(sides)
    wide = SCRATCH.wide[:, :size]
    exact = np.result_type(*(side.dtype for side in sides), np.float32)
    native = SCRATCH.native[:count, :size] if exact == np.float32 else wide[:count]
    view = shaped(native, rows=rows, length=length)
    for place, side in zip(view, sides, strict=True):
        np.copyto(place, side, casting="unsafe")
    if native.dtype == np.float32:
        np.copyto(wide[:count], native)
    return native, wide


def _sums(wide: Floats, *, shape: tuple[int, ...]) -> Floats:
    """The row sums, in the order of QUANTITIES; leaves |candidate - reference| in `wide[2]`."""
    view = shaped(wide, rows=shape[0], length=shape[1])
    sums = np.empty((len(QUANTITIES), shape[0]))
    sums[3:6] = row_products(view, view)
    sums[6] = row_products(view[0], view[1])
    np.abs(wide[2], out=wide[2])
    sums[:3] = row_sums(view)
    return sums


def _mismatches(wide: Floats, *, atol: float, rtol: float) -> int:
    """Elements outside the tolerance; needs |candidate - reference| in `wide[2]`."""
    exceeds = np.greater(wide[2], atol, out=SCRATCH.exceeds[: wide.shape[1]])
    if np.count_nonzero(exceeds) < SPARSE * exceeds.size:
        few = np.flatnonzero(exceeds)
        return int(np.count_nonzero(wide[2, few] > np.abs(wide[0, few]) * rtol + atol))
    tolerance = np.abs(wide[0], out=SCRATCH.tolerance[: wide.shape[1]])
    np.multiply(tolerance, rtol, out=tolerance)
    np.add(tolerance, atol, out=tolerance)
    np.greater(wide[2], tolerance, out=exceeds)
    return int(np.count_nonzero(exceeds))


def _max_ulp(reference: Array, candidate: Array, *, native: NDArray[Any], dtype: str) -> int:
    """Largest distance in representable values of `dtype`."""
    index = _indices(reference, candidate, native=native, dtype=dtype)
    first, second = index
    distance = np.bitwise_xor(first, second, out=SCRATCH.distance[: first.size])
    across = np.flatnonzero(distance < 0) if np.minimum.reduce(distance) < 0 else ()
    np.subtract(first, second, out=distance)
    farthest = 0
    if len(across):  # of two signs: both magnitudes, so that the two zeros are one value
        magnitudes = index[:, across] & (0x7FFFFFFF if dtype == "float32" else 0x7FFF)
        farthest = int(np.add.reduce(magnitudes, axis=0, dtype=np.int64).max())
        distance[across] = 0
    return max(farthest, int(np.maximum.reduce(distance)), -int(np.minimum.reduce(distance)))


def _indices(reference: Array, candidate: Array, *, native: NDArray[Any], dtype: str) -> NDArray[np.int32]:
    """The bit patterns of both sides in `dtype`, sign-extended to int32, as [2, n]."""
    (rows, length), size = reference.shape, reference.size
    if native.dtype == dtype:
        return native.view(np.int32)
    rounded = (SCRATCH.half if dtype == "float16" else SCRATCH.native)[:, :size]
    view = shaped(rounded, rows=rows, length=length)
    np.copyto(view[0], reference, casting="unsafe")
    np.copyto(view[1], candidate, casting="unsafe")
    if dtype == "float32":
        return rounded.view(np.int32)
    index = SCRATCH.index[:, :size]
    np.copyto(index, rounded.view(np.int16))
    return index


def _not_finite(wide: Floats, *, shape: tuple[int, ...]) -> Block:
    """A block with NaN or Inf: counts and finite ranges; the errors of the rows concerned are nan."""
    sides, finite = wide[:2], np.isfinite(wide[:2])
    same = (sides[0] == sides[1]) | (np.isnan(sides[0]) & np.isnan(sides[1]))
    unmatched = int(np.count_nonzero(~finite[1] & ~same))
    reference, candidate = (_clear(side, known) for side, known in zip(sides, finite, strict=True))
    complete = shaped(finite, rows=shape[0], length=shape[1]).all(axis=(0, 2))
    sums = np.where(complete, 0.0, np.nan) * np.ones((len(QUANTITIES), 1))
    sums[:2] = row_sums(shaped(sides, rows=shape[0], length=shape[1]))
    return Block(sums, reference, candidate, unmatched=unmatched)


def _clear(values: Floats, finite: NDArray[np.bool_]) -> Side:
    """Describes a side and takes out what is not finite, so that the rest can be summed for its mean."""
    nans = int(np.count_nonzero(np.isnan(values)))
    infs = int(np.count_nonzero(~finite)) - nans
    low = float(np.minimum.reduce(values, where=finite, initial=np.inf))
    high = float(np.maximum.reduce(values, where=finite, initial=-np.inf))
    np.copyto(values, 0.0, where=~finite)
    return Side(low, high, nans, infs)
