"""Which weights of two models are the same: by their names where these tell, by their values for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerdiff.align.anchors import WeightLink
from layerdiff.align.names import match_names

if TYPE_CHECKING:
    from layerdiff.outline import Outline

BY_NAME = 0.95
"""Confidence of weights of one name."""


def weight_links(reference: Outline, candidate: Outline) -> list[WeightLink]:
    """The pairs of weights, each found once."""
    named = match_names(reference.weights, candidate.weights)
    return [
        WeightLink(ours, theirs, "name", BY_NAME, f"'{theirs}' is named after '{ours}'")
        for theirs, ours in named.items()
    ]
