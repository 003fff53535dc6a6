"""Which weights of two models are the same: by their names where these tell, by their values for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from layerdiff.align.anchors import WeightLink
from layerdiff.align.names import match_names
from layerdiff.align.weights import WeightMatch, match_weights

if TYPE_CHECKING:
    from layerdiff.outline import Outline

BY_NAME = 0.95
"""Confidence of weights of one name."""


def weight_links(reference: Outline, candidate: Outline) -> list[WeightLink]:
    """The pairs of weights: names first, then values for what names leave open, and for what was folded into what.

    Weights are read only if names do not settle all of the reference's that an op holds.
    """
    held = {weight for node in reference.nodes for weight in node.weights.values()}
    named = match_names(held, candidate.weights)
    if set(named) >= set(candidate.weights) and set(named.values()) >= held:
        matches: tuple[WeightMatch, ...] = ()
    else:
        matches = tuple(match for match in match_weights(reference, candidate) if not match.is_ambiguous)
    return [*_by_name(named, matches), *_by_values(named, matches)]


def _by_name(named: Mapping[str, str], matches: tuple[WeightMatch, ...]) -> Iterator[WeightLink]:
    folded = {(match.reference, match.candidate) for match in matches if is_folded(match)}
    for theirs, ours in named.items():
        evidence = f"'{theirs}' is named after '{ours}'"
        yield WeightLink(ours, theirs, "name", BY_NAME, evidence, folded=(ours, theirs) in folded)


def _by_values(named: Mapping[str, str], matches: tuple[WeightMatch, ...]) -> Iterator[WeightLink]:
    for match in matches:
        if match.candidate in named:
            continue
        yield WeightLink(
            match.reference,
            match.candidate,
            "weights",
            match.confidence,
            match.evidence,
            folded=is_folded(match),
            reference_rows=match.reference_rows,
            candidate_rows=match.candidate_rows,
        )


def is_folded(match: WeightMatch) -> bool:
    """Whether the candidate's rows are scaled by factors of their own, as a batch norm behind them would do."""
    return match.norm is not None or match.factor == "rows"
