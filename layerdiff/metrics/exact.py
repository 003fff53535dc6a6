"""Exact sums of float64 values: the same result for every order, chunking and merge tree.

A finite float64 is an integer multiple of 2**-1074, so a sum of them is an integer too, of at most 2161 bits for any
number of values that can be had (`kernels.add_exactly`): addition is exact, and therefore associative and commutative.

What this is not: a more accurate way to compute the values themselves. Rounding happens where they are made
and once more in `result`, nowhere between.

Source: R. M. Neal, "Fast exact summation using small and large superaccumulators" (2015): a total per exponent, as in
the large one, emptied into the limbs of the small one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layerdiff.metrics import kernels

UNIT_BITS = 1126
"""`ExactSum.units` are 2**-1126: what the 53rd bit of the smallest subnormal number would be worth."""
LOWEST_BITS = 1074
"""Every float64 is a whole number of 2**-1074."""
CHUNK = 1 << 30
"""Values of a row that are added in one call of the loop."""


class ExactSum:
    """A sum of float64 values without rounding errors.

    A value that is not finite makes the result what IEEE 754 addition makes it: inf, -inf or nan.

    Args:
        sums: where it is kept, as the only one there if that is not given.
        place: its row there.
    """

    __slots__ = ("_place", "_sums")

    def __init__(self, sums: ExactSums | None = None, place: int = 0) -> None:
        self._sums, self._place = sums or ExactSums(1), place

    def add(self, values: ArrayLike) -> None:
        """Adds every element of `values`, which are converted to float64.

        Memory is O(n) of float64 for n values.
        """
        self._sums.add(np.asarray(values, dtype=np.float64).reshape(1, -1), first=self._place)

    @property
    def units(self) -> int | None:
        """The sum as a whole number of units of 2**-1126, which can be kept and added; None if it is not finite."""
        return self._units if self._special == 0.0 else None

    @classmethod
    def of_units(cls, units: int) -> ExactSum:
        """The sum that has these `units`, of which the lowest 52 bits must be 0, as in `units`."""
        total = cls()
        total._units = units
        return total

    def merge(self, other: ExactSum) -> None:
        """Adds what `other` holds; exact, so any tree of merges gives the same result."""
        self._units += other._units
        self._sums.specials[self._place] += other._special

    def result(self) -> float:
        """The float64 nearest to the sum (ties to even); 0.0 if nothing was added, ±inf if it overflows."""
        if self._special != 0.0:  # nan differs from everything
            return self._special
        try:
            return self._units / (1 << UNIT_BITS)  # true division of integers is correctly rounded
        except OverflowError:
            return math.inf if self._units > 0 else -math.inf

    @property
    def _special(self) -> float:
        return float(self._sums.specials[self._place])

    @property
    def _units(self) -> int:
        limbs = self._sums.limbs[self._place].astype("<u4", copy=False)
        return int.from_bytes(limbs.tobytes(), "little", signed=True) << (UNIT_BITS - LOWEST_BITS)

    @_units.setter
    def _units(self, units: int) -> None:
        limbs = self._sums.limbs[self._place]
        written = (units >> (UNIT_BITS - LOWEST_BITS)).to_bytes(limbs.nbytes, "little", signed=True)
        limbs[:] = np.frombuffer(written, "<u4")


class ExactSums:
    """Exact sums that are added to together, one for each row of an array.

    Args:
        count: how many.
    """

    __slots__ = ("limbs", "specials")

    def __init__(self, count: int) -> None:
        self.limbs = np.zeros((count, kernels.LIMBS), np.uint32)
        """What is finite, as `kernels.add_exactly` keeps it."""
        self.specials = np.zeros(count)
        """The sums of what is not."""

    def __getitem__(self, place: int) -> ExactSum:
        return ExactSum(self, place)

    def add(self, values: NDArray[np.float64], *, first: int = 0) -> None:
        """Adds the elements of each row to a sum of its own: `values[i]`, float64[n], to sum `first + i`."""
        places = slice(first, first + len(values))
        for start in range(0, values.shape[1], CHUNK):
            part = np.ascontiguousarray(values[:, start : start + CHUNK])
            kernels.add_exactly(part, self.limbs[places], self.specials[places])
