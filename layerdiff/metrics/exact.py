"""Exact sums of float64 values: the same result for every order, chunking and merge tree.

A finite float64 is an integer multiple of 2**-1074, so a sum of them is an integer too, and Python's integers
have no upper bound: addition is exact, and therefore associative and commutative. The values of an array are added
in integers of 64 bits first (`kernels.add_exactly`), which leaves one addition of integers per array.

What this is not: a more accurate way to compute the values themselves. Rounding happens where they are made
and once more in `result`, nowhere between.

Source: R. M. Neal, "Fast exact summation using small and large superaccumulators" (2015): a total per exponent, as in
the large one, emptied into the limbs of the small one, with a Python integer behind it that never has to be carried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layerdiff.metrics import kernels

UNIT_BITS = 1126
"""Sums are kept in units of 2**-1126: what the 53rd bit of the smallest subnormal number would be worth."""
LOWEST_BITS = 1074
"""Every float64 is a whole number of 2**-1074."""
CHUNK = 1 << 30
"""Values of a row that are added at once: the limbs have room for as many."""


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
    limbs, specials = np.empty((len(values), kernels.LIMBS), np.uint32), np.empty(len(values))
    for start in range(0, values.shape[1], CHUNK):
        kernels.add_exactly(np.ascontiguousarray(values[:, start : start + CHUNK]), limbs, specials)
        for total, row, special in zip(totals, limbs.astype("<u4", copy=False), specials, strict=True):
            total._units += int.from_bytes(row.tobytes(), "little", signed=True) << (UNIT_BITS - LOWEST_BITS)
            total._special += float(special)
