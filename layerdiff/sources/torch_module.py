"""Tensors inside a torch model, captured while it runs, by forward hooks that change nothing.

A tensor's name is `PATH[#CALL][:PART]`:

- PATH is the module's path in the model: `joint.joint_net.0`.
- CALL counts the module's calls within one recording, from 0, which is the default: `encoder.norm#1`.
- PART picks among the tensors of a nested output by position or key: `decoder.prediction.dec_rnn:1.0`. The
  first tensor is the default. `:input` is the module's first input, `:input.1` its second.

Every tensor is cloned inside the hook: the module that follows may work in place (an in-place ReLU turns
the stored pre-activation into its own output), and so may the caller. Hooks return None, so the model goes on
with its own tensors, and they are removed when the context ends, also by an exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from layerdiff.errors import ConfigError, known_names

INPUT = "input"


@dataclass(frozen=True)
class TensorName:
    """A parsed tensor name."""

    path: str
    call: int = 0
    part: tuple[str, ...] = ()
    """Positions and keys into the nested value; empty for its first tensor."""
    is_input: bool = False

    @classmethod
    def parse(cls, text: str) -> TensorName:
        """`PATH[#CALL][:PART]`; a CALL that is no number belongs to the path and is found unknown there."""
        head, _, tail = text.partition(":")
        path, _, call = head.partition("#")
        if call and not call.isdecimal():
            path, call = head, ""
        part = tuple(tail.split(".")) if tail else ()
        is_input = bool(part) and part[0] == INPUT
        return cls(path, int(call or 0), part[1:] if is_input else part, is_input)


@dataclass
class Recording:
    """What the hooks have captured so far."""

    names: Mapping[str, TensorName]
    _calls: dict[tuple[str, bool], list[dict[tuple[str, ...], torch.Tensor]]] = field(default_factory=dict)
    """(path, is_input) → one entry per call, in order → part that was asked for → tensor."""

    def tensor(self, name: str) -> torch.Tensor | None:
        """The tensor of that name; None if the module was not called so often or has no such part."""
        wanted = self.names[name]
        calls = self._calls.get((wanted.path, wanted.is_input), [])
        return calls[wanted.call].get(wanted.part) if wanted.call < len(calls) else None

    def call_count(self, name: str) -> int:
        """How often the module of that tensor was called."""
        wanted = self.names[name]
        return len(self._calls.get((wanted.path, wanted.is_input), []))

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Name → float32 copy, of every asked tensor that was captured."""
        tensors = {name: self.tensor(name) for name in self.names}
        return {name: to_array(tensor) for name, tensor in tensors.items() if tensor is not None}

    def add(self, path: str, value: Any, *, is_input: bool) -> None:
        """Keeps clones of the asked tensors of one call, detached from the graph."""
        parts = {name.part for name in self.names.values() if (name.path, name.is_input) == (path, is_input)}
        found = {part: first_leaf(value, part) for part in parts}
        kept = {part: leaf.detach().clone() for part, leaf in found.items() if leaf is not None}
        self._calls.setdefault((path, is_input), []).append(kept)


@contextmanager
def recording(model: torch.nn.Module, names: Sequence[str]) -> Iterator[Recording]:
    """Captures the named tensors of everything that `model` runs in the body.

    Args:
        model: the paths are relative to it.
        names: tensor names; repeated ones count once.

    Raises:
        ConfigError: a name's module doesn't exist.
    """
    parsed = {name: TensorName.parse(name) for name in names}
    modules = {name.path: find_module(model, text) for text, name in parsed.items()}
    record = Recording(parsed)
    with ExitStack() as hooks:
        for path, is_input in sorted({(name.path, name.is_input) for name in parsed.values()}):
            handle = _hook(modules[path], record, path=path, is_input=is_input)
            hooks.callback(handle.remove)
        yield record


def _hook(module: torch.nn.Module, record: Recording, *, path: str, is_input: bool) -> Any:
    def before(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        record.add(path, (*args, *kwargs.values()), is_input=True)

    def after(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        record.add(path, output, is_input=False)

    if is_input:
        # a pre-hook of the user may replace the arguments: ours runs last and sees what the module sees
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after, with_kwargs=True)


def find_module(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """The module of a tensor name.

    Raises:
        ConfigError: there is none.
    """
    path = TensorName.parse(name).path
    modules: dict[str, torch.nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if path and path in modules:
        return modules[path]
    raise ConfigError(
        f"the reference has no tensor '{name}'.",
        where=f"{type(model).__name__}",
        detail=known_names("its modules", path, [known for known in modules if known]),
        action="Name a module's path, with ':input' for what goes into it.",
    )


def leaves_of(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    """The tensors of nested tuples, lists and mappings, each with its position, in order."""
    if isinstance(value, torch.Tensor):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves_of(item, (*place, str(key)))
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from leaves_of(item, (*place, str(index)))


def first_leaf(value: Any, part: tuple[str, ...]) -> torch.Tensor | None:
    """The first tensor at or below a position of a nested value."""
    return next((leaf for place, leaf in leaves_of(value) if place[: len(part)] == part), None)


def module_paths(model: torch.nn.Module, prefix: str) -> tuple[str, ...]:
    """`prefix` and every module below it that runs; containers and private members are left out."""
    containers = torch.nn.ModuleList | torch.nn.ModuleDict
    return tuple(
        path
        for path, module in model.named_modules(remove_duplicate=False)
        if (path == prefix or path.startswith(f"{prefix}."))
        and not isinstance(module, containers)
        and not any(segment.startswith("_") for segment in path.split("."))
    )


def to_array(tensor: torch.Tensor) -> NDArray[np.float32]:
    """A float32 copy on the host that shares no memory with the tensor."""
    return np.array(tensor.detach().to("cpu", torch.float32).numpy(), order="C", copy=True)
