"""The range and mean of one tensor, streamed: what a report prints of each side of a stage."""

from __future__ import annotations

import math

import numpy as np

from layerdiff.metrics import formulas
from layerdiff.metrics.block import Side, summarise
from layerdiff.metrics.exact import ExactSum
from layerdiff.metrics.rows import Array, blocks, check_pair, groups, matrices, segments


class Summary:
    """Smallest, largest and mean finite value of one side, and how many elements are not finite.

    Bit for bit the same for any cut of the tensors along their leading axes, any order and any merging.

    Args:
        total: where the sum of the finite values is kept, if somebody else adds to it too.
    """

    def __init__(self, total: ExactSum | None = None) -> None:
        self.elements = 0
        self.nan_count = 0
        self.inf_count = 0
        self._low, self._high = math.inf, -math.inf
        self.total = total or ExactSum()
        """The sum of the finite values."""

    def update(self, values: Array) -> None:
        """Takes in a tensor of any shape; allocates nothing of its size."""
        values = np.asarray(values)
        check_pair(values, values)
        for (matrix,) in matrices(values):
            for group in groups(*matrix.shape):
                self._update_group(matrix[group])

    def _update_group(self, matrix: Array) -> None:
        rows, length = matrix.shape
        sums = np.empty((rows, segments(length)))
        for place, segment, columns in blocks(rows, length):
            part = matrix[place, columns]
            side, sums[place, segment] = summarise(part)
            self.note(side, elements=part.size)
        self.total.add(sums)

    def note(self, side: Side, *, elements: int) -> None:
        """Takes in the range and the counts of `elements` elements, but not their sum."""
        self.elements += elements
        self.nan_count += side.nan_count
        self.inf_count += side.inf_count
        self._low, self._high = min(self._low, side.low), max(self._high, side.high)

    def merge(self, other: Summary) -> None:
        """Takes in everything that `other` has seen."""
        self.note(Side(other._low, other._high, other.nan_count, other.inf_count), elements=other.elements)
        self.total.merge(other.total)

    @property
    def finite_count(self) -> int:
        """Number of elements that are neither NaN nor infinite."""
        return self.elements - self.nan_count - self.inf_count

    @property
    def min(self) -> float | None:
        """Smallest finite value; None if there is none."""
        return self._low if self.finite_count else None

    @property
    def max(self) -> float | None:
        """Largest finite value; None if there is none."""
        return self._high if self.finite_count else None

    @property
    def mean(self) -> float | None:
        """Mean of the finite values, summed in float64; None if there is none."""
        return formulas.mean(self.total.result(), self.finite_count) if self.finite_count else None

    @property
    def peak(self) -> float:
        """max(|value|) over the finite values; 0.0 if there is none."""
        return max(-self._low, self._high) if self.finite_count else 0.0
