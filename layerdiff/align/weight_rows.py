"""Whether two tables of rows are the same weight, and which pairs of tables are worth asking that about.

The comparison is robust: a row counts for at most as much as if it were unrelated, so that a weight of which some rows
were damaged is still found. It says whether the rows are equal, all times one factor, or each times a factor of its
own; a few rows with another factor are damage, not a factor.

The search takes at most `SAMPLE` rows of every table and multiplies the tables of all weights with each other at once,
through products that do not change with the length and the sign of a row. What looks alike is then compared in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerdiff.align.weight_match import Factor
from layerdiff.align.weight_tables import Rows

Array = NDArray[np.float64]

SAMPLE = 64
"""Rows per table in the first search."""
ALIKE = 0.4
"""Mean squared cosine of the sampled rows above which a pair is compared in full; unrelated rows have 1/6 or less."""
COMPARED = 4
"""So many pairs per table of the candidate are compared in full, and all that look as much alike as the first."""
_EQUAL = 1e-3

SMALLEST_TOLERANCE = 2e-3
"""How far from its neighbours' a row's factor may be at least; float16 rounding of short rows stays below."""
_SMALL_ROW = 1e-3
"""Rows whose square is below this share of the average are judged by that share instead of by their own."""


@dataclass(frozen=True)
class Agreement:
    """How well two tables of equally many rows agree."""

    loss: float
    """Mean over the rows of their squared relative error, each at most 1: 0 equal, about 1 unrelated."""
    error: float
    """Relative L2 norm of the difference after the factor, all rows counted in full."""
    rows: int
    """How many rows agree, with the error of the typical row in mind."""
    factor: Factor
    scale: float
    """The factor; of the rows' factors the median."""
    freedom: int
    """How many independent numbers agree."""

    @property
    def chance(self) -> float:
        """About how likely it is that unrelated weights agree as well."""
        return float(min(1.0, max(self.loss, 1e-12) ** (self.freedom / 2)))


def agreement(reference: Rows, candidate: Rows) -> Agreement:
    """Compares two tables row by row under the simplest factor that most rows share."""
    p, q = reference.numbers, candidate.numbers
    count, width = p.shape
    pp, qq, pq = reference.squares, candidate.squares, (p * q).sum(axis=1)
    alive = (pp > 1e-12 * pp.max(initial=0)) & (qq > 1e-12 * qq.max(initial=0))
    if not alive.any():
        lost = float(pp.any() or qq.any())
        return Agreement(lost, lost, int(count * (1 - lost)), "one", 1.0, 0)
    sines = np.clip(1 - pq[alive] ** 2 / (pp[alive] * qq[alive]), 0, 1) * (width / max(width - 1, 1))
    factor, scale = _factor(pq[alive] / pp[alive], np.sqrt(np.median(sines)), width)
    if factor == "rows":
        squared = np.asarray((pp > 0) | (qq > 0), np.float64)
        squared[alive] = sines
        error = np.sqrt((sines * qq[alive]).sum() / qq.sum())
    else:
        difference = ((q - scale * p) ** 2).sum(axis=1)
        squared = difference / (scale**2 * np.maximum(pp, _SMALL_ROW * pp.mean()))
        error = np.sqrt(difference.sum() / (scale**2 * pp.sum()))
    clipped = np.minimum(squared, 1)
    typical = max(16 * float(np.median(clipped)), SMALLEST_TOLERANCE**2)
    agreeing = int((clipped <= typical).sum())
    return Agreement(float(clipped.mean()), float(error), agreeing, factor, scale, count * (width - (factor == "rows")))


def row_factors(reference: Rows, candidate: Rows) -> Array:
    """float64[rows]: by what every row of the reference is multiplied; 0 of a row of zeros."""
    squares = reference.squares
    products = (reference.numbers * candidate.numbers).sum(axis=1)
    factors: Array = np.divide(products, squares, out=np.zeros_like(products), where=squares > 0)
    return factors


def _factor(factors: Array, noise: float, width: int) -> tuple[Factor, float]:
    """The factor that at least half of the rows share, or that every row has its own."""
    tolerance = max(4 * noise / np.sqrt(width), SMALLEST_TOLERANCE)
    if (np.abs(factors - 1) <= tolerance).mean() >= 0.5 or width == 1:
        return "one", 1.0
    median = float(np.median(factors))
    if median and (np.abs(factors - median) <= tolerance * abs(median)).mean() >= 0.5:
        return "whole", median
    return "rows", median or 1.0


def alike(references: Iterable[Rows], candidates: Iterable[Rows]) -> Iterator[tuple[Rows, Rows]]:
    """The pairs of tables with equally many and equally long rows that look alike, the likeliest of each first."""
    by_size: dict[tuple[int, int], list[Rows]] = {}
    for rows in references:
        by_size.setdefault((len(rows), rows.length), []).append(rows)
    wanted: dict[tuple[int, int], list[Rows]] = {}
    for rows in candidates:
        wanted.setdefault((len(rows), rows.length), []).append(rows)
    for size, asking in wanted.items():
        if known := by_size.get(size, ()):
            for rows, scores in zip(asking, likeness(known, asking), strict=True):
                order = np.argsort(-scores, kind="stable")
                least = max(ALIKE, min(scores[order[:COMPARED][-1]], scores[order[0]] - _EQUAL))
                yield from ((known[i], rows) for i in order if scores[i] >= least)


def likeness(references: Iterable[Rows], candidates: Iterable[Rows]) -> Array:
    """float[candidates, references]: the mean squared cosine of the sampled rows; all tables of one size."""
    (first, counts), (second, others) = _features(references), _features(candidates)
    return np.asarray((second @ first.T) / np.maximum(np.maximum(counts[None], others[:, None]), 1), np.float64)


def _features(tables: Iterable[Rows]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """float32[tables, features]: the outer squares of the sampled rows' directions; and how many are not zero."""
    features, counts = [], []
    for rows in tables:
        sampled = rows.directions[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int)]
        features.append((sampled[:, :, None] * sampled[:, None, :]).astype(np.float32).ravel())
        counts.append(int(sampled.any(axis=1).sum()))
    return np.stack(features), np.asarray(counts)
