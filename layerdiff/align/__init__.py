"""Which tensor of one model is which of another, with evidence; nothing here runs a model.

In this order, each step adding only what the ones before it left open:

1. the user's map;
2. names: constants carry the module paths of the weights that they were made of (`names`);
3. weights: equal values, whatever they are called (`weights`); both give ops that hold the same weights (`anchors`);
4. structure: what follows from pairs along the ops between them (`structure`);
5. values of what is still open, whatever its layout (`values`), and structure again from there.

A pair says by which of these it was found and how sure that is. Everything that computes and has no counterpart is
listed with a reason; what fits several tensors is listed with all of them, and is not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from layerdiff.align.anchors import WeightLink, add_anchors
from layerdiff.align.graph import Graph
from layerdiff.align.structure import Link, Matching, explained, propagate
from layerdiff.align.values import Signature, by_values, narrowed, undecided
from layerdiff.outline import Outline

__all__ = ["Alignment", "Link", "Probe", "Signature", "Unmatched", "align"]

Probe = Callable[[Collection[str], Collection[str]], tuple[Mapping[str, Signature], Mapping[str, Signature]]]
"""Runs both sides once on the same feed, the candidate in float32: names of tensors of the reference and of the
candidate → their signatures."""

INTERFACE = 0.9
"""Confidence of two outputs of the same name, or of the only output on either side."""


@dataclass(frozen=True)
class Unmatched:
    """A computed tensor without a counterpart."""

    side: str
    """`reference` or `candidate`."""
    tensor: str
    op: str
    reason: str
    is_output: bool = False
    candidates: tuple[str, ...] = ()
    """The tensors that it could be, where several fit."""


@dataclass(frozen=True)
class Alignment:
    """The plan of a comparison: it holds no arrays."""

    pairs: tuple[Link, ...]
    """In the order in which the reference computes them."""
    unmatched: tuple[Unmatched, ...]
    reference_tensors: int
    """Tensors that the reference computes, those left out that only move the values of another one."""
    candidate_tensors: int

    @property
    def methods(self) -> dict[str, int]:
        """Method → number of pairs found by it."""
        counts: dict[str, int] = {}
        for pair in self.pairs:
            counts[pair.method] = counts.get(pair.method, 0) + 1
        return counts


def align(
    reference: Outline,
    candidate: Outline,
    *,
    inputs: Mapping[str, str],
    weights: Iterable[WeightLink],
    outputs: Mapping[str, str] | None = None,
    given: Iterable[tuple[str, str]] = (),
    probe: Probe | None = None,
) -> Alignment:
    """Pairs the tensors of two outlines.

    Args:
        reference: the model that counts as right.
        candidate: the other one.
        inputs: input of the reference → input of the candidate that is fed the same.
        weights: weights that are the same, see `anchors`.
        outputs: output of the reference → output of the candidate that has to be the same; None for those of one name,
            or of one place where both models return equally many.
        given: pairs of tensor names that the user gives; they are taken as they are.
        probe: gives signatures of what structure leaves open; without it values decide nothing.
    """
    matching = Matching(Graph(reference), Graph(candidate))
    for one, other in given:
        ours, theirs = matching.reference.root(one), matching.candidate.root(other)
        matching.add(Link(ours, theirs, "map", 1.0, "the stage map"))
    for one, other in inputs.items():
        matching.add(Link(one, other, "name", 1.0, "fed alike"))
    add_anchors(matching, weights)
    propagate(matching)
    interface = _outputs(reference, candidate) if outputs is None else dict(outputs)
    for one, other in interface.items():
        matching.add(_output_link(matching, one, other))
    propagate(matching)
    if probe is not None:
        _decide_by_values(matching, probe)
    _hold_outputs_together(matching, interface)
    return _settled(matching)


def _outputs(reference: Outline, candidate: Outline) -> dict[str, str]:
    """What both models return under one name, or in the same place where they return equally many tensors."""
    ours, theirs = reference.outputs, candidate.outputs
    named = {name: name for name in ours if name in theirs}
    return named or (dict(zip(ours, theirs, strict=True)) if len(ours) == len(theirs) else {})


def _output_link(matching: Matching, one: str, other: str) -> Link:
    evidence = "outputs of one name" if one == other else f"the outputs '{one}' and '{other}'"
    return Link(matching.reference.root(one), matching.candidate.root(other), "structure", INTERFACE, evidence)


def _hold_outputs_together(matching: Matching, interface: Mapping[str, str]) -> None:
    """Compares what the models return in any case, also where the reference's output has its counterpart further
    inside.

    A model that does something more to its output (a log-softmax that was baked in) is not the same function.
    """
    for one, other in interface.items():
        link = _output_link(matching, one, other)
        elsewhere = matching.partner(link.reference) not in (link.candidate, None)
        if elsewhere and link.candidate in matching.candidate.nodes:
            matching.outputs.append(replace(link, evidence=f"returned as '{other}'"))


def _decide_by_values(matching: Matching, probe: Probe) -> None:
    reference, candidate = undecided(matching)
    if not reference:
        return
    ours, theirs = probe(reference, candidate)
    links = list(by_values(matching, ours, theirs))
    links += narrowed(matching, ours, theirs)
    for link in links:
        matching.add(link)
    if links:
        propagate(matching)


def _settled(matching: Matching) -> Alignment:
    """The pairs under the names by which they are shown, and what is left."""
    inputs = {node.name for node in matching.reference.outline.inputs}
    order = {name: place for place, name in enumerate(matching.reference.nodes)}
    links = [link for link in (*matching.links.values(), *matching.parts) if link.reference not in inputs]
    in_parts = [link for link in matching.parts if link.reference not in matching.links]
    links = [link for link in links if link.reference in order and (link not in matching.parts or link in in_parts)]
    pairs = sorted((p for p in (*links, *matching.outputs) if _is_real(matching, p)), key=lambda p: order[p.reference])
    return Alignment(
        pairs=tuple(_shown(matching, link) for link in pairs),
        unmatched=(*_left(matching, "reference"), *_left(matching, "candidate")),
        reference_tensors=len(matching.reference.nodes),
        candidate_tensors=len(matching.candidate.nodes),
    )


def _is_real(matching: Matching, link: Link) -> bool:
    """Whether both sides are real numbers: a program holds complex ones in two tensors."""
    nodes = matching.reference.nodes[link.reference], matching.candidate.nodes[link.candidate]
    return not any(node.dtype.startswith("complex") for node in nodes)


def _shown(matching: Matching, link: Link) -> Link:
    """A pair whose tensors are the models' outputs where these hold the same values."""
    names = _name_of(matching.reference, link.reference), _name_of(matching.candidate, link.candidate)
    return replace(link, reference=names[0], candidate=names[1])


def _name_of(graph: Graph, root: str) -> str:
    outputs = [name for name in graph.layouts.get(root, ()) if name in graph.outline.outputs]
    return root if root in graph.outline.outputs or not outputs else outputs[-1]


def _left(matching: Matching, side: str) -> Iterator[Unmatched]:
    """The tensors of one side without a counterpart, in order of execution."""
    graph = matching.reference if side == "reference" else matching.candidate
    reasons = explained(matching, side=side)
    outputs = {graph.root(name) for name in graph.outline.outputs}
    loose = (*matching.parts, *matching.outputs)
    partial = {link.reference if side == "reference" else link.candidate for link in loose}
    paired = matching.links if side == "reference" else matching.partners
    for name, node in graph.nodes.items():
        if name in paired or name in partial:
            continue
        fits = matching.ambiguous.get(name, ()) if side == "reference" else ()
        fits = tuple(other for other in fits if matching.open_candidate(other))
        yield Unmatched(side, name, node.op, _reason(name, fits, reasons, side), name in outputs, fits)


def _reason(name: str, fits: Collection[str], reasons: Mapping[str, str], side: str) -> str:
    if len(fits) > 1:
        return f"ambiguous: it could be {', '.join(list(fits)[:4])}{' …' if len(fits) > 4 else ''}"
    other = "candidate" if side == "reference" else "reference"
    if name in reasons:
        return f"a step towards '{reasons[name]}' that the {other} does not take, or takes in another way"
    return f"nothing that the {other} has too is computed from it"
