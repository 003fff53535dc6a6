"""All metrics of a stage in one streaming pass.

    accumulator = Accumulator(dtype="float16")
    for reference, candidate in pairs:
        accumulator.update(reference=reference, candidate=candidate)
    accumulator.result()["relative_l2_error"]

Steps: the tensors are read as rows (their last axis), rows are taken in blocks that fit into a core's cache
(`block.measure`), the sums of each row are added exactly (`exact.ExactSum`), and the metrics follow from the
totals (`formulas`). Hence the result is bit for bit the same for any cut of the tensors along their leading axes,
any order of updates and any tree of merges. What each metric means is written in `definitions`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from layerdiff.metrics import formulas, kernels
from layerdiff.metrics.block import ERROR_ENERGY, QUANTITIES, REFERENCE_ENERGY, elements_at_once, measure
from layerdiff.metrics.definitions import ATOL, RTOL, ULP_DTYPES
from layerdiff.metrics.exact import ExactSums
from layerdiff.metrics.rows import GROUP_ROWS, SEGMENT, Array, Floats, blocks, check_pair, groups, matrices, segments
from layerdiff.metrics.summary import Summary
from layerdiff.records import METRICS

ERRORS = METRICS[:-2]
"""The metrics that are undefined where anything is not finite: all but the two counts."""


class WorstRow(NamedTuple):
    """The row with the largest relative L2 error."""

    row: int
    """Counted over all updates of the accumulator, from 0."""
    relative_l2: float
    """inf if only the reference's row is 0, nan if the row has an element that is not finite."""
    label: str | None = None
    """The label of the update that brought the row."""
    row_in_label: int = 0
    """Counted over the updates with this label only, and so independent of the order of the labels."""

    @property
    def rank(self) -> tuple[bool, float, str, int]:
        """Sorts the worst row first: not finite, then by error; equals by label and place, not by arrival."""
        undefined = math.isnan(self.relative_l2)
        return (not undefined, 0.0 if undefined else -self.relative_l2, self.label or "", self.row_in_label)


class Accumulator:
    """Every metric of `records.METRICS`, the range of both sides, and the worst row.

    Args:
        dtype: "float16" or "float32"; in whose representable values `max_ulp` counts.
        atol: absolute part of the tolerance of `mismatch_ratio`, in the unit of the tensor.
        rtol: part of that tolerance that grows with |reference|.
    """

    def __init__(self, *, dtype: str = "float32", atol: float = ATOL, rtol: float = RTOL) -> None:
        if dtype not in ULP_DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(ULP_DTYPES)}, not {dtype!r}")
        if not (atol >= 0 and rtol >= 0):
            raise ValueError(f"a tolerance is not negative, but atol is {atol!r} and rtol is {rtol!r}")
        self.dtype, self.atol, self.rtol = dtype, float(atol), float(rtol)
        self._sums = ExactSums(len(QUANTITIES))
        self.reference, self.candidate = Summary(self._sums[0]), Summary(self._sums[1])
        self.unmatched_count = 0
        """Elements of the candidate that are not finite where the reference is not the same NaN or infinity."""
        self._totals = {name: self._sums[place] for place, name in enumerate(QUANTITIES[2:], start=2)}
        self._max_abs, self._max_ulp, self._mismatches = 0.0, 0, 0
        self._worst: WorstRow | None = None
        self._rows: dict[str | None, int] = {}

    def update(self, *, reference: Array, candidate: Array, label: str | None = None) -> None:
        """Takes in one pair of tensors.

        A one-dimensional tensor is one row, a number one row of one element. Views are read in place, or
        gathered block by block where their strides leave small matrices; memory is O(1) in the size of the tensors,
        time about 1 ns per float32 element.

        Args:
            reference: any floating, integer or bool dtype, [...].
            candidate: same shape and kind as `reference`; its dtype may be narrower or wider.
            label: where the rows belong, e.g. the name of the clip; told back by `worst_row`.

        Raises:
            ValueError: the shapes or the kinds of dtype differ; nothing was taken in.
        """
        reference, candidate = np.asarray(reference), np.asarray(candidate)
        check_pair(reference, candidate)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # results here, not accidents
            pairs = matrices(reference, candidate)
            parts = ((first[rows], second[rows]) for first, second in pairs for rows in groups(*first.shape))
            collected, count = list[Floats](), 0
            for first, second in parts:
                collected.append(self._measured(first, second))
                count += collected[-1][0].size
                if count >= GROUP_ROWS:
                    self._add(collected, label)
                    collected, count = [], 0
            if collected:
                self._add(collected, label)

    def _measured(self, reference: Array, candidate: Array) -> Floats:
        """The sums of a group of rows, float64[len(QUANTITIES), rows, segments]; everything else is taken in."""
        rows, length = reference.shape
        size = elements_at_once(reference, candidate, dtype=self.dtype)
        if reference.size <= size and length <= SEGMENT:
            return self._taken(reference, candidate)[:, :, np.newaxis]
        sums = np.empty((len(QUANTITIES), rows, segments(length)))
        for place, segment, columns in blocks(rows, length, size=size):
            sums[:, place, segment] = self._taken(reference[place, columns], candidate[place, columns])
        return sums

    def _taken(self, reference: Array, candidate: Array) -> Floats:
        """The sums of a block, float64[len(QUANTITIES), rows]; everything else is taken in."""
        block = measure(reference, candidate, dtype=self.dtype, atol=self.atol, rtol=self.rtol)
        self.reference.note(block.reference, elements=reference.size)
        self.candidate.note(block.candidate, elements=candidate.size)
        self._max_abs = max(self._max_abs, block.max_abs)
        self._max_ulp = max(self._max_ulp, block.max_ulp)
        self._mismatches += block.mismatches
        self.unmatched_count += block.unmatched
        return block.sums

    def _add(self, collected: list[Floats], label: str | None) -> None:
        """Takes in the sums of groups that follow each other."""
        sums = np.concatenate(collected, axis=1) if len(collected) > 1 else collected[0]
        self._sums.add(sums.reshape(len(sums), -1))
        row, relative = kernels.worst_row(sums[ERROR_ENERGY], sums[REFERENCE_ENERGY])
        before = self._rows.get(label, 0)
        self._keep(WorstRow(self.rows + row, relative, label, before + row))
        self._rows[label] = before + sums.shape[1]

    def _keep(self, row: WorstRow) -> None:
        if self._worst is None or row.rank < self._worst.rank:
            self._worst = row

    def merge(self, other: Accumulator) -> None:
        """Takes in everything that `other` has seen, as if its updates had followed this one's.

        Raises:
            ValueError: the two count ULPs in different dtypes or have different tolerances.
        """
        if (self.dtype, self.atol, self.rtol) != (other.dtype, other.atol, other.rtol):
            raise ValueError(f"cannot merge {other._settings()} into {self._settings()}")
        if other._worst is not None:
            row, relative, label, place = other._worst
            self._keep(WorstRow(self.rows + row, relative, label, self._rows.get(label, 0) + place))
        for label, rows in other._rows.items():
            self._rows[label] = self._rows.get(label, 0) + rows
        self.reference.merge(other.reference)
        self.candidate.merge(other.candidate)
        for name, total in self._totals.items():
            total.merge(other._totals[name])
        self._max_abs, self._max_ulp = max(self._max_abs, other._max_abs), max(self._max_ulp, other._max_ulp)
        self._mismatches += other._mismatches
        self.unmatched_count += other.unmatched_count

    def _settings(self) -> str:
        return f"Accumulator(dtype={self.dtype!r}, atol={self.atol}, rtol={self.rtol})"

    @property
    def rows(self) -> int:
        """Number of rows taken in."""
        return sum(self._rows.values())

    @property
    def elements(self) -> int:
        """Number of elements of one side taken in."""
        return self.reference.elements

    @property
    def worst_row(self) -> WorstRow | None:
        """The row with the largest relative L2 error; None if there was no row."""
        return self._worst

    def result(self) -> dict[str, float | None]:
        """Metric → value in the order of `records.METRICS`; None where it is undefined, ±inf where it is infinite.

        All but the two counts are undefined for an empty tensor and where any element of either side is not
        finite. The counts are the candidate's; the reference's are in `reference`.
        """
        counts = {"nan_count": float(self.candidate.nan_count), "inf_count": float(self.candidate.inf_count)}
        return {name: None if math.isnan(value) else value for name, value in (self._errors() | counts).items()}

    def _errors(self) -> dict[str, float]:
        count = self.elements
        finite = self.reference.finite_count == self.candidate.finite_count == count and math.isfinite(self._max_abs)
        if not count or not finite:
            return dict.fromkeys(ERRORS, math.nan)
        total = {name: exact.result() for name, exact in self._totals.items()}
        noise, signal, peak = total["error_energy"], total["reference_energy"], self.reference.peak
        values = (
            self._max_abs,
            formulas.mean(total["abs_error_sum"], count),
            math.sqrt(noise / count),
            formulas.relative_error(noise, signal),
            formulas.cosine(total["product"], signal, total["candidate_energy"]),
            formulas.decibels(signal, noise),
            formulas.decibels(peak * peak, noise / count),
            float(self._max_ulp),
            self._mismatches / count,
        )
        return dict(zip(ERRORS, values, strict=True))
