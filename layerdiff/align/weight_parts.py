"""Weights that are not one to one: rows put together, cut, or in another order.

- Fused: the candidate's rows are those of several weights of the reference in turn (q, k, v in one product).
- Cut: the candidate's rows are some of one weight of the reference (`in_proj_weight` as three products).
- Reordered: blocks of rows changed places, as the gates of recurrent layers do between frameworks, or single rows,
  which no converter does.
- Axes in an order that keeps no two of the others in sequence; told by the norms along every axis.

These are tried for what no whole weight was found for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from layerdiff.align.weight_options import ACCEPTED, Hypothesis, Option
from layerdiff.align.weight_rows import SAMPLE, Agreement, agreement
from layerdiff.align.weight_tables import Rows
from layerdiff.align.weight_vectors import equal_elements, vector_agreement

PROBED = 8
"""Rows by which the place of a part is looked for."""
MOST_ROWS = 2**14
"""The longest table whose rows are looked for one by one; memory grows with its square."""
_DISTINCT = 0.9
"""The least share of rows that have to be told apart for an order to be one."""
_SURE = 0.2
"""The largest loss of a part: there are many places where it could be."""


def compared(reference: Rows, candidate: Rows) -> Agreement:
    """The agreement of two tables of equally many rows; of vectors that of their values."""
    if reference.length == 1:
        return vector_agreement(reference.numbers[:, 0], candidate.numbers[:, 0])
    return agreement(reference, candidate)


# ------------------------------------------------------------------ parts


def fused(references: Sequence[Rows], candidate: Rows) -> list[Option]:
    """The weights whose rows, one after the other, are all rows of the candidate; empty if they are not.

    Args:
        references: tables with rows of the candidate's length.
        candidate: the table.
    """
    found: list[Option] = []
    start = 0
    while start < len(candidate):
        options = list(_beginning_at(references, candidate, start))
        if not options:
            return []
        best = min(options, key=lambda option: option.agreement.loss)
        found.append(best)
        start += len(best.candidate)
    return found if len(found) > 1 else []


def _beginning_at(references: Sequence[Rows], candidate: Rows, start: int) -> Iterator[Option]:
    """The weights whose rows begin at a row of the candidate."""
    for rows in references:
        end = start + len(rows)
        if len(rows) >= len(candidate) or end > len(candidate) or not _begins(rows, candidate.part(start, end)):
            continue
        part = candidate.part(start, end)
        found = compared(rows, part)
        if found.loss <= _SURE and found.chance < 1e-4:
            yield Option(Hypothesis(rows), part, found, span=(start, end))


def _begins(reference: Rows, candidate: Rows) -> bool:
    """A cheap look at the first rows; some of them may be damaged."""
    if reference.length == 1:
        return bool(equal_elements(reference.numbers[:SAMPLE], candidate.numbers[:SAMPLE]).mean() > 0.5)
    first = (reference.directions[:PROBED] * candidate.directions[:PROBED]).sum(axis=1) ** 2
    return bool(np.median(first) > 0.5)


def cut(references: Iterable[Rows], candidate: Rows) -> Iterator[Option]:
    """The weights of the reference some of whose rows are all rows of the candidate."""
    for rows in references:
        if rows.length != candidate.length or len(rows) <= len(candidate):
            continue
        start = _place(rows, candidate)
        if start is None:
            continue
        part = rows.part(start, start + len(candidate))
        found = compared(part, candidate)
        if found.loss <= _SURE and found.chance < 1e-6:
            yield Option(Hypothesis(part, span=(start, start + len(candidate))), candidate, found)


def _place(reference: Rows, candidate: Rows) -> int | None:
    """Where in the reference the candidate is most likely to begin; None if no place looks like it."""
    places = len(reference) - len(candidate) + 1
    probes = np.linspace(0, len(candidate) - 1, min(PROBED, len(candidate))).astype(int)
    score = np.zeros(places)
    for probe in probes:
        if reference.length == 1:
            score += equal_elements(reference.numbers[probe : probe + places, 0], candidate.numbers[probe, 0])
        else:
            score += (reference.directions[probe : probe + places] @ candidate.directions[probe]) ** 2
    return int(score.argmax()) if score.max() > 0.5 * len(probes) else None


# ------------------------------------------------------------------ order


def reordered(reference: Hypothesis, candidate: Rows) -> Option | None:
    """The reference's rows in another order, if they are the candidate's.

    Memory is that of the square of the number of rows.
    """
    rows = reference.reference
    if len(rows) > MOST_ROWS or len(rows) != len(candidate) or rows.length != candidate.length:
        return None
    if not _same_but_for_order(rows, candidate):
        return None
    order = _nearest_rows(rows, candidate)
    if len(np.unique(order)) < _DISTINCT * len(order):
        return None
    blocks, order = _in_blocks(order)
    moved = rows.reordered(order)
    found = compared(moved, candidate)
    if found.loss > _SURE or found.factor == "rows" or np.array_equal(order, np.arange(len(order))):
        return None
    return Option(replace(reference, reference=moved, order=tuple(map(int, order)), blocks=blocks), candidate, found)


def _same_but_for_order(reference: Rows, candidate: Rows) -> bool:
    """A cheap look at what the order of rows does not change."""
    first, second = reference.unordered, candidate.unordered
    if reference.length == 1:
        return bool(equal_elements(first, second).mean() >= 1 - _SURE)
    return float(np.linalg.norm(first - second)) <= 0.5 * float(np.linalg.norm(first))


def _in_blocks(order: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """The number of blocks that an order moves as a whole, 0 if none, and the order without what noise did to it."""
    for blocks in (2, 3, 4):
        if len(order) % blocks == 0 and len(order) > blocks:
            rows = np.arange(len(order)).reshape(blocks, -1)
            for moved in permutations(range(blocks)):
                regular = rows[list(moved)].ravel()
                if (regular == order).mean() >= _DISTINCT:
                    return blocks, regular
    return 0, order


def _nearest_rows(reference: Rows, candidate: Rows) -> NDArray[np.int64]:
    """int64[rows]: for every row of the candidate the reference's row nearest to it."""
    p, q = reference.numbers.astype(np.float32), candidate.numbers.astype(np.float32)
    distance = (p * p).sum(axis=1)[None] - 2 * (q @ p.T)
    return np.asarray(distance.argmin(axis=1), np.int64)


# ------------------------------------------------------------------ axes


def permuted(reference: Sequence[Rows], candidate: Sequence[Rows]) -> Option | None:
    """The reference with its axes in another order, by the norms along every axis, which no order changes.

    Args:
        reference: the tables of a weight of at least three axes longer than one.
        candidate: those of another.
    """
    lengths = [len(rows) for rows in candidate]
    best: Option | None = None
    for order in permutations(range(len(reference))):
        if [len(reference[axis]) for axis in order] != lengths:
            continue
        losses = [_norm_loss(reference[axis], rows) for axis, rows in zip(order, candidate, strict=True)]
        if best is None or max(losses) < best.agreement.loss:
            freedom = sum(lengths)
            found = Agreement(max(losses), float(np.sqrt(max(losses))), lengths[0], "one", 1.0, freedom)
            hypothesis = Hypothesis(reference[order[0]], permutation=order, note="told by the norms along every axis")
            best = Option(hypothesis, candidate[0], found)
    return best if best is not None and best.agreement.loss <= min(ACCEPTED, 1e-3) else None


def _norm_loss(reference: Rows, candidate: Rows) -> float:
    """Relative squared distance of the norms of two tables' rows."""
    return float(((reference.norms - candidate.norms) ** 2).sum() / max((reference.norms**2).sum(), 1e-30))
