"""What each component of a candidate costs, from the transcripts of all mixtures.

Two numbers per component and measure. `alone`: what changes when it is the only one that is taken from the candidate.
`share`: its Shapley value, the average over all orders in which the components could be exchanged: the shares of
all components add up to what the whole candidate costs, even where two errors only together change a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

from layerdiff.decode.tally import Tally

if TYPE_CHECKING:
    from layerdiff.decode.result import MixtureCost

Measure = Callable[[Tally], float]


@dataclass(frozen=True)
class Cost:
    """What a component costs in one measure."""

    alone: float
    share: float


@dataclass(frozen=True)
class ComponentCost:
    """What one component of a candidate costs."""

    component: str
    changed_words: Cost
    """Words that are others than the reference's."""
    wrong_words: Cost | None
    """Words that are wrong by the manifest's text, beyond those of the reference; None without texts."""
    end_shift_ms: Cost
    """By how much tokens end elsewhere than the reference's, on average."""


def component_costs(mixtures: Sequence[MixtureCost], reference: Tally, *, frame_s: float) -> tuple[ComponentCost, ...]:
    """What every component costs, in the order of the components.

    Args:
        mixtures: every choice of the candidate's components but none.
        reference: the counts of the reference's own transcripts.
        frame_s: seconds of audio per encoder frame.
    """
    tallies = {frozenset(mixed.components): mixed.tally for mixed in mixtures}
    names = max((mixed.components for mixed in mixtures), key=len, default=())
    tallies[frozenset()] = Tally(clips=reference.clips, text_words=reference.text_words)

    def changed(tally: Tally) -> float:
        return tally.words.errors

    def wrong(tally: Tally) -> float:
        return tally.text_words.errors

    def moved(tally: Tally) -> float:
        return tally.shift.end_frames_abs * frame_s * 1000 / max(tally.shift.tokens, 1)

    return tuple(
        ComponentCost(
            name,
            cost(name, names, tallies, changed),
            cost(name, names, tallies, wrong) if reference.with_text else None,
            cost(name, names, tallies, moved),
        )
        for name in names
    )


def cost(name: str, names: Sequence[str], tallies: Mapping[frozenset[str], Tally], measure: Measure) -> Cost:
    """What one component adds: alone, and on average over what else has been exchanged before it."""
    others = [other for other in names if other != name]

    def added(before: tuple[str, ...]) -> float:
        return measure(tallies[frozenset((*before, name))]) - measure(tallies[frozenset(before)])

    share = sum(
        added(before) / (len(names) * comb(len(others), size))
        for size in range(len(names))
        for before in combinations(others, size)
    )
    return Cost(added(()), share)
