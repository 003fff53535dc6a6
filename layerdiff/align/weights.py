"""Which constant of the candidate is which weight of the reference, by values alone.

Names of the candidate are never looked at, so a package whose names mean nothing, or lie, is matched as well. What
converters do to weights is known and tried, the likeliest first:

1. whole matrices, up to axes, precision, few bits, damage, and factors of the whole or of rows (`weight_rows`);
2. whole vectors (`weight_vectors`), sums of two of them, and what batch norms turn into (`weight_norms`);
3. fused, cut and reordered weights, and axes in any order (`weight_parts`), for what is left;
4. factors of rows that are a batch norm, with the bias that follows;
5. what values leave open, by the company that weights keep (`weight_groups`).

Every match says how well the values agree and how much better than the next best. The fingerprints are all that is
read, but for the few matches that they tell too little of. Not found here: weights under an invertible change of basis,
and scalars.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np

from layerdiff.align.weight_groups import Found, by_place, settle
from layerdiff.align.weight_match import FoldedNorm, WeightMatch, candidate_rows, reference_rows
from layerdiff.align.weight_norms import derived, explained, folded_bias, norms_of
from layerdiff.align.weight_options import Hypothesis, Option, decided
from layerdiff.align.weight_parts import cut, fused, permuted, reordered
from layerdiff.align.weight_rows import agreement, alike
from layerdiff.align.weight_tables import Rows, Side, side
from layerdiff.align.weight_vectors import vector_options
from layerdiff.outline import Outline

__all__ = ["FoldedNorm", "WeightMatch", "candidate_rows", "match_weights", "reference_rows"]

FEW_ROWS = 4
"""Matches of so few rows are verified on the values."""
REFUTED = 0.5
"""Relative L2 error of the values above which a match by fingerprints was a coincidence."""


def match_weights(reference: Outline, candidate: Outline) -> tuple[WeightMatch, ...]:
    """Finds the reference's weights among the candidate's constants.

    Args:
        reference: a model or a checkpoint; its roles (`weight`, `running_var`) are those of torch.
        candidate: a model, e.g. a package.

    Returns:
        The matches in the order of the candidate's weights: one for a constant that is one weight; several that name
        each other as `alternatives` where values cannot tell; one per part of a fused constant. A weight of the
        reference that is used by several ops is in several matches. Time is that of the fingerprints, which read every
        weight once, and seconds for a thousand weights; memory is that of the fingerprints and one weight.
    """
    ours, theirs = side(reference, integers=False), side(candidate, integers=True)
    found: Found = {}
    _match_matrices(found, ours, theirs)
    _match_vectors(found, map(Hypothesis, ours.vectors.values()), theirs)
    _match_vectors(found, _combined(ours), theirs)
    _match_parts(found, ours, theirs)
    _verify(found, reference, candidate)
    _explain_factors(found, ours, theirs)
    _match_vectors(found, derived(norms_of(ours)), theirs)
    settle(found, ours, theirs)
    by_place(found, ours, theirs)
    return tuple(match for name in candidate.weights for match in found.get(name, ()))


def _match_matrices(found: Found, reference: Side, candidate: Side) -> None:
    """Whole matrices."""
    options: dict[str, list[Option]] = {}
    for one, other in alike(_tables(reference.matrices.values()), _tables(candidate.matrices.values())):
        options.setdefault(other.weight, []).append(Option(Hypothesis(one), other, agreement(one, other)))
    for name, known in options.items():
        if matches := decided(known, compared=len(reference.matrices)):
            found[name] = matches


def _tables(weights: Iterable[tuple[Rows, ...]]) -> Iterator[Rows]:
    return (rows for tables in weights for rows in tables)


def _match_vectors(found: Found, hypotheses: Iterable[Hypothesis], candidate: Side) -> None:
    """Vectors that have no match yet."""
    known = list(hypotheses)
    left = [rows for name, rows in candidate.vectors.items() if name not in found]
    for options in vector_options(known, left):
        if matches := decided(options, compared=len(known)):
            found[matches[0].candidate] = matches


def _combined(reference: Side) -> Iterator[Hypothesis]:
    """The sums of two vectors of one group, as those of the biases of a recurrent layer."""
    for group in reference.groups:
        vectors = [reference.vectors[name] for name in group.values() if name in reference.vectors]
        for one, other in combinations(vectors, 2):
            if len(one) == len(other) and other.squares.any():
                note = f"the sum of '{one.weight}' and '{other.weight}'"
                yield Hypothesis(one.plus(other), added=other.weight, note=note)


# ------------------------------------------------------------------ what is left


def _match_parts(found: Found, reference: Side, candidate: Side) -> None:
    """Fused, cut, reordered and permuted weights."""
    taken = {match.reference for matches in found.values() for match in matches if match.confidence >= REFUTED}
    tables = list(_tables(reference.tables.values()))
    unused = [rows for rows in tables if rows.weight not in taken]
    sums = list(_combined(reference))
    for name, own in candidate.tables.items():
        if name in found:
            continue
        hypotheses = [*map(Hypothesis, unused), *(sums if len(own) == 1 else ())]
        options = [o for rows in own for h in hypotheses if (o := reordered(h, rows)) is not None]
        options += [o for rows in own for o in cut(unused, rows)]
        options += [o for rows in unused_weights(reference, taken) if (o := _permuted(rows, own)) is not None]
        matches = decided(options, compared=10 * len(tables)) or list(_fused(tables, own))
        if matches:
            found[name] = matches


def unused_weights(reference: Side, taken: Iterable[str]) -> Iterator[tuple[Rows, ...]]:
    """The tables of the matrices that have no match."""
    return (tables for name, tables in reference.matrices.items() if name not in set(taken))


def _permuted(reference: tuple[Rows, ...], candidate: tuple[Rows, ...]) -> Option | None:
    fits = len(reference) == len(candidate) > 2
    return permuted(reference, candidate) if fits else None


def _fused(references: list[Rows], candidate: tuple[Rows, ...]) -> Iterator[WeightMatch]:
    """One match per part of a fused constant."""
    for rows in candidate:
        fitting = [table for table in references if table.length == rows.length and len(table) < len(rows)]
        if options := fused(fitting, rows):
            for option in options:
                yield from decided([option], compared=10 * len(fitting))
            return


# ------------------------------------------------------------------ explanations


def _explain_factors(found: Found, reference: Side, candidate: Side) -> None:
    """Finds the batch norms that are the factors of rows, and the biases that follow from them."""
    norms = norms_of(reference)
    for name, matches in list(found.items()):
        if len(matches) != 1 or matches[0].factor != "rows":
            continue
        match = matches[0]
        one = next(rows for rows in reference.tables[match.reference] if rows.axis == match.reference_axis)
        other = next(rows for rows in candidate.tables[name] if rows.axis == match.candidate_axis)
        if len(one) != len(other) or (known := explained(match, norms, one, other)) is None:
            continue
        found[name] = [known[0]]
        if bias := folded_bias(*known, reference, candidate):
            found[bias.candidate] = [bias]


def _verify(found: Found, reference: Outline, candidate: Outline) -> None:
    """Holds matches that fingerprints tell little of to the values, and drops those that are refuted."""
    for name, matches in list(found.items()):
        kept = []
        for match in matches:
            checked = _verified(match, reference, candidate) if _is_thin(match, candidate) else match
            kept += [checked] if checked is not None else []
        if kept:
            found[name] = kept
        else:
            del found[name]


def _is_thin(match: WeightMatch, candidate: Outline) -> bool:
    """Whether a match rests on few rows, or on norms alone."""
    shape = candidate.weights[match.candidate].shape
    return match.permutation is not None or (sum(n > 1 for n in shape) > 1 and shape[match.candidate_axis] <= FEW_ROWS)


def _verified(match: WeightMatch, reference: Outline, candidate: Outline) -> WeightMatch | None:
    """The match with the error of its values; None if they differ."""
    one, other = reference.weights[match.reference].read, candidate.weights[match.candidate].read
    if one is None or other is None or match.factor == "rows":
        return match
    p = match.scale * reference_rows(match, np.asarray(one(), np.float64))
    q = candidate_rows(match, np.asarray(other(), np.float64))
    error = float(np.linalg.norm(q - p) / max(float(np.linalg.norm(p)), 1e-30))
    if error > REFUTED:
        return None
    return replace(match, error=error, evidence=f"{match.evidence}; verified on the values")
