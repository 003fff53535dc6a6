"""Exact sums of float64 values: the same result for every order, chunking and merge tree.

A finite float64 is an integer multiple of 2**-1074, so a sum of them is an integer too, and Python's integers
have no upper bound: addition is exact, and therefore associative and commutative. Values are cut into slices first,
from the top: the leading bits of all of them are multiples of one power of two, few enough for float64 to add them
without rounding. So the work per value stays in NumPy, and each slice leaves one integer addition.

What this is not: a more accurate way to compute the values themselves. Rounding happens where they are made
and once more in `result`, nowhere between.

Source: the idea of a superaccumulator, R. M. Neal, "Fast exact summation using small and large superaccumulators"
(2015), with a Python integer in the place of the array of chunks; the slices are those of S. M. Rump, T. Ogita and
S. Oishi, "Accurate floating-point summation, part I" (2008), algorithm ExtractVector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

MANTISSA_BITS = 53
LARGEST_EXPONENT = 1023
"""Beyond 2**1023 nothing can be added to a value to cut it; such values are added one by one."""
UNIT_BITS = 1126
"""Sums are kept in units of 2**-1126: what the 53rd bit of the smallest subnormal number would be worth."""
CHUNK = 1 << 22
"""Values that are sliced at once: a slice of 2**22 values holds 30 bits of each."""


class ExactSum:
    """A sum of float64 values without rounding errors.

    A value that is not finite makes the result what IEEE 754 addition makes it: inf, -inf or nan.
    """

    __slots__ = ("_special", "_units")

    def __init__(self) -> None:
        self._units = 0
        self._special = 0.0

    def add(self, values: ArrayLike) -> None:
        """Adds every element of `values`, which are converted to float64.

        Memory is O(n) of float64 for n values.
        """
        add_rows([self], np.asarray(values, dtype=np.float64).reshape(1, -1))

    @property
    def units(self) -> int | None:
        """The sum as a whole number of units of 2**-1126, which can be kept and added; None if it is not finite."""
        return self._units if self._special == 0.0 else None

    @classmethod
    def of_units(cls, units: int) -> ExactSum:
        """The sum that has these `units`."""
        total = cls()
        total._units = units
        return total

    def merge(self, other: ExactSum) -> None:
        """Adds what `other` holds; exact, so any tree of merges gives the same result."""
        self._units += other._units
        self._special += other._special

    def result(self) -> float:
        """The float64 nearest to the sum (ties to even); 0.0 if nothing was added, ±inf if it overflows."""
        if self._special != 0.0:  # nan differs from everything
            return self._special
        try:
            return self._units / (1 << UNIT_BITS)  # true division of integers is correctly rounded
        except OverflowError:
            return math.inf if self._units > 0 else -math.inf


def add_rows(totals: Sequence[ExactSum], values: NDArray[np.float64]) -> None:
    """Adds the elements of each row to a sum of its own: `values[i]`, float64[n], to `totals[i]`."""
    finite = np.isfinite(values)
    if not finite.all():
        for total, row, known in zip(totals, values, finite, strict=True):
            with np.errstate(invalid="ignore"):
                total._special += float(np.add.reduce(row[~known]))
        values = np.where(finite, values, 0.0)
    for start in range(0, values.shape[1], CHUNK):
        for total, units in zip(totals, _units(values[:, start : start + CHUNK]), strict=True):
            total._units += units


def _units(values: NDArray[np.float64]) -> list[int]:
    """The exact sums of rows of finite values, [k, n], in units of 2**-1126."""
    totals = [0] * len(values)
    spare = values.shape[1].bit_length()
    """Bits that the sum of a slice may need beyond those of its values."""
    rest, slices = values, np.empty_like(values)
    while (peaks := np.maximum.reduce(np.abs(rest, out=slices), axis=1)).any():
        exponents = np.frexp(peaks)[1] + spare
        if exponents.max() >= LARGEST_EXPONENT:
            return [total + sum(map(_integer, row)) for total, row in zip(totals, rest.tolist(), strict=True)]
        large = np.ldexp(1.0, exponents)[:, None]
        np.subtract(np.add(rest, large, out=slices), large, out=slices)  # each value's bits down to those of `large`
        totals = [t + _integer(part) for t, part in zip(totals, np.add.reduce(slices, axis=1).tolist(), strict=True)]
        rest = rest - slices
    return totals


def _integer(value: float) -> int:
    """A finite value in units of 2**-1126."""
    fraction, exponent = math.frexp(value)
    return int(math.ldexp(fraction, MANTISSA_BITS)) << (exponent - MANTISSA_BITS + UNIT_BITS)
