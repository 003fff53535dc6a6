"""The loops of the metrics, compiled for the processor at hand: every quantity of a block in few reads of it.

Everything here works on finite values; `block` looks for others first. Compiled code is kept on disk, beside this file
or in the user's cache, so that only the first run of an installation waits for the compiler (1.5 s).

A row is summed in an order that depends on its length, the dtype and the kind of processor, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba as nb
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

PART = 1024
"""Errors that are held at once while the largest is looked for: 8 KB, inside of a core's first cache."""


def _read_only(dtype: Any, axes: int) -> nb.types.Array:
    return nb.types.Array(dtype, axes, "C", readonly=True)


FLOATS = (nb.float32, nb.float64)
SUMS = [nb.void(_read_only(t, 2), _read_only(t, 2), nb.types.Array(nb.float64, 2, "C")) for t in FLOATS]
DEVIATION = [
    nb.types.Tuple((nb.float64, nb.int64))(_read_only(t, 1), _read_only(t, 1), nb.float64, nb.float64) for t in FLOATS
]
DISTANCE = [nb.uint32(_read_only(nb.int32, 1), _read_only(nb.int32, 1), nb.int32)]


def compiled(signatures: list[Any], *, reassociate: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compiles a function for these signatures; others are refused.

    Args:
        signatures: numba's; arrays that are only read accept read-only ones too, as of a mapped file.
        reassociate: whether sums may be taken in another order, one for each lane of the processor's vectors.
    """

    def compile_(function: Callable[P, R]) -> Callable[P, R]:
        order = {"reassoc"} if reassociate else False
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": order}
        try:
            done: Callable[P, R] = nb.njit(signatures, cache=True, **options)(function)
        except RuntimeError:  # nowhere to keep it: neither this folder nor the user's cache can be written
            done = nb.njit(signatures, **options)(function)
        return done

    return compile_


@compiled(SUMS, reassociate=True)
def sum_rows(reference: Any, candidate: Any, sums: Any) -> None:
    """The sums of every row, in the order of `block.QUANTITIES`.

    Args:
        reference: float32 or float64[rows, length].
        candidate: of the same shape and dtype.
        sums: float64[7, rows], overwritten; inf, or nan of two infinities, where float64 overflows.
    """
    for row in range(reference.shape[0]):
        reference_sum = candidate_sum = error_sum = reference_energy = candidate_energy = error_energy = product = 0.0
        for column in range(reference.shape[1]):
            expected, found = np.float64(reference[row, column]), np.float64(candidate[row, column])
            error = found - expected
            reference_sum += expected
            candidate_sum += found
            error_sum += abs(error)
            reference_energy += expected * expected
            candidate_energy += found * found
            error_energy += error * error
            product += expected * found
        sums[0, row], sums[1, row], sums[2, row] = reference_sum, candidate_sum, error_sum
        sums[3, row], sums[4, row], sums[5, row] = reference_energy, candidate_energy, error_energy
        sums[6, row] = product


@compiled(DEVIATION)
def deviation(reference: Any, candidate: Any, atol: float, rtol: float) -> tuple[float, int]:
    """max(|candidate - reference|), and the number of elements where it exceeds atol + rtol * |reference|.

    Args:
        reference: float32 or float64[n].
        candidate: of the same shape and dtype.
        atol: in the unit of the tensor.
        rtol: a ratio.
    """
    errors = np.empty(PART, np.float64)
    bits: Any = errors.view(np.int64)  # what is not negative sorts like its bits, which vectors compare faster
    largest: Any = np.zeros(1, np.int64)
    outside: Any = 0
    for start in range(0, reference.size, PART):
        expected, found = reference[start : start + PART], candidate[start : start + PART]
        for place in range(expected.size):
            value = np.float64(expected[place])
            error = abs(np.float64(found[place]) - value)
            outside += np.int64(error > abs(value) * rtol + atol)
            errors[place] = error
        most: Any = largest[0]
        for place in range(expected.size):
            most = max(most, bits[place])
        largest[0] = most
    return largest.view(np.float64)[0], outside


@compiled(DISTANCE)
def largest_distance(first: Any, second: Any, magnitude: Any) -> np.uint32:
    """The largest distance in representable values between two tensors given as bit patterns; both zeros are one.

    Args:
        first: int32[n], the bits of float32, or of float16 with its sign extended.
        second: of the same shape.
        magnitude: int32, the mask of the bits that are not the sign.
    """
    farthest = np.uint32(0)
    for place in range(first.size):
        one, other = first[place], second[place]
        one = np.int32(np.int32((one & magnitude) ^ (one >> 31)) - np.int32(one >> 31))
        other = np.int32(np.int32((other & magnitude) ^ (other >> 31)) - np.int32(other >> 31))
        farthest = max(farthest, np.uint32(np.uint32(max(one, other)) - np.uint32(min(one, other))))
    return farthest


VALUE_BINS = 256
"""Bins of a histogram of values."""
OCTAVES, DEEPEST = 64, -46
"""Sizes and errors are counted by octave: below 2^DEEPEST in the first, above 2^(DEEPEST + OCTAVES - 2) in the last."""
COUNT = [
    nb.void(
        _read_only(t, 2),
        _read_only(t, 2),
        nb.float64,
        nb.types.Array(nb.int64, 2, "C"),
        nb.types.Array(nb.int64, 2, "C"),
        nb.types.Array(nb.float64, 2, "A"),
        nb.types.Array(nb.float64, 2, "A"),
    )
    for t in FLOATS
]


@compiled(COUNT)
def count(reference: Any, candidate: Any, per_unit: float, values: Any, octaves: Any, rows: Any, columns: Any) -> None:
    """Counts the elements of a block by value, by size and by error; pairs that are not finite are left out.

    Args:
        reference: float32 or float64[n, length].
        candidate: of the same shape and dtype.
        per_unit: bins of `values` per unit; 0 lies between the two in the middle.
        values: int64[2, VALUE_BINS], counts of the reference and of the candidate are added.
        octaves: int64[OCTAVES, OCTAVES], by size of the reference and by error; counts are added.
        rows: float64[3, n]: squared errors and the squared reference are added, the largest error is kept.
        columns: float64[2, length]: squared errors and the squared reference are added.
    """
    pair = np.empty(2, np.float64)
    bits: Any = pair.view(np.int64)
    top: Any = values.shape[1] - 1
    middle: Any = values.shape[1] // 2
    for row in range(reference.shape[0]):
        for column in range(reference.shape[1]):
            expected, found = np.float64(reference[row, column]), np.float64(candidate[row, column])
            error = abs(found - expected)
            if not error < np.inf:
                continue
            values[0, min(max(np.int64(np.floor(expected * per_unit)) + middle, 0), top)] += 1
            values[1, min(max(np.int64(np.floor(found * per_unit)) + middle, 0), top)] += 1
            pair[0], pair[1] = abs(expected), error
            size = min(max((bits[0] >> 52) - 1022 - DEEPEST, 0), OCTAVES - 1)
            off = min(max((bits[1] >> 52) - 1022 - DEEPEST, 0), OCTAVES - 1)
            octaves[size, off] += 1
            rows[0, row] += error * error
            rows[1, row] += expected * expected
            rows[2, row] = max(rows[2, row], error)
            columns[0, column] += error * error
            columns[1, column] += expected * expected
