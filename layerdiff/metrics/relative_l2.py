"""The relative L2 error alone, streamed: what the splits of the error and the search for the worst clip need."""

from __future__ import annotations

import math

import numpy as np

from layerdiff.metrics import formulas
from layerdiff.metrics.block import energies
from layerdiff.metrics.exact import ExactSums
from layerdiff.metrics.rows import Array, blocks, check_pair, groups, matrices, segments


class RelativeL2:
    """`definitions.relative_l2_error` over any number of pairs; same bits as `Accumulator`'s, and no other metric."""

    def __init__(self) -> None:
        self._elements = 0
        self._sums = ExactSums(2)
        self._reference, self._error = self._sums[0], self._sums[1]

    def update(self, *, reference: Array, candidate: Array) -> None:
        """Takes in one pair of tensors.

        Args:
            reference: any floating, integer or bool dtype, [...].
            candidate: same shape and kind as `reference`; its dtype may be narrower or wider.

        Raises:
            ValueError: the shapes or the kinds of dtype differ; nothing was taken in.
        """
        reference, candidate = np.asarray(reference), np.asarray(candidate)
        check_pair(reference, candidate)
        with np.errstate(over="ignore", invalid="ignore"):
            for first, second in matrices(reference, candidate):
                for group in groups(*first.shape):
                    self._update_group(first[group], second[group])
        self._elements += reference.size

    def _update_group(self, reference: Array, candidate: Array) -> None:
        rows, length = reference.shape
        sums = np.empty((2, rows, segments(length)))
        for place, segment, columns in blocks(rows, length):
            sums[:, place, segment] = energies(reference[place, columns], candidate[place, columns])
        self._sums.add(sums.reshape(2, -1))

    def merge(self, other: RelativeL2) -> None:
        """Takes in everything that `other` has seen."""
        self._elements += other._elements
        self._reference.merge(other._reference)
        self._error.merge(other._error)

    def result(self) -> float | None:
        """0.0 without an error, inf if only the reference is 0, None if there is nothing or it is not all finite."""
        error = self._error.result()
        if not self._elements or not math.isfinite(error):
            return None
        return formulas.relative_error(error, self._reference.result())
