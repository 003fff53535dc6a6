"""How far a candidate's tensors are from the reference's while both decode: energies that add up exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from layerdiff.decode.counts import Counts
from layerdiff.metrics import formulas
from layerdiff.metrics.exact import ExactSum

if TYPE_CHECKING:
    from layerdiff.records import Array


SIGNALS = ("mel", "encoder", "logits")
"""What is compared, in the order in which it is computed."""


@dataclass(frozen=True)
class Energy(Counts):
    """The energy of a signal and of its error, over any number of tensors."""

    values: int = 0
    not_finite: int = 0
    """Values that are NaN or infinite on one side; they are in neither energy."""
    signal: int = 0
    """Sum of squares of the reference, in units of 2**-1126."""
    error: int = 0
    """Sum of squares of candidate minus reference, in the same units."""

    @classmethod
    def between(cls, reference: Array, candidate: Array) -> Energy:
        """Of two tensors of the same shape, float[...]."""
        ours, theirs = np.asarray(reference, np.float64).ravel(), np.asarray(candidate, np.float64).ravel()
        finite = np.isfinite(ours) & np.isfinite(theirs)
        ours, theirs = ours[finite], theirs[finite]
        return cls(finite.size, int(finite.size - finite.sum()), _units(ours), _units(theirs - ours))

    @property
    def snr_db(self) -> float | None:
        """Signal to noise in dB; inf without an error, None without values or with some that are not finite."""
        if not self.values or self.not_finite:
            return None
        return formulas.decibels(ExactSum.of_units(self.signal).result(), ExactSum.of_units(self.error).result())


def _units(values: Array) -> int:
    total = ExactSum()
    total.add(np.square(values))
    return total.units or 0
