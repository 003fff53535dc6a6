"""With which arguments is a module called inside of a model that runs? They are its feed.

While a `Catcher` is attached, every call of the module from within its own component is caught: the tensors among its
arguments become a feed, cloned before the module can overwrite them, and what is left is the call's form, from which
the same call is made again with any feed of the same names.

A tensor is named as the argument that it is, by the signature of `forward`; inside of a list or a mapping a position
or key follows: `states.0`. Its layout in memory is kept, on which the last bits of a product depend. Calls from
elsewhere don't count: NeMo's own decoding goes through the parts of a decoder and a joint around these modules
themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from layerdiff.records import Array

WIDENED = (torch.float16, torch.bfloat16)
"""Dtypes that a feed holds as float32."""


@dataclass(frozen=True)
class Slot:
    """The place of a tensor in the form of a call."""

    name: str


@dataclass(frozen=True)
class CallForm:
    """A call without its tensors."""

    args: tuple[Any, ...]
    """Positional arguments; each tensor, however deep, is replaced by its `Slot`."""
    kwargs: Mapping[str, Any]

    def filled(self, feed: Mapping[str, torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with the feed's values.

        Raises:
            KeyError: the feed lacks one.
        """
        args = tuple(_filled(value, feed) for value in self.args)
        return args, {name: _filled(value, feed) for name, value in self.kwargs.items()}


@dataclass
class Catcher:
    """What was caught, and whether calls count now."""

    calls: list[tuple[dict[str, Array], CallForm]] = field(default_factory=list)
    depth: int = 0
    """How many calls of the component the module is in."""
    is_paused: bool = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is caught in the body."""
        self.is_paused = True
        try:
            yield
        finally:
            self.is_paused = False

    def take(self) -> list[tuple[dict[str, Array], CallForm]]:
        """The calls so far, which are forgotten here."""
        calls, self.calls = self.calls, []
        return calls


@contextmanager
def catching(module: torch.nn.Module, *, within: torch.nn.Module) -> Iterator[Catcher]:
    """Catches the calls of `module` in the body.

    Args:
        module: the module itself; it goes on with its own arguments.
        within: the component around it, or the module itself; only calls made while it runs are caught.
    """
    catcher = Catcher()
    names = argument_names(module, positional=True)

    def enter(*_: Any) -> None:
        catcher.depth += 1

    def leave(*_: Any) -> None:
        catcher.depth -= 1

    def before(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if catcher.depth and not catcher.is_paused:
            catcher.calls.append(caught(args, kwargs, names))

    hooks = [
        within.register_forward_pre_hook(enter),
        within.register_forward_hook(leave, always_call=True),
        module.register_forward_pre_hook(before, with_kwargs=True),
    ]
    try:
        yield catcher
    finally:
        for hook in hooks:
            hook.remove()


def argument_names(module: torch.nn.Module, *, positional: bool = False) -> tuple[str, ...]:
    """The names of the arguments of `forward`, in order: all that have one, or those that may be given by position."""
    kinds = [inspect.Parameter.POSITIONAL_OR_KEYWORD, *([] if positional else [inspect.Parameter.KEYWORD_ONLY])]
    return tuple(p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds)


def caught(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], names: tuple[str, ...]
) -> tuple[dict[str, Array], CallForm]:
    """The feed and the form of one call; positional arguments beyond `names` are called `args.0`, `args.1`, …"""
    feed: dict[str, Array] = {}
    extra = [f"args.{index}" for index in range(len(args) - len(names))]
    positional = tuple(_emptied(value, name, feed) for name, value in zip((*names, *extra), args, strict=False))
    return feed, CallForm(positional, {name: _emptied(value, name, feed) for name, value in kwargs.items()})


def _emptied(value: Any, name: str, feed: dict[str, Array]) -> Any:
    """The value with slots for its tensors, which go to `feed`."""
    if isinstance(value, torch.Tensor):
        wide = value.float() if value.dtype in WIDENED else value
        feed[name] = np.array(wide.detach().cpu().numpy(), copy=True)
        return Slot(name)
    if isinstance(value, Mapping):
        return {key: _emptied(item, f"{name}.{key}", feed) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_emptied(item, f"{name}.{index}", feed) for index, item in enumerate(value))
    return value


def _filled(value: Any, feed: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, Slot):
        return feed[value.name]
    if isinstance(value, Mapping):
        return {key: _filled(item, feed) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_filled(item, feed) for item in value)
    return value
