"""Outlines written by hand, one line per op."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from layerdiff.align.graph import Graph
from layerdiff.align.structure import Link, Matching
from layerdiff.outline import Node, Outline, Weight

Array = np.ndarray


def node(name: str, kind: str, *inputs: str, **fields: Any) -> Node:
    """An op whose own type is its kind, unless `op` says otherwise."""
    return Node(name, fields.pop("op", kind), kind, inputs, **fields)


def outline(*nodes: Node, inputs: Iterable[str] = ("x",), outputs: Iterable[str] | None = None) -> Outline:
    """The last op is the output where nothing else is said; every weight that an op holds is there, without values."""
    held = {name: Weight(name, "float32", (1,)) for found in nodes for name in found.weights.values()}
    fed = tuple(node(name, "input") for name in inputs)
    return Outline("by hand", fed, nodes, tuple(outputs or (nodes[-1].name,)), held)


def matching(reference: Outline, candidate: Outline, known: Mapping[str, str] | None = None) -> Matching:
    """The two outlines with the pairs that are known; `x` is fed to both where nothing else is said."""
    found = Matching(Graph(reference), Graph(candidate))
    for one, other in ({"x": "x"} if known is None else known).items():
        found.add(Link(one, other, "name", 1.0, "known"))
    return found


def pairs(found: Matching) -> dict[str, str]:
    """Reference → candidate, without the input `x`."""
    return {one: link.candidate for one, link in found.links.items() if one != "x"}
