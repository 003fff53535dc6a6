"""Tensors that are the same by their values, whatever their names, ops and layouts.

A signature is what no permutation, squeezing or reshaping changes: how many values there are, their mean, range and
quantiles. Two tensors whose signatures agree within `TOLERANCE` are taken to be the same if no other open tensor of
either side agrees too; those that agree with several are compared no further, for nothing tells them apart. Constant
tensors (all zeros, all ones) agree with too much to mean anything and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdiff.align.structure import Link, Matching

Array = NDArray[Any]

QUANTILES = 33
SAMPLES = 2**20
"""Of larger tensors the quantiles are left out: sorting them costs more than it tells."""
PART = 2**16
"""Values that are summed at once: they fit into a core's cache."""
TOLERANCE = 2e-3
"""How far two signatures may lie apart, relative to the root mean square; float32 programs agree within 1e-5."""
FEWEST = 8
"""Tensors with fewer values are not paired by them."""
SAME_VALUES = 0.75
"""Confidence of a pair that only its values tell."""


NEAR, FAR, NEAR_VALUES = 0.1, 4.0, 0.6
"""Where nothing agrees: the largest distance of a pair, how many times farther all others are, and its confidence."""


@dataclass(frozen=True, eq=False)
class Signature:
    """What no change of layout changes of a tensor."""

    count: int
    numbers: NDArray[np.float64]
    """Root mean square, mean, mean of the absolute values, smallest, largest, quantiles."""

    @property
    def is_telling(self) -> bool:
        """Whether it can tell tensors apart: enough values that are finite and not all the same."""
        finite = bool(np.isfinite(self.numbers).all())
        return finite and self.count >= FEWEST and bool(self.numbers[4] - self.numbers[3] > 1e-6 * self.numbers[0])

    def agrees(self, other: Signature) -> bool:
        """Whether two tensors can hold the same values."""
        return self.distance(other) <= TOLERANCE

    def distance(self, other: Signature) -> float:
        """The largest difference of two numbers, relative to the larger root mean square; inf if the counts differ."""
        if self.count != other.count:
            return inf
        scale = max(self.numbers[0], other.numbers[0])
        return float(np.abs(self.numbers - other.numbers).max() / scale) if scale else 0.0


def signature(value: Array) -> Signature:
    """The signature of a tensor, summed in float64; O(n log n) for n values, at most `SAMPLES` of them sorted.

    Takes O(SAMPLES) of memory on top of a tensor whose values lie together.
    """
    flat = np.asarray(value).reshape(-1)
    if not flat.size or np.iscomplexobj(flat):
        return Signature(0, np.zeros(5))
    with np.errstate(all="ignore"):
        parts = [_sums(flat[start : start + PART]) for start in range(0, flat.size, PART)]
        squares, total, size = np.sum([part[:3] for part in parts], axis=0) / flat.size
        low, high = min(part[3] for part in parts), max(part[4] for part in parts)
        quantiles = _quantiles(flat) if flat.size <= SAMPLES else np.empty(0)
    return Signature(flat.size, np.concatenate([[np.sqrt(squares), total, size, low, high], quantiles]))


def _sums(values: Array) -> tuple[float, ...]:
    """Sum of the squares, of the values, of their magnitudes; smallest and largest; nan where one is.

    Without BLAS: its threads would go on spinning beside those of the models that run in between.
    """
    wide = values.astype(np.float64)
    low, high, total = float(values.min()), float(values.max()), float(wide.sum())
    size = float(np.abs(wide, out=wide).sum())
    return float(np.square(wide, out=wide).sum()), total, size, low, high


def _quantiles(values: Array) -> NDArray[np.float64]:
    """Evenly spaced quantiles, the nearest value below each."""
    places = np.linspace(0, values.size - 1, QUANTILES).astype(np.int64)
    return np.sort(values)[places].astype(np.float64)


def undecided(matching: Matching) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The computed tensors of both sides without a partner: those whose values may still tell."""
    reference = tuple(name for name in matching.reference.nodes if matching.open_reference(name))
    candidate = tuple(name for name in matching.candidate.nodes if matching.open_candidate(name))
    return (reference, candidate) if reference and candidate else ((), ())


def by_values(
    matching: Matching, reference: Mapping[str, Signature], candidate: Mapping[str, Signature]
) -> Iterator[Link]:
    """Pairs of open tensors whose signatures agree with each other's and with no other one's.

    Args:
        matching: what is known already.
        reference: open tensor → signature, on one and the same feed for both sides.
        candidate: likewise, computed in float32.
    """
    fits: dict[str, list[str]] = {}
    for name, one in reference.items():
        if matching.open_reference(name) and one.is_telling:
            fits[name] = [n for n, other in candidate.items() if matching.open_candidate(n) and one.agrees(other)]
    claims: dict[str, int] = {}
    for names in fits.values():
        for other in names:
            claims[other] = claims.get(other, 0) + 1
    for name, names in fits.items():
        if len(names) == 1 and claims[names[0]] == 1:
            yield Link(name, names[0], "values", SAME_VALUES, "the same values, and no other tensor has them")
        elif names:
            yield from _in_order(matching, name, names, fits)
    yield from _nearest(
        {n: one for n, one in reference.items() if not fits.get(n, True)},
        {n: other for n, other in candidate.items() if not claims.get(n) and matching.open_candidate(n)},
    )


def _nearest(reference: Mapping[str, Signature], candidate: Mapping[str, Signature]) -> Iterator[Link]:
    """Pairs near each other and far from all others: of a candidate whose weights are kept in few bits."""
    if not reference or not candidate:
        return
    distances = np.array([[one.distance(other) for other in candidate.values()] for one in reference.values()])
    for row, name in enumerate(reference):
        column = int(distances[row].argmin())
        near = distances[row, column]
        others = np.concatenate([np.delete(distances[row], column), np.delete(distances[:, column], row)])
        if near <= NEAR and (others >= FAR * near).all():
            evidence = "its values are near, and all others far"
            yield Link(name, list(candidate)[column], "values", NEAR_VALUES, evidence, composite=True)


def _in_order(matching: Matching, name: str, names: list[str], fits: Mapping[str, list[str]]) -> Iterator[Link]:
    """Several tensors with equal values on both sides are the same whichever is paired with which: first with first."""
    twins = [other for other, found in fits.items() if found == names]
    if len(twins) == len(names):
        place = twins.index(name)
        yield Link(name, names[place], "values", SAME_VALUES, f"the same values as {len(names)} tensors of either side")
    elif matching.open_reference(name):
        matching.ambiguous[name] = tuple(names)


def narrowed(
    matching: Matching, reference: Mapping[str, Signature], candidate: Mapping[str, Signature]
) -> Iterator[Link]:
    """What is left of several tensors that one could be: those with as many values.

    One that is left alone is the same op on the same operands, and nothing else is; where none is left, the two sides
    compute it in other steps.
    """
    for name, fits in list(matching.ambiguous.items()):
        own = reference.get(name)
        if own is None or not matching.open_reference(name):
            continue
        left = tuple(
            n for n in fits if matching.open_candidate(n) and n in candidate and candidate[n].count == own.count
        )
        if len(left) > 1:
            matching.ambiguous[name] = left
        else:
            matching.ambiguous.pop(name)
        if len(left) == 1:
            evidence = "the same op on paired operands, and the only one with as many values"
            yield Link(name, left[0], "structure", SAME_VALUES, evidence, composite=True)
