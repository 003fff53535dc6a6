"""From weights that are the same to ops that are the same: the fixed points of an alignment.

A weight that one op of either side holds makes the two ops counterparts. Where several ops hold it (tied weights, a
module called repeatedly) and there are as many on both sides, they are paired in order of execution. Where the weights
of one op are spread over several (a product and a sum for a linear layer), what is compared is the last op's tensor.
A convolution into which a batch norm was folded computes what the batch norm of the reference does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from layerdiff.align.graph import Graph
from layerdiff.align.structure import AFFINE, Link, Matching
from layerdiff.outline import Node


@dataclass(frozen=True)
class WeightLink:
    """A weight of the reference and the candidate's constant that holds it."""

    reference: str
    candidate: str
    method: str
    """`name` or `weights`."""
    confidence: float
    evidence: str
    folded: bool = False
    """Whether the candidate's rows are the reference's, each scaled by a factor of its own."""
    reference_rows: tuple[int, int] | None = None
    """Of the reference's rows, those that the candidate's constant holds; None for all of them."""
    candidate_rows: tuple[int, int] | None = None


def add_anchors(matching: Matching, links: Iterable[WeightLink]) -> None:
    """Adds the pairs that follow from weights, the most certain first."""
    groups: dict[tuple[str, str], list[WeightLink]] = {}
    for link in links:
        for one, other in _users(matching, link):
            if link.reference_rows or link.candidate_rows:
                _add_part(matching, link, one, other)
            else:
                groups.setdefault((one.name, other.name), []).append(link)
    for (ours, theirs), found in sorted(groups.items(), key=lambda group: -_certainty(group[1])):
        best = max(found, key=lambda link: link.confidence)
        first = _last_of(matching.reference, ours, {o for o, c in groups if c == theirs})
        second = _last_of(matching.candidate, theirs, {c for o, c in groups if o == ours})
        if any(link.folded for link in found):
            first = _folded_into(matching.reference, first)
        if not _trims(matching.reference, first):
            second = _trims(matching.candidate, second) or second
        _add_results(matching, best, first, second)


def _certainty(links: Sequence[WeightLink]) -> float:
    """How much the weights of one pair of ops tell together: the surest, and a little for every other."""
    return max(link.confidence for link in links) + 0.01 * len(links)


def _users(matching: Matching, link: WeightLink) -> Iterator[tuple[Node, Node]]:
    """The pairs of ops that hold a weight: by kind where the kinds agree, then in order of execution."""
    first = matching.reference.users.get(link.reference, ())
    second = matching.candidate.users.get(link.candidate, ())
    if len(first) == len(second):
        kinds = sorted({node.kind for node in first})
        if kinds == sorted({node.kind for node in second}) and len(kinds) > 1:
            for kind in kinds:
                yield from zip(_of_kind(first, kind), _of_kind(second, kind), strict=False)
        else:
            yield from zip(first, second, strict=True)
        return
    for kind in dict.fromkeys(node.kind for node in first):  # a tied weight may be stored once for each of its uses
        ours, theirs = _of_kind(first, kind), _of_kind(second, kind)
        if len(ours) == len(theirs):
            yield from zip(ours, theirs, strict=True)


def _of_kind(nodes: Iterable[Node], kind: str) -> list[Node]:
    return [node for node in nodes if node.kind == kind]


def _last_of(graph: Graph, name: str, others: Iterable[str]) -> str:
    """The last of several ops that hold the weights of one, if each reads the one before it."""
    chain = name
    for other in graph.nodes:
        if other in others and other != chain and _reads(graph, other, chain):
            chain = other
    return chain


def _reads(graph: Graph, name: str, other: str) -> bool:
    """Whether an op reads a tensor, directly or through ops with one operand."""
    operands = graph.operands.get(name, ())
    return other in operands or any(other in graph.operands.get(o, ()) for o in operands)


def _folded_into(graph: Graph, name: str) -> str:
    """The batch norm, or other affine op, that is the only reader of a linear op, and on to the end of such a chain."""
    readers = graph.readers.get(name, ())
    while len(readers) == 1 and graph.nodes[readers[0]].kind in AFFINE and graph.nodes[readers[0]].weights:
        name = readers[0]
        readers = graph.readers.get(name, ())
    return name


def _trims(graph: Graph, name: str) -> str | None:
    """The slice that is the only reader of an op: how a converter writes the end of a transposed convolution."""
    readers = graph.readers.get(name, ())
    if len(readers) == 1 and graph.nodes[readers[0]].kind == "slice" and len(graph.operands[readers[0]]) == 1:
        return readers[0]
    return None


def _add_results(matching: Matching, link: WeightLink, one: str, other: str) -> None:
    """Pairs the results of two ops, the first ones on the strength of the weights."""
    matching.add(Link(one, other, link.method, link.confidence, link.evidence))
    first, second = matching.reference.results.get(one, ()), matching.candidate.results.get(other, ())
    if len(first) == len(second):
        for ours, theirs in zip(first[1:], second[1:], strict=True):
            evidence = f"a further result of the pair of '{one}'"
            matching.add(Link(ours, theirs, link.method, link.confidence, evidence, composite=True))


def _add_part(matching: Matching, link: WeightLink, one: Node, other: Node) -> None:
    """A pair of which one side holds the channels of several tensors of the other."""
    part = Link(
        one.name,
        other.name,
        link.method,
        link.confidence,
        link.evidence,
        reference_rows=link.reference_rows,
        candidate_rows=link.candidate_rows,
    )
    matching.parts.append(part)
