"""From a function to what has to be run: which ops, in which order, and after which a tensor is freed.

A plan knows names only; no value, no precision, no kernel. It is made for the tensors that are asked for
and those that are given: only ancestors of the former that are not hidden behind the latter are in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from layerdiff.errors import FeedError, PackageError, known_names
from layerdiff.mil.program import Block, Function, Named, Op, TensorType


@dataclass(frozen=True, eq=False)
class Step:
    """One op of a plan."""

    op: Op
    releases: tuple[str, ...]
    """The tensors that nothing reads afterwards."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What to run for a request."""

    fetch: tuple[str, ...]
    feeds: tuple[str, ...]
    """The inputs that it reads."""
    injected: tuple[str, ...]
    """The given tensors that it reads."""
    steps: tuple[Step, ...]


class Graph:
    """The tensors of one function and how they depend on each other.

    Args:
        function: the function.
        package: name of the package that it is from, for messages.

    Raises:
        PackageError: the function refers to a tensor that does not exist, or not yet.
    """

    def __init__(self, function: Function, *, package: str = "") -> None:
        self.function = function
        self.where = ", ".join(filter(None, (package, f"function '{function.name}'")))
        check(function.block, set(), self.where, inputs=function.inputs)
        self.inputs = {named.name: named.type for named in function.inputs}
        self.producers = {output.name: op for op in function for output in op.outputs}

    @cached_property
    def types(self) -> Mapping[str, TensorType]:
        """Declared type of every tensor, constants included."""
        constants = {name: constant.type for name, constant in self.function.block.constants.items()}
        return constants | self.inputs | {o.name: o.type for op in self.function for o in op.outputs}

    @cached_property
    def depths(self) -> Mapping[str, int]:
        """Tensor → number of ops on the longest path from an input or constant to it."""
        depths: dict[str, int] = {}
        for op in self.function:
            depth = 1 + max((depths.get(name, 0) for name in op.reads), default=0)
            depths |= {output.name: depth for output in op.outputs}
        return depths

    def ancestors(self, name: str) -> frozenset[str]:
        """Every tensor, inputs included and constants not, that `name` is computed from."""
        found: set[str] = set()
        pending = [name]
        while pending:
            op = self.producers.get(pending.pop())
            new = [n for n in op.reads if n not in found and n in self.dynamic] if op else []
            found.update(new)
            pending.extend(new)
        return frozenset(found)

    @cached_property
    def dynamic(self) -> frozenset[str]:
        """Inputs and results of ops: everything but constants."""
        return frozenset(self.inputs) | frozenset(self.producers)

    def require(self, names: Iterable[str]) -> None:
        """Raises FeedError unless every name is a tensor of the function."""
        for name in names:
            if name not in self.types:
                raise FeedError(
                    f"there is no tensor '{name}'.",
                    where=self.where,
                    detail=known_names("its tensors", name, [*self.function.block.outputs, *self.dynamic]),
                )

    def plan(self, fetch: Sequence[str], injected: Iterable[str] = (), *, keep: bool = True) -> Plan:
        """The plan that computes `fetch` when the values of `injected` are given.

        Args:
            fetch: the tensors that are asked for.
            injected: the tensors whose values are given.
            keep: whether the tensors of `fetch` stay until the end, or are released like others.

        Raises:
            FeedError: there is no such tensor, or one to inject is a constant.
        """
        given = tuple(dict.fromkeys(injected))
        self.require([*fetch, *given])
        for name in given:
            if name not in self.dynamic:
                raise FeedError(f"'{name}' is a constant, so no value can be given for it.", where=self.where)
        needed, scheduled = set(fetch), []
        for op in reversed(self.function.block.ops):
            if any(output.name in needed and output.name not in given for output in op.outputs):
                scheduled.append(op)
                needed.update(op.reads)
        used = tuple(name for name in given if name in needed)
        return Plan(
            fetch=tuple(dict.fromkeys(fetch)),
            feeds=tuple(name for name in self.inputs if name in needed and name not in given),
            injected=used,
            steps=self._steps(scheduled[::-1], set(fetch) if keep else set(), set(used)),
        )

    def _steps(self, ops: list[Op], kept: set[str], given: set[str]) -> tuple[Step, ...]:
        """The ops with what each releases: what it reads or makes for the last time, unless it is kept."""
        steps: list[Step] = []
        for op in reversed(ops):
            touched = [*op.reads, *(output.name for output in op.outputs if output.name not in given)]
            last = [name for name in dict.fromkeys(touched) if name in self.dynamic and name not in kept]
            kept.update(last)
            steps.append(Step(op, tuple(last)))
        return tuple(reversed(steps))


def check(block: Block, known: set[str], where: str, *, inputs: Iterable[Named] = ()) -> None:
    """Checks that every tensor that a block refers to is defined before it is used, and only once.

    Raises:
        PackageError: it is not.
    """
    defined = known | {named.name for named in (*inputs, *block.inputs)} | set(block.constants)
    later = {output.name for op in block.ops for output in op.outputs}
    for op in block.ops:
        place = f"{where}, op '{op.name}' of type {op.type}"
        for bound in op.inputs.values():
            for name in bound:
                if isinstance(name, str) and name not in defined:
                    raise _undefined(name, place, later)
        for inner in op.blocks:
            check(inner, defined, place)
        for output in op.outputs:
            if output.name in defined:
                raise PackageError(f"the tensor '{output.name}' is defined twice.", where=place, action=DAMAGED)
            defined.add(output.name)
    for name in block.outputs:
        if name not in defined:
            raise _undefined(name, f"{where}, its outputs", later)


DAMAGED = "the program is damaged: convert the model again"


def _undefined(name: str, place: str, later: set[str]) -> PackageError:
    if name in later:
        what = f"the tensor '{name}' is used before it is computed: the program is cyclic or out of order."
    else:
        what = f"the tensor '{name}' is used and defined nowhere."
    return PackageError(what, where=place, action=DAMAGED)
