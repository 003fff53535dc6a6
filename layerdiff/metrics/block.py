"""One block of both sides, measured in a single visit.

Everything that any metric needs is taken while the rows are in the cache: range, row sums, largest difference,
tolerance, ULP (`kernels`). A block is read where it lies if both sides are contiguous and of one dtype, float32 or
float64; else it is small enough for a cache and copied into scratch memory first. Nothing of a tensor's size is
allocated.
Blocks with an element that is not finite leave the fast path: they are counted, and their errors are nan.
"""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerdiff.metrics import kernels
from layerdiff.metrics.rows import SEGMENT, Array, Floats

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

MAGNITUDE = {"float16": np.int32(0x7FFF), "float32": np.int32(0x7FFFFFFF)}
"""The bits of a value that are not its sign."""


VISIT = 1 << 20
"""Elements of a block that is read in place; bounds what is allocated where something is not finite."""


class Scratch(threading.local):
    """Buffers of one block, one set per thread, reused by every accumulator of that thread (2.3 MB)."""

    def __init__(self) -> None:
        self.single = np.empty((2, SEGMENT), np.float32)
        self.double = np.empty((2, SEGMENT), np.float64)
        self.half = np.empty(SEGMENT, np.float16)
        self.bits = np.empty((2, SEGMENT), np.int32)


SCRATCH = Scratch()


class Side(NamedTuple):
    """The range of one side of a block, over its finite values, and what is not finite."""

    low: float
    """inf if nothing is finite."""
    high: float
    """-inf if nothing is finite."""
    nan_count: int = 0
    inf_count: int = 0


class Block(NamedTuple):
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


def elements_at_once(reference: Array, candidate: Array, *, dtype: str) -> int:
    """How many elements `measure` takes at most: more where all is read in place, by one compiled loop."""
    return VISIT if dtype == "float32" and _is_read_in_place(reference, candidate) else SEGMENT


def measure(reference: Array, candidate: Array, *, dtype: str, atol: float, rtol: float) -> Block:
    """Everything about one block, [rows, length] on both sides and of at most `elements_at_once`."""
    reference, candidate = load(reference, candidate)
    sums = np.empty((len(QUANTITIES), len(reference)))
    max_ulp = None
    if reference.dtype == np.float32:
        max_abs, mismatches, distance, ends, is_finite = kernels.measure(reference, candidate, atol, rtol, sums)
        sides = Side(*ends[:2]), Side(*ends[2:])
        max_ulp = distance if dtype == "float32" else None
    else:
        max_abs, mismatches = kernels.compare_rows(reference, candidate, atol, rtol, sums)
        sides = _range(reference), _range(candidate)
        is_finite = all(math.isfinite(end) for side in sides for end in (side.low, side.high))
    if not is_finite:
        return _not_finite(reference, candidate)
    if max_ulp is None:
        max_ulp = _max_ulp(reference, candidate, dtype=dtype) if max_abs else 0
    return Block(sums, *sides, max_abs, max_ulp, mismatches)


def summarise(values: Array) -> tuple[Side, Floats]:
    """The range of one side of a block, and its row sums over the finite values, float64[rows]."""
    (values,) = load(values)
    side = _range(values)
    if not (math.isfinite(side.low) and math.isfinite(side.high)):
        side, values = _cleared(values, np.isfinite(values))
    return side, row_sums(values, values)[0]


def energies(reference: Array, candidate: Array) -> Floats:
    """Row sums of reference² and of (candidate - reference)², float64[2, rows]."""
    return row_sums(*load(reference, candidate))[[REFERENCE_ENERGY, ERROR_ENERGY]]


def row_sums(reference: Array, candidate: Array) -> Floats:
    """The sums of every row in the order of QUANTITIES, float64[7, rows], of what `load` returned."""
    sums = np.empty((len(QUANTITIES), len(reference)))
    kernels.compare_rows(reference, candidate, 0.0, 0.0, sums)
    return sums


def load(*sides: Array) -> list[NDArray[Any]]:
    """The sides, [rows, length], contiguous and in the narrowest of float32 and float64 that is exact for all.

    float64 is the widest: integers beyond 2**53 are rounded. Those that lie so already are not copied; the others
    stay valid until the next call in this thread.
    """
    if _is_read_in_place(*sides):
        return list(sides)
    exact = np.result_type(*(side.dtype for side in sides), np.float32)
    scratch: NDArray[Any] = SCRATCH.single if exact == np.float32 else SCRATCH.double
    return [_loaded(side, place) for side, place in zip(sides, scratch, strict=False)]


def _is_read_in_place(*sides: Array) -> bool:
    """Whether the sides are float32 and lie as the compiled loops read them."""
    return all(side.dtype == np.float32 and _lies_well(side) for side in sides)


def _loaded(side: Array, place: NDArray[Any]) -> NDArray[Any]:
    if side.dtype == place.dtype and _lies_well(side):
        return side
    copy = place[: side.size].reshape(side.shape)
    np.copyto(copy, side, casting="unsafe")
    return copy


def _lies_well(side: Array) -> bool:
    return side.flags.c_contiguous and side.flags.aligned


def _range(side: NDArray[Any]) -> Side:
    """Its smallest and largest value; nan if there is one in it."""
    flat = side.reshape(-1)
    return Side(float(np.minimum.reduce(flat)), float(np.maximum.reduce(flat)))


def _max_ulp(reference: NDArray[Any], candidate: NDArray[Any], *, dtype: str) -> int:
    """Largest distance in representable values of `dtype`."""
    first, second = (_patterns(side, place, dtype) for side, place in ((reference, 0), (candidate, 1)))
    return int(kernels.span(first, second, MAGNITUDE[dtype])[4])


def _patterns(side: NDArray[Any], place: int, dtype: str) -> NDArray[np.int32]:
    """The bits of a side rounded to `dtype`, sign-extended: int32[n], itself or in the scratch memory's `place`."""
    if side.dtype == dtype:
        return side.reshape(-1).view(np.int32)
    bits = SCRATCH.bits[place, : side.size]
    if dtype == "float32":
        np.copyto(bits.view(np.float32), side.reshape(-1), casting="unsafe")
        return bits
    half = SCRATCH.half[: side.size]
    np.copyto(half, side.reshape(-1), casting="unsafe")
    np.copyto(bits, half.view(np.int16))
    return bits


def _not_finite(reference: NDArray[Any], candidate: NDArray[Any]) -> Block:
    """A block with NaN or Inf: counts and finite ranges; the errors of the rows concerned are nan."""
    finite = [np.isfinite(side) for side in (reference, candidate)]
    same = (reference == candidate) | (np.isnan(reference) & np.isnan(candidate))
    unmatched = int(np.count_nonzero(~finite[1] & ~same))
    (first, left), (second, right) = _cleared(reference, finite[0]), _cleared(candidate, finite[1])
    complete = (finite[0] & finite[1]).all(axis=1)
    sums = np.where(complete, 0.0, np.nan) * np.ones((len(QUANTITIES), 1))
    sums[:2] = row_sums(left, right)[:2]
    return Block(sums, first, second, unmatched=unmatched)


def _cleared(values: NDArray[Any], finite: NDArray[np.bool_]) -> tuple[Side, NDArray[Any]]:
    """Describes a side, and gives it with 0 for what is not finite, so that the rest can be summed for its mean."""
    nans = int(np.count_nonzero(np.isnan(values)))
    infs = int(np.count_nonzero(~finite)) - nans
    low = float(np.minimum.reduce(values, axis=None, where=finite, initial=np.inf))
    high = float(np.maximum.reduce(values, axis=None, where=finite, initial=-np.inf))
    return Side(low, high, nans, infs), np.where(finite, values, values.dtype.type(0))
