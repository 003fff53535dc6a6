"""What a constant of the candidate may be, and the decision between several possibilities.

Every search ends in options: a table of the reference, whole or changed by a hypothesis, that agrees with a table of
the candidate. The best option wins if nothing else fits nearly as well; what fits equally well is kept beside it, with
the confidence shared, because values alone cannot tell then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from layerdiff.align.weight_match import FoldedNorm, Span, WeightMatch
from layerdiff.align.weight_rows import Agreement
from layerdiff.align.weight_tables import Rows

ACCEPTED = 0.35
"""The largest loss that is a match: error of few bits, or damage to a third of the rows."""

EQUAL_RATIO, EQUAL_LOSS = 1.2, 1e-7
"""Losses within this ratio or distance are equal; the distance is what float16 rounding of a weight costs."""


LEAST = 0.3
"""Factor of the confidence of what agrees in so few numbers that it may be chance, such as a bias of zeros."""


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A table that a constant of the candidate may hold, and how it came from the reference."""

    reference: Rows
    """The table to be found, all changes made."""
    span: Span | None = None
    """The rows of the reference's weight that it has; None for all."""
    order: tuple[int, ...] | None = None
    blocks: int = 0
    added: str = ""
    norm: FoldedNorm | None = None
    permutation: tuple[int, ...] | None = None
    note: str = ""
    """What is to be said about it beside how well it agrees."""


@dataclass(frozen=True, eq=False)
class Option:
    """A hypothesis, and a table of the candidate that agrees with it."""

    hypothesis: Hypothesis
    candidate: Rows
    agreement: Agreement
    span: Span | None = None
    """The rows of the candidate's constant that agree; None for all."""

    @property
    def rank(self) -> tuple[float, int, int]:
        """The better the smaller; of axes along which a weight agrees as well, the first."""
        return self.agreement.loss + EQUAL_LOSS, int(bool(self.layout)), self.hypothesis.reference.axis

    @property
    def layout(self) -> str:
        """How the axes differ, in words; empty if they do not."""
        one, other = self.hypothesis.reference.place, self.candidate.place
        if self.hypothesis.permutation is not None or (one != other and one[1] == other[1] > 2):
            return "axes permuted"
        return "" if one == other else "transposed" if one[1] == other[1] else "reshaped"


def best_axes(options: Iterable[Option]) -> list[Option]:
    """Of the options with one weight of the reference the simplest that is nearly as good as the best."""
    by_reference: dict[tuple[str, str], list[Option]] = {}
    for option in options:
        known = option.hypothesis
        by_reference.setdefault((known.reference.weight, known.added), []).append(option)
    chosen = []
    for same in by_reference.values():
        least = min(option.rank[0] for option in same)
        chosen.append(min((o for o in same if o.rank[0] <= 2 * least), key=lambda o: o.rank[1:]))
    return sorted(chosen, key=lambda option: option.rank)


def decided(options: Iterable[Option], *, compared: int) -> list[WeightMatch]:
    """The matches of one constant: one, several that fit equally well, or none.

    Args:
        options: of one constant, or of one part of it.
        compared: how many weights it could have been.
    """
    ordered = best_axes(option for option in options if option.agreement.loss <= ACCEPTED)
    if not ordered:
        return []
    limit = EQUAL_RATIO * ordered[0].agreement.loss + EQUAL_LOSS
    equal = [option for option in ordered if option.agreement.loss <= limit]
    other = next((option.agreement.loss for option in ordered[len(equal) :]), 1.0)
    return [_match(option, equal, other=other, compared=compared) for option in equal]


def _match(option: Option, equal: list[Option], *, other: float, compared: int) -> WeightMatch:
    found, known = option.agreement, option.hypothesis
    certain = (1 - min(1.0, found.loss / other) ** 0.5) * max(LEAST, 1 - found.chance * compared)
    names = tuple(o.hypothesis.reference.weight for o in equal if o is not option)
    words = f"{found.rows} of {len(option.candidate)} rows agree, relative L2 error {found.error:.2g}"
    others = f"{len(names)} other weights fit as well" if names else ""
    return WeightMatch(
        reference=known.reference.weight,
        candidate=option.candidate.weight,
        error=found.error,
        confidence=certain / len(equal),
        evidence="; ".join(part for part in (words, known.note, others) if part),
        reference_axis=known.reference.axis,
        candidate_axis=option.candidate.axis,
        layout=option.layout,
        permutation=known.permutation,
        reference_rows=known.span,
        candidate_rows=option.span,
        order=known.order,
        blocks=known.blocks,
        factor=found.factor,
        scale=found.scale,
        added=known.added,
        norm=known.norm,
        alternatives=names,
    )


def settled(match: WeightMatch, *, confidence: float, because: str) -> WeightMatch:
    """A match out of several that something else than values has decided."""
    return replace(match, confidence=confidence, alternatives=(), evidence=f"{match.evidence}; {because}")
