"""From a function to what has to be run: which ops, in which order, and after which a tensor is freed.

A plan knows names only; no value, no precision, no kernel. It is made for the tensors that are asked for
and those that are given: only ancestors of the former that are not hidden behind the latter are in it. Ops
with nested blocks hold a plan of each block. Reading a state depends on the writes before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from layerdiff.errors import FeedError, PackageError, known_names
from layerdiff.mil.program import Block, Function, Named, Op, TensorType


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """What to run of a nested block."""

    block: Block
    steps: tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Step:
    """One op of a plan."""

    op: Op
    releases: tuple[str, ...]
    """The tensors that nothing reads afterwards."""
    blocks: tuple[BlockPlan, ...] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """What to run for a request."""

    fetch: tuple[str, ...]
    feeds: tuple[str, ...]
    """The inputs that it reads."""
    injected: tuple[str, ...]
    """The given tensors that it reads."""
    steps: tuple[Step, ...]
    states: tuple[str, ...] = ()
    """The states that it reads or writes."""


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
        self.inputs = {named.name: named.type for named in function.inputs if named.type.kind != "state"}
        self.states = {named.name: named.type for named in function.inputs if named.type.kind == "state"}
        self.producers = {output.name: op for op in function for output in op.outputs}

    @cached_property
    def types(self) -> Mapping[str, TensorType]:
        """Declared type of every tensor outside of nested blocks, constants and states included."""
        constants = {name: constant.type for name, constant in self.function.block.constants.items()}
        return constants | self.inputs | self.states | {o.name: o.type for op in self.function for o in op.outputs}

    @cached_property
    def depths(self) -> Mapping[str, int]:
        """Tensor → number of ops on the longest path from an input or constant to it."""
        depths: dict[str, int] = {}
        for op in self.function:
            depth = 1 + max((depths.get(name, 0) for name in self._reads(op)), default=0)
            depths |= {output.name: depth for output in op.outputs}
        return depths

    def ancestors(self, name: str) -> frozenset[str]:
        """Every tensor, inputs and states included and constants not, that `name` is computed from."""
        constants, pending = self.function.block.constants, [name]
        found: set[str] = set()
        while pending:
            op = self.producers.get(pending.pop())
            new = [n for n in self._reads(op) if n not in found and n not in constants] if op else []
            found.update(new)
            pending.extend(new)
        return frozenset(found)

    def _reads(self, op: Op) -> tuple[str, ...]:
        """What an op depends on: the tensors that it reads, and what was written to the states that it reads."""
        return (*op.reads, *self._state_sources.get(op, ()))

    @cached_property
    def _state_sources(self) -> Mapping[Op, tuple[str, ...]]:
        """Op → the tensors that were last written to the states that it reads."""
        last: dict[str, tuple[str, ...]] = {}
        sources = {}
        for op in self.function:
            if read := [name for name in op.reads if name in last]:
                sources[op] = tuple(source for name in read for source in last[name])
            for name in op.written_states:
                kept = () if op.type == "write_state" else last.get(name, ())  # a block may not get to write
                last[name] = (*kept, *op.reads)
        return sources

    @cached_property
    def dynamic(self) -> frozenset[str]:
        """Inputs and results of ops: everything but constants and states."""
        return frozenset(self.inputs) | frozenset(self.producers)

    @cached_property
    def nested(self) -> Mapping[str, str]:
        """Tensor inside a nested block → the op that holds the block."""
        return {name: op.name for op in self.function for block in op.blocks for inner in walk(block) for name in inner}

    def require(self, names: Iterable[str]) -> None:
        """Raises FeedError unless every name is a tensor of the function, outside of its nested blocks."""
        for name in names:
            if name in self.types:
                continue
            if name in self.nested:
                raise FeedError(
                    f"the tensor '{name}' is inside a block of the op '{self.nested[name]}'.",
                    where=self.where,
                    detail="it may be computed many times, or never",
                    action="trace the model: a trace shows it each time that it is computed",
                )
            raise FeedError(
                f"there is no tensor '{name}'.",
                where=self.where,
                detail=known_names("its tensors", str(name), self._listed),
            )

    @cached_property
    def _listed(self) -> tuple[str, ...]:
        """Every tensor once, those first that a caller most likely means."""
        return tuple(dict.fromkeys([*self.function.block.outputs, *self.inputs, *self.producers]))

    def plan(
        self, fetch: Sequence[str], injected: Iterable[str] = (), *, keep: bool = True, update_states: bool = False
    ) -> Plan:
        """The plan that computes `fetch` when the values of `injected` are given.

        Args:
            fetch: the tensors that are asked for.
            injected: the tensors whose values are given.
            keep: whether the tensors of `fetch` stay until the end, or are released like others.
            update_states: whether every write of a state is done, or only those that `fetch` depends on.

        Raises:
            FeedError: there is no such tensor, or one to inject is a constant, a state, a list or a label.
        """
        given = tuple(dict.fromkeys(injected))
        self.require([*fetch, *given])
        for name in given:
            if name not in self.dynamic:
                kind = "state" if name in self.states else "constant"
                raise FeedError(f"'{name}' is a {kind}, so no value can be given for it.", where=self.where)
            if self.types[name].kind != "tensor" or self.types[name].dtype == "str":
                raise FeedError(f"'{name}' is no tensor of numbers, so no value can be given for it.", where=self.where)
        needed = set(fetch) | (set(self.states) if update_states else set())
        scheduled = _scheduled(self.function.block.ops, needed, given=set(given))
        used = tuple(name for name in given if name in needed)
        kept = set(fetch) if keep else set()
        touched = {name for op in scheduled for name in (*op.reads, *op.written_states)} | set(fetch)
        return Plan(
            fetch=tuple(dict.fromkeys(fetch)),
            feeds=tuple(name for name in self.inputs if name in needed and name not in given),
            injected=used,
            steps=_steps(scheduled, self.dynamic - kept, given=set(used), whole=not keep),
            states=tuple(name for name in self.states if name in touched),
        )


def walk(block: Block) -> Iterable[tuple[str, ...]]:
    """Of each op in a block and the blocks inside it, the names of its results."""
    for op in block.ops:
        for inner in op.blocks:
            yield from walk(inner)
        yield tuple(output.name for output in op.outputs)


def _scheduled(ops: Sequence[Op], needed: set[str], *, given: set[str]) -> list[Op]:
    """The ops that the needed tensors and states depend on, in order; `needed` grows by what these read.

    A write makes the value of a state that was needed up to there; an op that writes inside of a block may not get
    to do it, so what was written before it stays needed.
    """
    scheduled = []
    for op in reversed(ops):
        written = needed.intersection(op.written_states)
        if written or any(output.name in needed and output.name not in given for output in op.outputs):
            scheduled.append(op)
            if op.type == "write_state":
                needed -= written
            needed.update(op.reads)
    return scheduled[::-1]


def _steps(ops: Sequence[Op], released: Iterable[str], *, given: set[str], whole: bool) -> tuple[Step, ...]:
    """The ops with what each releases: those of `released` that it reads or makes for the last time.

    Args:
        ops: in order of execution.
        released: the tensors that are freed after their last use.
        given: tensors whose values are given, so that their ops do not make them.
        whole: whether everything in nested blocks is run, or only what their outputs depend on.
    """
    pending, steps = set(released), []
    for op in reversed(ops):
        touched = [*op.reads, *(output.name for output in op.outputs if output.name not in given)]
        last = tuple(name for name in dict.fromkeys(touched) if name in pending)
        pending.difference_update(last)
        steps.append(Step(op, last, _block_plans(op, whole=whole)))
    return tuple(reversed(steps))


def _block_plans(op: Op, *, whole: bool) -> tuple[BlockPlan, ...]:
    plans = []
    for index, block in enumerate(op.blocks):
        needed = set(block.outputs) | {name for inner in block.ops for name in inner.written_states}
        ops = block.ops if whole else _scheduled(block.ops, needed, given=set())
        made = {output.name for inner in block.ops for output in inner.outputs}
        if not (op.type == "while_loop" and index == 0):  # the condition sees what the body still needs
            made |= {named.name for named in block.inputs}
        plans.append(BlockPlan(block, _steps(ops, made - set(block.outputs), given=set(), whole=whole)))
    return tuple(plans)


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
        _check_blocks(op, place)
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


def _check_blocks(op: Op, place: str) -> None:
    """Raises PackageError unless the nested blocks take and return as many tensors as their op needs."""
    if op.type not in ("cond", "while_loop"):
        return
    count = len(op.outputs)
    expected = [(0, count), (0, count)] if op.type == "cond" else [(count, 1), (count, count)]
    got = [(len(block.inputs), len(block.outputs)) for block in op.blocks]
    loop = op.type == "while_loop"
    initial = len(op.inputs.get("loop_vars" if loop else "pred", ()))
    if (count or not loop) and got == expected and initial == (count if loop else 1):
        return
    blocks = ", ".join(f"{taken} → {returned}" for taken, returned in expected)
    given = ", ".join(f"{taken} → {returned}" for taken, returned in got) or "none"
    raise PackageError(
        f"the blocks of the op '{op.name}' do not go with its {count} results.",
        where=place,
        detail=f"expected blocks that take and return {blocks} tensors, and {count if loop else 1} "
        f"{'initial values' if loop else 'predicate'}; got {given}, and {initial}",
        action=DAMAGED,
    )


def _undefined(name: str, place: str, later: set[str]) -> PackageError:
    if name in later:
        what = f"the tensor '{name}' is used before it is computed: the program is cyclic or out of order."
    else:
        what = f"the tensor '{name}' is used and defined nowhere."
    return PackageError(what, where=place, action=DAMAGED)
