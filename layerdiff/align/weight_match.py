"""What it means that a constant of the candidate holds a weight of the reference: the record, and how it is applied.

A match says which rows of the reference are which rows of the candidate. Rows are slices across one axis, flattened in
the order of the other axes, so one notion covers transposed, reshaped, split, fused, reordered and scaled weights:

    rows(candidate)[candidate_rows] ≈ factor · (rows(reference) + rows(added))[reference_rows][order]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from layerdiff.fingerprint import Fingerprint

Array = NDArray[Any]

Factor = Literal["one", "whole", "rows"]
"""Whether the candidate is the reference as it is, times one factor, or with a factor of its own for every row."""

Span = tuple[int, int]
"""First row and the one after the last."""


@dataclass(frozen=True)
class FoldedNorm:
    """A batch norm of the reference that is part of the candidate's weights.

    With `s = weight / sqrt(running_var + epsilon)` the rows are multiplied by s, and a bias b becomes
    `(b - running_mean) · s + bias`.
    """

    running_mean: str
    running_var: str
    weight: str = ""
    """Empty if the norm has none, which is one of ones."""
    bias: str = ""
    epsilon: float = 0.0
    """Found from the factors of the rows."""
    is_before: bool = False
    """Whether the norm stands before the op, so that its factors are those of the inputs."""

    @property
    def names(self) -> tuple[str, ...]:
        """The weights of the reference that it is made of."""
        return tuple(name for name in (self.weight, self.bias, self.running_mean, self.running_var) if name)


@dataclass(frozen=True)
class WeightMatch:
    """A weight of the reference, or some of its rows, and the constant of the candidate that holds it."""

    reference: str
    candidate: str
    error: float
    """Relative L2 norm of the difference, as the fingerprints tell it."""
    confidence: float
    """In [0, 1]; one over the number of equals where several weights fit equally well."""
    evidence: str
    """Why, in words."""
    reference_axis: int = 0
    candidate_axis: int = 0
    layout: str = ""
    """How the axes longer than one differ: `transposed`, `reshaped`, `axes permuted`; empty if they do not."""
    permutation: tuple[int, ...] | None = None
    """The reference's axes longer than one, in the candidate's order, where rows alone do not tell it."""
    reference_rows: Span | None = None
    """The rows that the candidate holds; None for all of them."""
    candidate_rows: Span | None = None
    """The rows that hold it; None for all of them."""
    order: tuple[int, ...] | None = None
    """Candidate row i is row `order[i]` of the reference, counted within `reference_rows`; None if in order."""
    blocks: int = 0
    """The number of equally long blocks that `order` moves as a whole, as gates are; 0 if it is irregular."""
    factor: Factor = "one"
    scale: float = 1.0
    """The factor of the whole, or the median of those of the rows."""
    added: str = ""
    """A second weight of the reference that was added, as the two biases of a recurrent layer are."""
    norm: FoldedNorm | None = None
    alternatives: tuple[str, ...] = ()
    """Other weights of the reference that fit as well."""

    @property
    def is_ambiguous(self) -> bool:
        return bool(self.alternatives)

    @property
    def transform(self) -> str:
        """What was done to the reference's values, in words; empty if nothing was."""
        return ", ".join(part for part in (self.layout, self._extent, self._order, self._factor, self._joined) if part)

    @property
    def _extent(self) -> str:
        spans = {"of": self.reference_rows, "in": self.candidate_rows}
        return " ".join(f"{word} rows {first}..{end - 1}" for word, (first, end) in _given(spans))

    @property
    def _order(self) -> str:
        if self.order is None:
            return ""
        return f"{self.blocks} blocks of rows reordered" if self.blocks else "rows permuted"

    @property
    def _factor(self) -> str:
        if self.norm is not None:
            return "batch norm folded in"
        return {"one": "", "whole": f"times {self.scale:.4g}", "rows": "rows scaled"}[self.factor]

    @property
    def _joined(self) -> str:
        return f"plus '{self.added}'" if self.added else ""


def _given(spans: dict[str, Span | None]) -> list[tuple[str, Span]]:
    return [(word, span) for word, span in spans.items() if span is not None]


def rows_of(values: Array, axis: int) -> Array:
    """[rows, length]: an array's slices across an axis, flattened in the order of the other axes."""
    values = np.atleast_1d(values)
    length = values.shape[axis]
    return np.moveaxis(values, axis, 0).reshape(length, -1)


def reference_rows(match: WeightMatch, values: Array, added: Array | None = None) -> Array:
    """[rows, length]: what a match says of the reference's values, before any factor.

    Args:
        match: the match.
        values: the reference's weight.
        added: the values of `match.added`.
    """
    rows = rows_of(_permuted(values, match.permutation), match.reference_axis if match.permutation is None else 0)
    if added is not None:
        rows = rows + rows_of(added, match.reference_axis)
    rows = rows[slice(*match.reference_rows)] if match.reference_rows else rows
    return rows if match.order is None else rows[list(match.order)]


def candidate_rows(match: WeightMatch, values: Array) -> Array:
    """[rows, length]: the part of the candidate's values that a match speaks of."""
    if match.permutation is not None:
        values = values.reshape([length for length in values.shape if length > 1])
    rows = rows_of(values, match.candidate_axis if match.permutation is None else 0)
    return rows[slice(*match.candidate_rows)] if match.candidate_rows else rows


def _permuted(values: Array, permutation: tuple[int, ...] | None) -> Array:
    if permutation is None:
        return values
    return values.reshape([length for length in values.shape if length > 1]).transpose(permutation)


def is_finite(fingerprint: Fingerprint) -> bool:
    """Whether a weight can be searched for: a NaN or an infinity in it makes its products worthless."""
    return all(bool(np.isfinite(table).all()) for table in (*fingerprint.products, *fingerprint.norms))
