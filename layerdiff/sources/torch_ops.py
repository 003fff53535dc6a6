"""One op of torch as it ran: what it read, what it made, and who wants to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from layerdiff.sources.torch_kinds import OpSpec
from layerdiff.sources.torch_tensors import Known, Storage, shares_storage


class Argument(NamedTuple):
    """A tensor that an op reads."""

    name: str
    """The argument's name in the op's schema."""
    position: int
    """In that argument, if it is a list; else 0."""
    tensor: torch.Tensor
    known: Known


@dataclass(frozen=True)
class OpRun:
    """An op that has run."""

    spec: OpSpec
    scope: str
    """Path of the module that computes it."""
    read: Sequence[Argument]
    args: Sequence[Any]
    """Its positional arguments."""
    results: Sequence[tuple[int, Known, torch.Tensor]]
    """Each with its position among all that the op returns."""


class Listener(Protocol):
    """Learns the structure, op by op."""

    def computed(self, run: OpRun) -> None:
        """An op has run."""

    def placed(self, known: Known, tensor: torch.Tensor, *, kind: str, scope: str, inputs: Sequence[Known]) -> None:
        """A tensor has come up that is no op's result: a constant, or one that was updated through a view."""


def new_tensors(spec: OpSpec, read: Sequence[Argument], output: Any) -> list[tuple[int, torch.Tensor]]:
    """The tensors that an op has made or written to, each with its position among all that it returns.

    A result that is one of the arguments, untouched, is not new. What was written to and isn't returned comes last.
    """
    if isinstance(output, torch.Tensor) and not spec.written:
        return [] if any(a.tensor is output for a in read) else [(0, output)]
    outputs = output if isinstance(output, tuple | list) else () if output is None else (output,)
    written = {id(a.tensor): a.tensor for a in read if a.name in spec.written}
    old = {id(a.tensor) for a in read} - set(written)
    found = [(i, t) for i, t in enumerate(outputs) if isinstance(t, torch.Tensor) and id(t) not in old]
    returned = {id(tensor) for _, tensor in found}
    rest = [tensor for key, tensor in written.items() if key not in returned]
    return [*found, *enumerate(rest, len(outputs))]


def storage_of(tensor: torch.Tensor, read: Sequence[Argument]) -> Storage:
    """That of the argument at whose storage the tensor looks; else a new one."""
    for argument in read:
        if argument.tensor is tensor or shares_storage(argument.tensor, tensor):
            return argument.known.storage
    return Storage()
