"""An outline without what only moves values around: tensors that differ in layout, dtype or name alone become one.

What stays of a model are the ops that compute, and which of them feeds which: that is what two models of the same
function have in common, however differently they reshape, transpose and cast in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from layerdiff.outline import SAME_VALUES, Node, Outline

COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "logical"})


@dataclass(frozen=True, eq=False)
class Graph:
    """The computing ops of an outline."""

    outline: Outline

    @cached_property
    def roots(self) -> Mapping[str, str]:
        """Tensor → the tensor whose values it holds, in perhaps another layout or dtype; an input or computed."""
        roots = {node.name: node.name for node in self.outline.inputs}
        for node in self.outline.nodes:
            moves = node.kind in SAME_VALUES and len(node.inputs) == 1 and not node.weights
            roots[node.name] = roots.get(node.inputs[0], node.inputs[0]) if moves else node.name
        return roots

    @cached_property
    def nodes(self) -> Mapping[str, Node]:
        """Root tensor → its node, in order of execution; inputs and constants left out."""
        kept = (n for n in self.outline.nodes if self.roots[n.name] == n.name and n.kind != "constant")
        return {node.name: node for node in kept}

    @cached_property
    def operands(self) -> Mapping[str, tuple[str, ...]]:
        """Root tensor → the roots that its op reads, in the order of its arguments; constants left out."""
        constants = {node.name for node in self.outline.nodes if node.kind == "constant"}
        found = {name: [self.root(operand) for operand in node.inputs] for name, node in self.nodes.items()}
        return {name: tuple(o for o in operands if o not in constants) for name, operands in found.items()}

    @cached_property
    def readers(self) -> Mapping[str, tuple[str, ...]]:
        """Root tensor → the root tensors whose ops read it, in order of execution."""
        found: dict[str, list[str]] = {}
        for name, operands in self.operands.items():
            for operand in dict.fromkeys(operands):
                found.setdefault(operand, []).append(name)
        return {name: tuple(readers) for name, readers in found.items()}

    @cached_property
    def users(self) -> Mapping[str, tuple[Node, ...]]:
        """Weight → the nodes that hold it, first results only, in order of execution."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            for weight in dict.fromkeys(node.weights.values()):
                if node.result == 0:
                    found.setdefault(weight, []).append(node)
        return {weight: tuple(nodes) for weight, nodes in found.items()}

    def root(self, name: str) -> str:
        """The root of a tensor or of its alias."""
        node = self.outline.by_name.get(name)
        name = node.name if node is not None else name
        return self.roots.get(name, name)

    @cached_property
    def layouts(self) -> Mapping[str, tuple[str, ...]]:
        """Root → every other tensor that holds its values, in order of execution."""
        found: dict[str, list[str]] = {}
        for name, root in self.roots.items():
            if name != root:
                found.setdefault(root, []).append(name)
        return {root: tuple(names) for root, names in found.items()}

    @cached_property
    def results(self) -> Mapping[str, tuple[str, ...]]:
        """Tensor → all results of the op that makes it, in their order; only of ops with several."""
        groups: list[list[str]] = []
        for node in self.outline.nodes:
            if node.result == 0 or not groups:
                groups.append([])
            groups[-1].append(node.name)
        return {name: tuple(group) for group in groups if len(group) > 1 for name in group}


def same_operands(kind: str, expected: Iterable[str], got: Iterable[str]) -> bool:
    """Whether two ops of one kind read the same tensors; the order counts unless the op commutes."""
    first, second = list(expected), list(got)
    return sorted(first) == sorted(second) if kind in COMMUTATIVE else first == second
