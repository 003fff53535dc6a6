"""The outline of a torch model, drawn while a capture watches it run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from layerdiff.outline import Node, Outline, Weight
from layerdiff.sources.torch_kinds import kind_with, weight_roles
from layerdiff.sources.torch_ops import Argument, OpRun
from layerdiff.sources.torch_tensors import Known, dtype_name, lent_array

_CALL = re.compile(r"#\d+")


@dataclass(frozen=True)
class Draft:
    """A node whose names are not settled before the modules around it return."""

    known: Known
    op: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    scope: str = ""
    inputs: Sequence[Known] = ()
    weights: Mapping[str, Known] = field(default_factory=dict)
    result: int = 0

    def node(self) -> Node:
        return Node(
            self.known.name,
            self.op,
            self.kind,
            inputs=tuple(known.name for known in self.inputs),
            weights={role: known.name for role, known in self.weights.items()},
            dtype=self.dtype,
            shape=self.shape,
            scope=self.scope,
            aliases=tuple(self.known.aliases),
            result=self.result,
        )


class OutlineDraft:
    """A `Listener` that draws an outline.

    What is made of nothing but weights (a transposed, joined or normalised one) is a constant; where an op that
    computes reads one, it is a weight of that op, named as its node, and its values are kept. A weight that is made
    anew, with the same values, in every call of a module is one weight.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self._weights = weights
        self._drafts: list[Draft] = []
        self._derived: dict[str, tuple[Known, torch.Tensor]] = {}

    def computed(self, run: OpRun) -> None:
        spec = run.spec
        read = [a for a in run.read if not (spec.overwrites and a.name in spec.written)]
        if not run.results[0][1].computed:
            self._add(Draft(known, spec.op, "constant", *typed(tensor), run.scope) for _, known, tensor in run.results)
            return
        constants = [argument for argument in read if argument.known.from_weights]
        roles = weight_roles(spec, [(a.name, a.position) for a in constants], run.args)
        weights = {role: self._weight(argument) for role, argument in zip(roles, constants, strict=True)}
        kind, inputs = kind_with(spec, roles, run.args), [a.known for a in read if a.known.computed]
        self._add(
            Draft(known, spec.op, kind, *typed(tensor), run.scope, inputs, weights, index)
            for index, known, tensor in run.results
        )

    def placed(self, known: Known, tensor: torch.Tensor, *, kind: str, scope: str, inputs: Sequence[Known]) -> None:
        op = "updated" if inputs else "constant"
        computed = [one for one in inputs if one.computed]
        self._add([Draft(known, op, kind if computed else "constant", *typed(tensor), scope, computed)])

    def _add(self, drafts: Iterable[Draft]) -> None:
        self._drafts.extend(drafts)

    def _weight(self, argument: Argument) -> Known:
        """The weight that an op reads: a tensor of the model, or one that was derived from some."""
        known, tensor = argument.known, argument.tensor
        if known.is_weight:
            return known
        key = _CALL.sub("", known.name)
        first, values = self._derived.get(key, (known, tensor))
        if torch.equal(values, tensor):
            self._derived.setdefault(key, (known, tensor if known.storage.is_weight else tensor.clone()))
            return first
        self._derived[known.name] = (known, tensor.clone())
        return known

    def outline(self, title: str, *, inputs: Mapping[Known, torch.Tensor], outputs: Sequence[Known]) -> Outline:
        """What was drawn, once the model has returned `outputs`."""
        fed = [Draft(known, "input", "input", *typed(tensor)) for known, tensor in inputs.items()]
        returned = [known for known in dict.fromkeys(outputs) if known.is_weight]
        held = [Draft(known, "constant", "constant", *typed(self._weights[known.name])) for known in returned]
        derived = {known.name: tensor for known, tensor in self._derived.values()}
        return Outline(
            title,
            inputs=tuple(draft.node() for draft in fed),
            nodes=tuple(draft.node() for draft in (*self._drafts, *held)),
            outputs=tuple(known.name for known in outputs),
            weights={name: weight_of(name, tensor) for name, tensor in {**self._weights, **derived}.items()},
        )


def typed(tensor: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    """Its dtype's numpy name and its shape."""
    return dtype_name(tensor.dtype), tuple(tensor.shape)


def weight_of(name: str, tensor: torch.Tensor) -> Weight:
    """A tensor as a weight that is read on request."""
    return Weight(name, dtype_name(tensor.dtype), tuple(tensor.shape), read=partial(lent_array, tensor))
