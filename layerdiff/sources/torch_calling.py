"""How a torch model is called on a feed: a module, TorchScript, or an exported program.

Exported programs are run node by node, which computes the same and tells which module each node came from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx.graph import _PyTreeCodeGen

from layerdiff.errors import FeedError, known_names
from layerdiff.sources import Feed
from layerdiff.sources.torch_capture import Capture

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Calling:
    """How a model is called."""

    names: tuple[str, ...]
    """Its inputs, in order; empty if any name is taken."""
    required: frozenset[str]
    takes_others: bool
    """It takes inputs of other names too."""
    call: Callable[[torch.nn.Module, Tensors, Capture], Any]

    def check(self, feed: Collection[str], *, title: str) -> None:
        """Compares the names of a feed.

        Raises:
            FeedError: one is unknown, or one is missing.
        """
        unknown = [] if self.takes_others else [name for name in feed if name not in self.names]
        missing = [name for name in self.names if name in self.required and name not in feed]
        if unknown:
            raise FeedError(
                f"the model has no input '{unknown[0]}'.",
                where=title,
                detail=known_names("its inputs", unknown[0], self.names),
                action="Feed it by the names of its inputs.",
            )
        if missing:
            raise FeedError(
                f"the feed lacks the input '{missing[0]}'.",
                where=title,
                detail="\n".join([known_names("its inputs", "", self.names), known_names("given", "", feed)]),
                action="Feed every input that has no default.",
            )


def calling_of(module: torch.nn.Module) -> Calling:
    """How a module is called: its forward, by keyword."""
    if is_exported(module):
        names = tuple(str(node.target) for node in placeholders(module))
        return Calling(names, frozenset(names), takes_others=False, call=_run_exported)
    if isinstance(module, torch.jit.ScriptModule):
        arguments = module.forward.schema.arguments[1:]  # type: ignore[attr-defined]
        names = tuple(argument.name for argument in arguments)
        required = frozenset(argument.name for argument in arguments if not argument.has_default_value())
        return Calling(names, required, takes_others=False, call=_run_module)
    parameters = inspect.signature(module.forward).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Calling(
        names=tuple(parameter.name for parameter in named),
        required=frozenset(parameter.name for parameter in named if parameter.default is parameter.empty),
        takes_others=any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters),
        call=_run_module,
    )


def own_calling(call: Callable[[torch.nn.Module, Tensors], Any]) -> Calling:
    """How a model is called by somebody's own function, which takes what it takes."""
    return Calling((), frozenset(), takes_others=True, call=lambda module, tensors, _: call(module, tensors))


def _run_module(module: torch.nn.Module, tensors: Tensors, _: Capture) -> Any:
    return module(**tensors)


# ------------------------------------------------------------------ exported programs


def is_exported(module: torch.nn.Module) -> bool:
    """Whether a module is what an exported program's `module()` returns."""
    return isinstance(module, torch.fx.GraphModule) and isinstance(module.graph._codegen, _PyTreeCodeGen)


def placeholders(module: Any) -> list[torch.fx.Node]:
    """The nodes of an exported program's inputs; nested inputs are flat, `batch_x`."""
    return [node for node in module.graph.nodes if node.op == "placeholder"]


def _run_exported(module: Any, tensors: Tensors, capture: Capture) -> Any:
    return _Interpreter(module, capture).run(*(tensors[str(node.target)] for node in placeholders(module)))


class _Interpreter(torch.fx.Interpreter):
    """Runs an exported program and tells a capture which module every node came from, and what the modules returned."""

    def __init__(self, module: torch.fx.GraphModule, capture: Capture) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self._capture = capture
        self._regions = {node: module_calls(node) for node in module.graph.nodes}
        self._returns = returning_nodes(self._regions)

    def run_node(self, node: torch.fx.Node) -> Any:
        if calls := self._regions[node]:
            self._capture.at(*calls[-1])
        value = super().run_node(node)
        for name, is_leaf in self._returns.get(node, ()):
            self._capture.returned(value, call=name, is_leaf=is_leaf)
        return value


def module_calls(node: torch.fx.Node) -> list[tuple[str, str]]:
    """The module calls around a node of an exported program, the outermost first, as `(PATH, PATH[#CALL])`."""
    found = []
    for key, (path, _) in node.meta.get("nn_module_stack", {}).items():
        count = key.rpartition("@")[2] if "@" in key else ""
        found.append((path, f"{path}#{count}" if count else path))
    return found


def returning_nodes(
    regions: Mapping[torch.fx.Node, Sequence[tuple[str, str]]],
) -> dict[torch.fx.Node, list[tuple[str, bool]]]:
    """Which node makes what a module call returns, where only one node's value is used outside of that call.

    Returns:
        Node → the names of the calls, the innermost first, each with whether no module is called within it.
    """
    exits: dict[str, list[torch.fx.Node]] = {}
    inner: set[str] = set()
    for node, calls in regions.items():
        names = [name for path, name in calls if path]
        inner.update(names[:-1])
        for name in reversed(names):
            if any(name not in {other for _, other in regions[user]} for user in node.users):
                exits.setdefault(name, []).append(node)
    found: dict[torch.fx.Node, list[tuple[str, bool]]] = {}
    for name, nodes in exits.items():
        if len(nodes) == 1:
            found.setdefault(nodes[0], []).append((name, name not in inner))
    return found


# ------------------------------------------------------------------ feeds


def to_tensors(feed: Feed, module: torch.nn.Module, *, title: str) -> dict[str, torch.Tensor]:
    """Copies of the arrays as tensors on the model's device; floats in the model's floating dtype.

    Integers and bools keep their dtype. The memory is torch's, whose alignment is always the same: kernels round
    differently on numpy's, which begins wherever there is room.

    Raises:
        FeedError: an array's dtype is none of torch's.
    """
    held = next((t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.empty(0))
    has_floats = held.numel() > 0
    tensors = {}
    for name, value in feed.items():
        try:
            tensor = torch.from_numpy(np.array(value)).clone()
        except TypeError as error:
            raise FeedError(
                f"the input '{name}' is {np.asarray(value).dtype}, which torch does not know.",
                where=title,
                action="Give numbers or bools.",
            ) from error
        dtype = held.dtype if has_floats and tensor.is_floating_point() else tensor.dtype
        tensors[name] = tensor.to(held.device, dtype)
    return tensors
