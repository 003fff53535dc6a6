"""The loops of the metrics, compiled for the processor at hand: every quantity of a block in few reads of it.

Everything here works on finite values; `block` looks for others first. Compiled code is kept on disk, beside this file
or in the user's cache, so that only the first run of an installation waits for the compiler (5 s).

A row is summed in an order that depends on its length, the dtype and the kind of processor, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba as nb
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

PIECE = 8192
"""Elements of a side that are looked at twice in turn: together 64 KB, inside of a core's second cache."""


def _read_only(dtype: Any, axes: int) -> nb.types.Array:
    return nb.types.Array(dtype, axes, "C", readonly=True)


FLOATS = (nb.float32, nb.float64)
SUMS = nb.types.Array(nb.float64, 2, "A")
EXCEEDS = [nb.int64(nb.float64, nb.float64, nb.float64, nb.float64)]
COMPARE = [
    nb.types.Tuple((nb.float64, nb.int64))(_read_only(t, 2), _read_only(t, 2), nb.float64, nb.float64, SUMS)
    for t in FLOATS
]
SPAN = [nb.types.UniTuple(nb.int64, 5)(_read_only(nb.int32, 1), _read_only(nb.int32, 1), nb.int32)]
MEASURE = [
    nb.types.Tuple((nb.float64, nb.int64, nb.int64, nb.types.UniTuple(nb.float64, 4), nb.boolean))(
        _read_only(nb.float32, 2), _read_only(nb.float32, 2), nb.float64, nb.float64, SUMS
    )
]
ADD = [nb.void(_read_only(nb.float64, 2), nb.types.Array(nb.uint32, 2, "C"), nb.types.Array(nb.float64, 1, "C"))]
WORST = [nb.types.Tuple((nb.int64, nb.float64))(_read_only(nb.float64, 2), _read_only(nb.float64, 2))]


def compiled(signatures: list[Any], *, reassociate: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compiles a function for these signatures; others are refused.

    Args:
        signatures: numba's; arrays that are only read accept read-only ones too, as of a mapped file.
        reassociate: whether sums may be taken in another order, one for each lane of the processor's vectors, and
            products added to them without being rounded.
    """

    def compile_(function: Callable[P, R]) -> Callable[P, R]:
        order = {"reassoc", "contract"} if reassociate else False
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": order}
        try:
            done: Callable[P, R] = nb.njit(signatures, cache=True, **options)(function)
        except RuntimeError:  # nowhere to keep it: neither this folder nor the user's cache can be written
            done = nb.njit(signatures, **options)(function)
        return done

    return compile_


@compiled(EXCEEDS)
def exceeds(error: Any, size: Any, atol: Any, rtol: Any) -> Any:
    """Whether error > atol + rtol * size, rounded as NumPy does it; in a function of its own for that reason."""
    return np.int64(error > size * rtol + atol)


@compiled(COMPARE, reassociate=True)
def compare_rows(reference: Any, candidate: Any, atol: float, rtol: float, sums: Any) -> tuple[float, int]:
    """The sums of every row, max(|candidate - reference|), and the number of elements where it exceeds the tolerance.

    Args:
        reference: float32 or float64[rows, length].
        candidate: of the same shape and dtype.
        atol: in the unit of the tensor.
        rtol: a ratio; |candidate - reference| is held against atol + rtol * |reference|.
        sums: float64[7, rows], in the order of `block.QUANTITIES`, overwritten; inf, or nan of two infinities, where
            float64 overflows.
    """
    largest: Any = np.int64(0)
    outside: Any = 0
    for row in range(reference.shape[0]):
        reference_sum = candidate_sum = error_sum = reference_energy = candidate_energy = error_energy = product = 0.0
        most: Any = np.int64(0)  # what is not negative sorts like its bits, which vectors compare faster
        for place in range(reference.shape[1]):
            expected, found = np.float64(reference[row, place]), np.float64(candidate[row, place])
            difference = found - expected
            error: Any = np.float64(abs(difference))
            reference_sum += expected
            candidate_sum += found
            error_sum += error
            reference_energy += expected * expected
            candidate_energy += found * found
            error_energy += difference * difference
            product += expected * found
            most = max(most, error.view(np.int64))
        sums[0, row], sums[1, row], sums[2, row] = reference_sum, candidate_sum, error_sum
        sums[3, row], sums[4, row], sums[5, row] = reference_energy, candidate_energy, error_energy
        sums[6, row] = product
        largest = max(largest, most)
        if np.int64(most).view(np.float64) > atol:  # what is not exceeds no tolerance
            for place in range(reference.shape[1]):
                expected, found = np.float64(reference[row, place]), np.float64(candidate[row, place])
                outside += exceeds(abs(found - expected), abs(expected), atol, rtol)
    return np.int64(largest).view(np.float64), outside


@compiled(SPAN)
def span(first: Any, second: Any, magnitude: Any) -> Any:
    """The range of two tensors and the largest distance between them, in representable values counted from zero.

    Args:
        first: int32[n], the bits of float32, or of float16 with its sign extended.
        second: of the same shape.
        magnitude: int32, the mask of the bits that are not the sign.

    Returns:
        Smallest and largest of `first`, of `second`, and max(|second - first|), five ints; both zeros are 0.
    """
    low = second_low = np.int32(magnitude)
    high = second_high = np.int32(-magnitude)
    farthest = np.uint32(0)
    for place in range(first.size):
        one, other = first[place], second[place]
        one = np.int32(np.int32((one & magnitude) ^ (one >> 31)) - np.int32(one >> 31))
        other = np.int32(np.int32((other & magnitude) ^ (other >> 31)) - np.int32(other >> 31))
        low, high = min(low, one), max(high, one)
        second_low, second_high = min(second_low, other), max(second_high, other)
        farthest = max(farthest, np.uint32(np.uint32(max(one, other)) - np.uint32(min(one, other))))
    return low, high, second_low, second_high, farthest


@compiled(MEASURE)
def measure(
    reference: Any, candidate: Any, atol: float, rtol: float, sums: Any
) -> tuple[float, int, int, tuple[float, float, float, float], bool]:
    """Both functions above over the same float32[rows, length] while they are in a core's cache.

    Args:
        reference, candidate, atol, rtol, sums: of `compare_rows`.

    Returns:
        What `compare_rows` returns, the largest distance in representable values, the smallest and largest value of
        each side, which are infinite or nan if something is, and whether nothing is.
    """
    length = reference.shape[1]
    together = max(1, PIECE // length)
    magnitude = np.int32(0x7FFFFFFF)
    largest, outside, farthest = 0.0, 0, 0
    places = np.empty(4, np.int64)
    places[::2], places[1::2] = magnitude, -magnitude
    for start in range(0, reference.shape[0], together):
        first, second = reference[start : start + together], candidate[start : start + together]
        error, more = compare_rows(first, second, atol, rtol, sums[:, start : start + together])
        found = span(first.reshape(-1).view(np.int32), second.reshape(-1).view(np.int32), magnitude)
        largest, outside, farthest = max(largest, error), outside + more, max(farthest, found[4])
        places[0], places[1] = min(places[0], found[0]), max(places[1], found[1])
        places[2], places[3] = min(places[2], found[2]), max(places[3], found[3])
    bits = np.abs(places).astype(np.uint32) | ((places < 0).astype(np.uint32) << np.uint32(31))
    low, high, second_low, second_high = bits.view(np.float32)
    is_finite = bool(np.isfinite(bits.view(np.float32)).all())
    return largest, outside, farthest, (low, high, second_low, second_high), is_finite


@compiled(WORST)
def worst_row(errors: Any, sizes: Any) -> Any:
    """The first of the rows whose relative L2 error is largest; one that is not a number is larger than all others.

    Args:
        errors: float64[rows, segments], the sums of the squared errors of each.
        sizes: of the same shape, of the squares of the reference.

    Returns:
        Its place as an int, and sqrt(error / size) as a float: 0 without an error, inf if only the reference is 0.
    """
    worst, largest = np.int64(0), -1.0
    for row in range(errors.shape[0]):
        error = size = 0.0
        for segment in range(errors.shape[1]):
            error += errors[row, segment]
            size += sizes[row, segment]
        relative = 0.0 if error == 0.0 else np.sqrt(error / size)
        if np.isnan(relative):
            return np.int64(row), relative
        if relative > largest:
            worst, largest = np.int64(row), relative
    return worst, largest


LIMB_BITS = 32
LIMBS = 68
"""Of a sum of 2^62 float64 values in units of 2^-1074: 2046 - 1 + 53 bits, 62 more, and a sign."""
EXPONENTS = 2048
HELD = 1 << 10
"""Numbers of 53 bits that can be added in 64."""


@compiled(ADD)
def add_exactly(values: Any, limbs: Any, specials: Any) -> None:
    """Adds the elements of every row to an exact sum of its own.

    Numbers of one exponent are added as integers, a part of the row at a time; what they come to is then added to the
    three limbs of 32 bits that it reaches into. These are counted in 64, and carried at the end.

    Args:
        values: float64[rows, n], n at most 2^30.
        limbs: uint32[rows, LIMBS], added to: the sum of the finite values in units of 2^-1074, the lowest limb first,
            in two's complement.
        specials: float64[rows], added to: the sum of the others; 0 if there are none.
    """
    counts, totals = np.empty(LIMBS, np.int64), np.zeros(EXPONENTS, np.int64)
    mask, hidden = np.int64((1 << LIMB_BITS) - 1), np.int64(1) << 52
    for row in range(values.shape[0]):
        counts[:] = limbs[row]
        bits: Any = values[row].view(np.int64)
        for start in range(0, bits.size, HELD):
            lowest, highest = EXPONENTS - 1, 0
            for place in range(start, min(start + HELD, bits.size)):
                exponent = (bits[place] >> 52) & (EXPONENTS - 1)
                mantissa = (bits[place] & (hidden - 1)) | (hidden if exponent else 0)
                sign = bits[place] >> 63
                totals[exponent] += (mantissa ^ sign) - sign
                lowest, highest = min(lowest, exponent), max(highest, exponent)
            if highest == EXPONENTS - 1:
                for place in range(start, min(start + HELD, bits.size)):
                    specials[row] += 0.0 if np.isfinite(values[row, place]) else values[row, place]
                totals[highest] = 0
            for exponent in range(lowest, highest + 1):
                total, totals[exponent] = totals[exponent], 0
                sign = total >> 63
                size, shift = (total ^ sign) - sign, max(exponent - 1, 0)
                limb, shift = shift >> 5, shift & 31
                high = size >> (LIMB_BITS - shift)  # what the lowest of the limbs does not take
                counts[limb] += (((size << shift) & mask) ^ sign) - sign
                counts[limb + 1] += ((high & mask) ^ sign) - sign
                counts[limb + 2] += ((high >> LIMB_BITS) ^ sign) - sign
        carry = np.int64(0)
        for limb in range(LIMBS):
            carry += counts[limb]
            limbs[row, limb] = np.uint32(carry & mask)
            carry >>= LIMB_BITS


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
