"""Exact sums of float64 values: the same result for every order, chunking and merge tree.

A finite float64 is an integer multiple of 2**-1074, so a sum of them is an integer too, and Python's integers
have no upper bound: addition is exact, and therefore associative and commutative. Values are binned by their
exponent first, which keeps the work per value in NumPy and leaves one integer addition per exponent in use.

What this is not: a more accurate way to compute the values themselves. Rounding happens where they are made
and once more in `result`, nowhere between.

Source: the idea of a superaccumulator, R. M. Neal, "Fast exact summation using small and large
superaccumulators" (2015), with a Python integer in the place of the array of chunks.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

MANTISSA_BITS = 53
LOW_BITS = 27
"""A mantissa is added up in two parts of at most 27 bits, so that float64 bins stay exact."""
UNIT_BITS = 1126
"""Sums are kept in units of 2**-1126: what the 53rd bit of the smallest subnormal number would be worth."""
CHUNK = 1 << 25
"""Values per call of bincount: 2**25 parts of 27 bits fill the 52 bits that a float64 bin holds exactly."""


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
        flat = np.asarray(values, dtype=np.float64).reshape(-1)
        finite = np.isfinite(flat)
        if not finite.all():
            with np.errstate(invalid="ignore"):
                self._special += float(np.add.reduce(flat[~finite]))
            flat = flat[finite]
        for start in range(0, flat.size, CHUNK):
            self._units += _units(flat[start : start + CHUNK])

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


def _units(values: NDArray[np.float64]) -> int:
    """The exact sum of finite values in units of 2**-1126."""
    fractions, exponents = np.frexp(values)  # value = fraction * 2**exponent, 0.5 <= |fraction| < 1
    mantissas = np.ldexp(fractions, MANTISSA_BITS)
    high = np.floor(np.ldexp(mantissas, -LOW_BITS))
    low = mantissas - np.ldexp(high, LOW_BITS)
    first = int(exponents.min())
    bins = exponents - first
    highs, lows = (np.bincount(bins, weights=part) for part in (high, low))
    total = 0
    for used in np.flatnonzero((highs != 0) | (lows != 0)).tolist():
        mantissa = (int(highs[used]) << LOW_BITS) + int(lows[used])
        total += mantissa << (used + first - MANTISSA_BITS + UNIT_BITS)
    return total
