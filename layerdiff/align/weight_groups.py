"""What values leave open, decided by the company that weights keep.

The weights of one op belong to one module. So a constant that several weights of the reference fit (biases of zeros,
norms that never moved) is the one whose companions are the constant's companions; and a constant that nothing fits is
held against the one weight of that module that is left, which shows how it was changed. Names of the candidate are not
looked at; roles are, where the ops of both sides give them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence

import numpy as np

from layerdiff.align.weight_match import WeightMatch
from layerdiff.align.weight_options import LEAST, settled
from layerdiff.align.weight_parts import compared
from layerdiff.align.weight_tables import Rows, Side

Found = MutableMapping[str, list[WeightMatch]]
"""Constant of the candidate → its matches: several of one whole if it is ambiguous, one per part if it is fused."""

SURE = 0.8
"""Confidence from which a match tells where its companions belong."""

BY_COMPANY, BY_ROLE = 0.95, 0.6
"""Confidence of what was one of several by value, and of what its place alone tells."""


def settle(found: Found, reference: Side, candidate: Side) -> None:
    """Decides what is ambiguous or thin by value where the companions of a constant tell; twice, for chains."""
    for _ in range(2):
        for name, matches in list(found.items()):
            expected = _expected(found, reference, candidate, name)
            if not expected or not all(_is_open(match) for match in matches):
                continue
            if chosen := _chosen(matches, expected, reference, candidate):
                because = "the other weights of its op belong to the same module"
                found[name] = [settled(chosen, confidence=BY_COMPANY, because=because)]
            elif not any(match.reference in expected for match in matches):
                del found[name]  # such as an initial state of zeros, which is equal to any bias of zeros


def _is_open(match: WeightMatch) -> bool:
    """Whether values leave a match open."""
    return match.is_ambiguous or match.confidence <= LEAST


def _chosen(
    matches: Sequence[WeightMatch], expected: Mapping[str, str], reference: Side, candidate: Side
) -> WeightMatch | None:
    """The only one among the expected, or the only one with the right role."""
    left = [match for match in matches if match.reference in expected]
    role = candidate.role(matches[0].candidate) if matches else ""
    fitting = [match for match in left if reference.role(match.reference) == role]
    for remaining in (left, fitting):
        if len(remaining) == 1:
            return remaining[0]
    return None


def _expected(found: Found, reference: Side, candidate: Side, name: str) -> dict[str, str]:
    """The weights of the modules that a constant's companions come from → the companion that tells so."""
    expected: dict[str, str] = {}
    for partner in candidate.partners(name):
        for match in found.get(partner, ()):
            if match.confidence >= SURE and not match.is_ambiguous:
                for companion in reference.partners(match.reference):
                    expected.setdefault(companion, match.reference)
    return expected


def by_place(found: Found, reference: Side, candidate: Side) -> None:
    """Adds, for constants that nothing fits, the weight that their companions leave over."""
    taken = {name for matches in found.values() for match in matches for name in _uses(match)}
    for name, tables in candidate.tables.items():
        if found.get(name):
            continue
        expected = _expected(found, reference, candidate, name)
        left = [other for other in expected if other not in taken and _same_size(reference.tables, other, tables)]
        role = candidate.role(name)
        fitting = [other for other in left if reference.role(other) == role] or left
        if len(fitting) == 1:
            found[name] = [_by_place(reference.tables[fitting[0]], tables, expected[fitting[0]])]
            taken.add(fitting[0])


def _uses(match: WeightMatch) -> Iterable[str]:
    """The weights of the reference that a match accounts for."""
    return (match.reference, *((match.added,) if match.added else ()), *(match.norm.names if match.norm else ()))


def _same_size(known: Mapping[str, tuple[Rows, ...]], name: str, tables: Sequence[Rows]) -> bool:
    return name in known and sorted(map(len, known[name])) == sorted(map(len, tables))


def _by_place(reference: Sequence[Rows], candidate: Sequence[Rows], companion: str) -> WeightMatch:
    """A match whose values differ, along the axes that fit best."""
    pairs = [(one, other) for one in reference for other in candidate if len(one) == len(other)]
    pairs = [(one, other) for one, other in pairs if one.length == other.length]
    losses = [compared(one, other).loss for one, other in pairs]
    one, other = pairs[int(np.argmin(losses))]
    difference = np.linalg.norm(other.numbers - one.numbers) / max(float(np.linalg.norm(one.numbers)), 1e-30)
    words = f"its values differ, relative L2 error {difference:.2g}, but it stands beside the weight of '{companion}'"
    return WeightMatch(one.weight, other.weight, float(difference), BY_ROLE, words, one.axis, other.axis)
