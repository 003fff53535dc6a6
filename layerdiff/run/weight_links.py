"""Which weights of two models are the same: by their names where these tell, by their values for the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from layerdiff.align.anchors import WeightLink
from layerdiff.align.graph import Graph
from layerdiff.align.names import match_names
from layerdiff.align.weights import WeightMatch, match_weights

if TYPE_CHECKING:
    from layerdiff.outline import Outline

BY_NAME = 0.95
"""Confidence of weights of one name."""


def weight_links(reference: Outline, candidate: Outline) -> list[WeightLink]:
    """The pairs of weights: names first, then values for what names leave open, and for what was folded into what.

    Of the others only those are read that have as many values as a constant without a name, which may be a copy of
    them: of a large model, whose names are mostly known, that is nearly nothing.
    """
    held = {weight for node in reference.nodes for weight in node.weights.values()}
    named = match_names(held, candidate.weights)
    ours = held.difference(named.values())
    theirs = set(candidate.weights).difference(named)
    folded = _may_be_folded(reference, ours)
    copies = _of_the_sizes(reference, held, {prod(candidate.weights[name].shape) for name in theirs})
    matches = match_weights(
        _reduced(reference, ours | folded | copies),
        _reduced(candidate, theirs | {name for name, one in named.items() if one in folded}),
    )
    clear = tuple(match for match in matches if not match.is_ambiguous)
    return [*_by_name(named, clear), *_by_values(named, clear)]


def _may_be_folded(reference: Outline, unnamed: Collection[str]) -> set[str]:
    """The weights of the ops behind which one holds weights that no constant is named after: of a batch norm, say."""
    graph = Graph(reference)
    found: set[str] = set()
    for name, node in graph.nodes.items():
        readers = (graph.nodes[reader] for reader in graph.readers.get(name, ()))
        if node.weights and any(weight in unnamed for reader in readers for weight in reader.weights.values()):
            found.update(node.weights.values())
    return found


def _of_the_sizes(outline: Outline, names: Collection[str], sizes: Collection[int]) -> set[str]:
    """The weights with as many values as one of these: what a constant without a name can be a copy of."""
    return {name for name in names if name in outline.weights and prod(outline.weights[name].shape) in sizes}


def _reduced(outline: Outline, kept: Collection[str]) -> Outline:
    """The outline with these weights alone."""
    nodes = (
        replace(node, weights={role: name for role, name in node.weights.items() if name in kept})
        for node in outline.nodes
    )
    return replace(
        outline, nodes=tuple(nodes), weights={name: w for name, w in outline.weights.items() if name in kept}
    )


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
