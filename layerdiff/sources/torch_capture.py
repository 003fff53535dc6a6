"""Every tensor that a torch model computes, seen while it runs, in modules and between them.

Forward hooks tell which module call is running and what it returns, a dispatch mode sees every op. Both only look: the
model computes bit for bit what it computes without them. It need be neither traceable nor exportable.

The model runs under `torch.inference_mode()`, where composite ops reach the mode whole: linear, conv1d, lstm, gru,
layer_norm, batch_norm, instance_norm, rms_norm, matmul, einsum, scaled_dot_product_attention, upsampling and softmax
are one op each. What decomposes does so in torch's Python code: `MultiheadAttention` into its projections and the
attention, a parametrisation into the ops that make the weight. Higher-order operators (`torch.cond`) are one op of the
kind `other`; what runs inside them is not seen.

Names:

- An op inside the module call `PATH#CALL` (`PATH` for call 0) is `PATH/OP_K`: the op's name in aten, and how many ops
  of that name came before it within that call (nothing for the first). Outside of any module: `/add`. Its further
  results end in `:1`, `:2`.
- What a module call returns has the names of `torch_module` too, `PATH[#CALL][:PART]`. They are aliases, except that
  the first of them is the main name if the op is the last one in that call and no module computed anything within it.
- A tensor into which something was written through another view is, from its next reading on, `…/updated`.
- A tensor that no op here has made (a Python list, a numpy array) is `…/constant`.

Calls are counted within one run. Inside TorchScript no hook runs: an op's path is then the owner of its weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from layerdiff.sources.torch_dispatch import Outside, as_called
from layerdiff.sources.torch_kinds import OpSpec, op_spec
from layerdiff.sources.torch_ops import Argument, Listener, OpRun, new_tensors, storage_of
from layerdiff.sources.torch_tensors import (
    Known,
    KnownTensors,
    Storage,
    View,
    Write,
    later_writes,
    lent_array,
    part_names,
    tensors_in,
)

Sink = Callable[[str, NDArray[Any]], None]


@dataclass(slots=True)
class ModuleCall:
    """A module call in progress."""

    path: str
    name: str
    """`PATH[#CALL]`."""
    counts: dict[str, int] = field(default_factory=dict)
    """Ops so far, by name."""
    computes: bool = False
    """It has computed something that depends on what is fed."""
    has_inner: bool = False
    """A module that was called within it has."""

    def op_name(self, op: str) -> str:
        """A new name for an op of that name."""
        count = self.counts.get(op, 0)
        self.counts[op] = count + 1
        return f"{self.name}/{op}_{count}" if count else f"{self.name}/{op}"


class Capture(TorchDispatchMode):
    """One run of a model that is being watched.

    Args:
        weights: name → parameter, buffer or other tensor that the model holds.
        sink: takes the tensors' values; called outside of all modes.
        wanted: the names that are handed to `sink`, aliases included; None for every computed tensor by its main name.
        listener: learns the structure.
        scripted: paths of TorchScript modules.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Without a wrapper that imports torch's compiler, which takes seconds."""
        return False

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        *,
        sink: Sink | None = None,
        wanted: Collection[str] | None = None,
        listener: Listener | None = None,
        scripted: Sequence[str] = (),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._outside = Outside()
        self.inputs: dict[str, Known] = {}
        self.sink_failed = False
        """Whether the sink has raised, or is running."""
        self._in_op = False
        self._running: tuple[ModuleCall, OpSpec] | None = None
        self._sink, self._listener, self._scripted = sink, listener, scripted
        self._wanted = frozenset(wanted) if wanted is not None else None
        self._weights = weights  # holds them, so that none of their ids is given to another tensor
        self._known = KnownTensors()
        self._bases = {"": ModuleCall("", "")}
        self._stack = [self._bases[""]]
        self._calls: Counter[str] = Counter()
        self._pending: list[tuple[Known, torch.Tensor | None]] = []
        """The results of the last op, handed out when the next one begins: then it is clear what modules return them.
        Of constants, which were handed out already, nothing is held: torch copies what it finds held."""
        self._pending_call = self._stack[0]
        """The module call that op is in."""
        for name, tensor in weights.items():
            self._known.put(tensor, Known(name, Storage(is_weight=True), from_weights=True, is_weight=True))

    # -------------------------------------------------------------- the run

    def feed(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Names what is fed. Inputs are handed out only if they are asked for."""
        for name, tensor in tensors.items():
            self.inputs[name] = Known(name, Storage(), computed=True)
            self._known.put(tensor, self.inputs[name])
            self._give_if_wanted([name], tensor)

    def returned(self, value: Any, *, call: str = "", is_leaf: bool = False) -> list[Known]:
        """Names what a module call, or the model itself, returns.

        Args:
            value: nested tensors.
            call: `PATH[#CALL]`; empty for the model.
            is_leaf: no module has computed anything within that call.
        """
        places = list(tensors_in(value))
        found = [self.known(tensor) for _, tensor in places]
        if not call:
            self.flush()
            return found
        names = part_names(call, [place for place, _ in places])
        for known, (_, tensor), aliases in zip(found, places, names, strict=True):
            self._add_names(known, tensor, aliases, is_leaf=is_leaf and call == self._pending_call.name)
        return found

    def _add_names(self, known: Known, tensor: torch.Tensor, names: Sequence[str], *, is_leaf: bool) -> None:
        new = [name for name in names if name not in self.inputs and name not in known.aliases]
        known.aliases.extend(new)
        waiting = [(last, held) for last, held in self._pending if last is known]
        if waiting and is_leaf and new and "/" in known.name:
            known.aliases.remove(new[0])
            known.aliases.insert(0, known.name)
            known.name = new[0]
        if not waiting or waiting[0][1] is None:
            self._give_if_wanted(new, tensor)

    def flush(self) -> None:
        """Hands out the results of the last op."""
        pending, self._pending = self._pending, []
        for known, tensor in pending:
            if tensor is None:
                continue
            if self._wanted is None:
                self._give(known.name, tensor)
            else:
                self._give_if_wanted((known.name, *known.aliases), tensor)

    def _give_if_wanted(self, names: Sequence[str], tensor: torch.Tensor) -> None:
        if self._wanted:
            for name in names:
                if name in self._wanted:
                    self._give(name, tensor)

    def _give(self, name: str, tensor: torch.Tensor) -> None:
        if self._sink is None or self.sink_failed:
            return
        self.sink_failed = True
        with self._outside:
            self._sink(name, lent_array(tensor))
        self.sink_failed = False

    # -------------------------------------------------------------- modules

    @property
    def _looks_away(self) -> bool:
        """Whether a module call is none of this run's: inside of an op, or of the sink, which may run the model."""
        return self._in_op or self.sink_failed

    def enter(self, path: str) -> None:
        """A module call begins; one inside of an op (a branch of `torch.cond`) is part of the op."""
        if self._looks_away:
            return
        count = self._calls[path]
        self._calls[path] += 1
        self._stack.append(ModuleCall(path, f"{path}#{count}" if count else path))

    def leave(self, value: Any) -> None:
        """The module call that began last ends, with what it returns; None if it failed."""
        if self._looks_away:
            return
        call = self._stack.pop()
        self._stack[-1].has_inner |= call.computes or call.has_inner
        is_leaf = not call.has_inner
        if isinstance(value, torch.Tensor):
            known = self.known(value)
            self._add_names(known, value, (call.name,), is_leaf=is_leaf and call.name == self._pending_call.name)
        else:
            self.returned(value, call=call.name, is_leaf=is_leaf)

    def at(self, path: str, name: str) -> None:
        """What follows belongs to the module call `name` of the module `path`, of which no hook tells."""
        self._stack[0] = self._bases.setdefault(name, ModuleCall(path, name))

    # -------------------------------------------------------------- ops

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self._pending:
            self.flush()
        spec, kwargs = op_spec(func), kwargs or {}
        read = self._read(spec, args, kwargs)
        self._running = self._stack[-1], spec
        self._in_op = True
        try:
            if spec.composite:
                with as_called():
                    output = func(*args, **kwargs)
            else:
                output = func(*args, **kwargs)
        finally:
            self._in_op = False
        results = self._results(spec, read, output)
        if results:
            if self._listener is not None:
                self._listener.computed(OpRun(spec, self._place(read).path, read, args, results))
            self._wait(results)
        return output

    @property
    def running(self) -> str:
        """The op that runs, or failed, for messages; empty before the first one."""
        return "/".join((self._running[0].name, self._running[1].name)) if self._running else ""

    def _read(self, spec: OpSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Argument]:
        found: list[Argument] = []
        for name, value in chain(zip(spec.arguments or repeat(""), args, strict=False), kwargs.items()):
            if isinstance(value, torch.Tensor):
                found.append(Argument(name, 0, value, self.known(value)))
            elif isinstance(value, list | tuple):
                for position, item in enumerate(value):
                    if isinstance(item, torch.Tensor):
                        found.append(Argument(name, position, item, self.known(item)))
        return found

    def _results(self, spec: OpSpec, read: Sequence[Argument], output: Any) -> list[tuple[int, Known, torch.Tensor]]:
        """Makes the op's results known."""
        tensors = new_tensors(spec, read, output)
        if not tensors:
            return []
        computed = from_weights = False
        for argument in read if not spec.shape_only else ():
            if not (spec.overwrites and argument.name in spec.written):
                computed |= argument.known.computed
                from_weights |= argument.known.from_weights
        from_weights &= not computed
        name = self._place(read).op_name(spec.name)
        results = []
        for index, tensor in tensors:
            storage = Storage() if spec.fresh else storage_of(tensor, read)
            is_written = bool(spec.written) and spec.writes_values and any(a.tensor is tensor for a in read)
            storage.version += is_written
            known = Known(f"{name}:{index}" if index else name, storage, storage.version, computed, from_weights)
            if is_written:
                storage.writes.append(Write(known.version, View.of(tensor), known))
            self._known.put(tensor, known)
            results.append((index, known, tensor))
        return results

    def _place(self, read: Sequence[Argument]) -> ModuleCall:
        """The module call to which an op belongs: the one in progress, or, in TorchScript, the owner of its weights."""
        call = self._stack[-1]
        if not self._scripted:
            return call
        owners = (a.known.name.rpartition(".")[0] for a in read if a.known.is_weight)
        for owner in owners:
            if any(f"{owner}.".startswith(f"{path}." if path else "") for path in self._scripted):
                return self._bases.setdefault(owner, ModuleCall(owner, owner)) if owner else call
        return call

    def _wait(self, results: Sequence[tuple[int, Known, torch.Tensor]]) -> None:
        self._pending_call = self._stack[-1]
        for _, known, tensor in results:
            if known.computed:
                self._stack[-1].computes = True
            else:
                self._give_if_wanted([known.name], tensor)
            self._pending.append((known, tensor if known.computed else None))

    # -------------------------------------------------------------- tensors

    def known(self, tensor: torch.Tensor) -> Known:
        """What is known of a tensor that is about to be read."""
        known = self._known.find(tensor)
        if known is None:
            known = Known(self._stack[-1].op_name("constant"), Storage())
            self._keep(known, tensor, kind="constant", inputs=())
        elif known.version != known.storage.version:
            known = self._refreshed(known, tensor)
        return known

    def _refreshed(self, known: Known, tensor: torch.Tensor) -> Known:
        """What a tensor has become by what was written to its storage since it was made."""
        replaced, writes = later_writes(known, tensor)
        if not writes:
            known.version = known.storage.version
            return known
        if replaced and len(writes) == 1 and writes[0].view == View.of(tensor):
            self._known.put(tensor, writes[0].known)
            return writes[0].known
        inputs = [*([] if replaced else [known]), *(write.known for write in writes)]
        new = Known(self._stack[-1].op_name("updated"), known.storage, known.storage.version)
        new.computed = any(one.computed for one in inputs)
        new.from_weights = not new.computed and any(one.from_weights for one in inputs)
        kind = "reshape" if replaced and len(writes) == 1 else "scatter"
        self._keep(new, tensor, kind=kind, inputs=inputs)
        return new

    def _keep(self, known: Known, tensor: torch.Tensor, *, kind: str, inputs: Sequence[Known]) -> None:
        """Makes a tensor known that is no op's result, and hands it out."""
        self._known.put(tensor, known)
        if self._listener is not None:
            self._listener.placed(known, tensor, kind=kind, scope=self._stack[-1].path, inputs=inputs)
        self.flush()
        self._wait([(0, known, tensor)])
        self.flush()


@contextmanager
def watching(module: torch.nn.Module, capture: Capture) -> Iterator[None]:
    """Tells the capture of every module call inside `module`, until the context ends."""

    def before(path: str) -> Callable[..., None]:
        return lambda *_: capture.enter(path)

    def after(_: torch.nn.Module, __: Any, output: Any) -> None:
        capture.leave(output)

    hooks: list[RemovableHandle] = []
    try:
        for path, child in module.named_modules():
            if child is module or isinstance(child, torch.jit.ScriptModule):
                continue  # the model's own call has no name; TorchScript runs no hooks
            hooks.append(child.register_forward_pre_hook(before(path), prepend=True))
            hooks.append(child.register_forward_hook(after, always_call=True))
        with capture:
            yield
    finally:
        for hook in hooks:
            hook.remove()


def scripted_paths(module: torch.nn.Module) -> tuple[str, ...]:
    """Paths of the TorchScript modules of a model, the outermost ones."""
    found: list[str] = []
    for path, child in module.named_modules():
        inner = any(path.startswith(f"{outer}." if outer else "") for outer in found)
        if isinstance(child, torch.jit.ScriptModule) and not inner:
            found.append(path)
    return tuple(found)
