"""Pairs that follow from other pairs: what reads the same tensors in the same way, and what is read by the same op.

From the pairs that are known, alternately until nothing new is found:

- forward: an op whose operands are all paired is the op of the same kind that reads their counterparts, if there is
  exactly one on either side;
- backward: the operands of two paired ops of one kind are each other's counterparts, position by position. If different
  ops made them, the two models compute the same tensor differently (a fused or a decomposed op, or a wrong one).

What several ops fit is left alone and listed: its values may decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from layerdiff.align.graph import COMMUTATIVE, Graph, same_operands
from layerdiff.outline import Node

AFFINE = frozenset({"batch_norm", "mul", "add", "sub", "div"})
"""Kinds of op that a converter folds into the linear op before them."""

SAME_OP, OTHER_OP, SAME_OPERAND = 0.9, 0.8, 0.85
"""Confidence of a forward pair, of an op that stands in the place of another one, of a backward pair of one kind."""
COMPOSITE = 0.6
"""Confidence of a backward pair whose two sides compute it by different ops."""


@dataclass(frozen=True)
class Link:
    """A pair of root tensors."""

    reference: str
    candidate: str
    method: str
    confidence: float
    evidence: str
    composite: bool = False
    """Whether the two sides compute the tensor by different ops, so that its values have to confirm it."""
    reference_rows: tuple[int, int] | None = None
    """Of the reference's channels, those that the candidate's tensor holds; None for all."""
    candidate_rows: tuple[int, int] | None = None


@dataclass
class Matching:
    """The pairs found so far."""

    reference: Graph
    candidate: Graph
    links: dict[str, Link] = field(default_factory=dict)
    """Reference root → its link; a root whose channels are spread over several tensors has none here."""
    parts: list[Link] = field(default_factory=list)
    """Pairs of which one side is a part of a tensor."""
    outputs: list[Link] = field(default_factory=list)
    """Outputs that are compared although the reference's has a counterpart elsewhere."""
    partners: dict[str, str] = field(default_factory=dict)
    """Candidate root → reference root."""
    ambiguous: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Reference root → the candidate roots that it could be."""

    def add(self, link: Link) -> bool:
        """Takes a pair in unless one of its sides has another partner already."""
        if link.reference in self.links or link.candidate in self.partners:
            return False
        self.links[link.reference] = link
        self.partners[link.candidate] = link.reference
        self.ambiguous.pop(link.reference, None)
        return True

    def partner(self, reference: str) -> str | None:
        """The candidate's tensor of a reference root."""
        link = self.links.get(reference)
        return link.candidate if link else None

    def open_reference(self, name: str) -> bool:
        """Whether it is a computed tensor of the reference without a partner."""
        return name in self.reference.nodes and name not in self.links

    def open_candidate(self, name: str) -> bool:
        """Whether it is a computed tensor of the candidate without a partner."""
        return name in self.candidate.nodes and name not in self.partners


def propagate(matching: Matching) -> None:
    """Adds every pair that follows from those that are there."""
    changed = True
    while changed:
        changed = False
        for rule in (forward, backward):
            for link in list(rule(matching)):
                changed |= matching.add(link)


def forward(matching: Matching) -> Iterator[Link]:
    """Ops whose operands are paired."""
    for name, node in matching.reference.nodes.items():
        operands = matching.reference.operands[name]
        if not matching.open_reference(name) or not operands:
            continue
        mapped = [matching.partner(operand) for operand in operands]
        if None in mapped:
            continue
        found = _same_in(matching.candidate, name, node.kind, node.result, [m for m in mapped if m], matching)
        twins = _twins(matching, name)
        if len(found) == 1 and len(twins) == 1:
            yield Link(name, found[0], "structure", SAME_OP, f"the same op on paired operands, {node.kind}")
        elif found:
            matching.ambiguous[name] = tuple(found)


def _same_in(graph: Graph, name: str, kind: str, result: int, operands: Sequence[str], matching: Matching) -> list[str]:
    """Open candidate tensors that an op of this kind makes from these operands."""
    return [
        other
        for other in graph.readers.get(operands[0], ())
        if matching.open_candidate(other)
        and graph.nodes[other].kind == kind
        and graph.nodes[other].result == result
        and same_operands(kind, operands, graph.operands[other])
    ]


def _twins(matching: Matching, name: str) -> list[str]:
    """Open reference tensors that an op of the same kind makes from the same operands; the tensor itself included."""
    graph = matching.reference
    node, operands = graph.nodes[name], graph.operands[name]
    return [
        other
        for other in graph.readers.get(operands[0], ())
        if matching.open_reference(other)
        and graph.nodes[other].kind == node.kind
        and graph.nodes[other].result == node.result
        and same_operands(node.kind, operands, graph.operands[other])
    ]


def backward(matching: Matching) -> Iterator[Link]:
    """Operands of paired ops."""
    for link in list(matching.links.values()):
        second = matching.candidate.nodes.get(link.candidate)
        first = None if second is None else _under_affine(matching.reference, link.reference, second.kind)
        if first is None or second is None or first.kind != second.kind:
            continue
        expected, got = matching.reference.operands[first.name], matching.candidate.operands[second.name]
        for one, other in _corresponding(matching, first.kind, expected, got):
            if matching.open_reference(one) and matching.open_candidate(other):
                yield _operand_link(matching, one, other, reader=first.name)


def _under_affine(graph: Graph, name: str, kind: str) -> Node | None:
    """The op of a kind that makes a tensor, or that a chain of affine ops which conversion folds into it ends on."""
    node = graph.nodes.get(name)
    while node is not None and node.kind != kind and node.kind in AFFINE and len(graph.operands[node.name]) == 1:
        node = graph.nodes.get(graph.operands[node.name][0])
    return node


def _corresponding(matching: Matching, kind: str, expected: Sequence[str], got: Sequence[str]) -> list[tuple[str, str]]:
    """Operands that stand for each other: by position, or, where the order does not count, what is left."""
    if kind not in COMMUTATIVE:
        return list(zip(expected, got, strict=True)) if len(expected) == len(got) else []
    known = {matching.partner(name) for name in expected}
    left = [name for name in expected if matching.partner(name) not in got]
    right = [name for name in got if name not in known]
    return [(left[0], right[0])] if len(left) == len(right) == 1 else []


def _operand_link(matching: Matching, one: str, other: str, *, reader: str) -> Link:
    """What two paired ops read, in the same place."""
    kinds = matching.reference.nodes[one].kind, matching.candidate.nodes[other].kind
    if kinds[0] == kinds[1]:
        return Link(one, other, "structure", SAME_OPERAND, f"operands of the pair of '{reader}', {kinds[0]}")
    mapped = [matching.partner(name) for name in matching.reference.operands[one]]
    replaced = bool(mapped) and sorted(map(str, mapped)) == sorted(matching.candidate.operands[other])
    if replaced:
        return Link(one, other, "structure", OTHER_OP, f"'{kinds[1]}' stands in the place of '{kinds[0]}'")
    evidence = f"operands of the pair of '{reader}', '{kinds[0]}' there and '{kinds[1]}' here"
    return Link(one, other, "structure", COMPOSITE, evidence, composite=True)


def explained(matching: Matching, *, side: str) -> Mapping[str, str]:
    """Unpaired root → the nearest paired tensor of the same side that is computed from it; absent if there is none."""
    graph = matching.reference if side == "reference" else matching.candidate
    paired = matching.links if side == "reference" else matching.partners
    nearest: dict[str, str] = {}
    for name in reversed(list(graph.nodes)):
        for reader in graph.readers.get(name, ()):
            goal = reader if reader in paired else nearest.get(reader)
            if goal is not None:
                nearest.setdefault(name, goal)
    return {name: goal for name, goal in nearest.items() if name not in paired}
