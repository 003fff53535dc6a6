"""Any torch model as a source: a module, TorchScript or an exported program, run as it is on one feed.

The model runs under `torch.inference_mode()` on its own device and in its own dtypes. The fused kernels of
`torch.backends.mha` are off, as they are in a call that records gradients and in every conversion: with them a whole
transformer layer would be one op that nothing can be compared with. Nothing else about the model is changed; what it
writes into its own buffers stays there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from layerdiff import store
from layerdiff.errors import ConfigError, EngineError, FeedError, LayerdiffError
from layerdiff.outline import Outline
from layerdiff.sources import Feed, Sink
from layerdiff.sources.torch_calling import Calling, Tensors, calling_of, is_exported, own_calling, to_tensors
from layerdiff.sources.torch_capture import Capture, scripted_paths, watching
from layerdiff.sources.torch_open import open_model
from layerdiff.sources.torch_outline import OutlineDraft
from layerdiff.sources.torch_tensors import Known, dtype_name

SENSITIVE = (
    torch.nn.modules.dropout._DropoutNd,
    torch.nn.modules.batchnorm._NormBase,
    torch.nn.RNNBase,
    torch.nn.MultiheadAttention,
)
"""Modules that compute something else in train mode, or may."""

_TRAIN_ARGUMENT = {
    torch.ops.aten.dropout.default: 2,
    torch.ops.aten.feature_dropout.default: 2,
    torch.ops.aten.alpha_dropout.default: 2,
    torch.ops.aten.batch_norm.default: 5,
    torch.ops.aten.instance_norm.default: 5,
}
"""Ops of exported programs → the position of the argument that tells train mode."""


@dataclass(frozen=True)
class TorchSource:
    """A torch model that shows every tensor inside it; a `TensorSource`.

    Floats that are fed are cast to the model's floating dtype, integers and bools are fed as they are. Tensors are
    handed out in their own dtype, float16 and bfloat16 as float32.
    """

    module: torch.nn.Module
    description: Mapping[str, Any]
    name: str
    calling: Calling

    @classmethod
    def from_module(
        cls,
        module: torch.nn.Module,
        *,
        name: str,
        call: Callable[[torch.nn.Module, Tensors], Any] | None = None,
    ) -> TorchSource:
        """A model in memory.

        Args:
            module: in eval mode; also TorchScript, or an exported program's `module()`.
            name: for messages and the report's header.
            call: runs the module on a feed of tensors and returns its outputs; by default `module(**feed)`.

        Raises:
            ConfigError: the module is in train mode.
        """
        require_eval(module, name)
        calling = own_calling(call) if call is not None else calling_of(module)
        return cls(module, {"source": name, **describe(module)}, name, calling)

    @classmethod
    def open(cls, spec: str) -> TorchSource:
        """The model of a specification; see `torch_open`.

        Args:
            spec: `package.module:factory`, a TorchScript file, or an exported program (`.pt2`).

        Raises:
            CheckpointError: a file is missing, damaged, or a pickle.
            ConfigError: a factory can't be imported or makes no module, or the model is in train mode.
        """
        source = cls.from_module(open_model(spec), name=spec)
        if not Path(spec).is_file():
            return source
        description = {**source.description, "sha256": store.sha256_file(Path(spec))}
        return cls(source.module, description, Path(spec).name, source.calling)

    @property
    def signature(self) -> tuple[str, ...]:
        """The names of the inputs, in order; empty where an own `call` takes them."""
        return self.calling.names

    def outline(self, feed: Feed) -> Outline:
        """The structure on this feed, by running it once.

        Raises:
            FeedError: the feed does not fit the model.
            EngineError: the model could not be run.
        """
        draft = OutlineDraft(self._weights)
        capture = Capture(self._weights, listener=draft, scripted=self._scripted)
        tensors = self._tensors(feed)
        outputs = self._run(tensors, capture)
        inputs = {capture.inputs[name]: tensor for name, tensor in tensors.items()}
        return draft.outline(self.name, inputs=inputs, outputs=outputs)

    def stream(self, feed: Feed, sink: Sink, wanted: Collection[str] | None = None) -> None:
        """Runs the model once and hands its tensors to `sink`, which runs outside of all modes of torch.

        Without `wanted` that is every tensor that depends on the feed, under its main name. Constants and the inputs
        themselves are handed out where they are asked for. What exceptions the sink raises, pass through.

        Raises:
            FeedError: the feed does not fit the model.
            EngineError: the model could not be run.
        """
        capture = Capture(self._weights, sink=sink, wanted=wanted, scripted=self._scripted)
        self._run(self._tensors(feed), capture)

    # -------------------------------------------------------------- running

    @cached_property
    def _weights(self) -> dict[str, torch.Tensor]:
        return held_tensors(self.module)

    @cached_property
    def _scripted(self) -> tuple[str, ...]:
        return scripted_paths(self.module)

    def _tensors(self, feed: Feed) -> dict[str, torch.Tensor]:
        self.calling.check(feed, title=self.name)
        order = [*(name for name in self.calling.names if name in feed), *feed]
        return to_tensors({name: feed[name] for name in order}, self.module, title=self.name)

    def _run(self, tensors: Tensors, capture: Capture) -> list[Known]:
        """Runs the model; what it returned, flat."""
        require_eval(self.module, self.name)
        try:
            with torch.inference_mode(), plain_attention(), watching(self.module, capture):
                capture.feed(tensors)
                return capture.returned(self.calling.call(self.module, tensors, capture))
        except LayerdiffError:
            raise
        except Exception as error:  # the model's own code can raise anything
            if capture.sink_failed:
                raise
            raise self._failure(error, capture.running) from error

    def _failure(self, error: Exception, running: str) -> LayerdiffError:
        first = (str(error).strip().splitlines() or [""])[0]
        if first.startswith("Guard failed"):
            return FeedError(
                "the exported program refuses the feed.",
                where=self.name,
                detail=first,
                action="Feed the shapes it was exported for, or export it with dynamic shapes.",
            )
        return EngineError(
            f"the model failed on the feed with {type(error).__name__}.",
            where=f"{self.name}, after '{running}' began" if running else self.name,
            detail=first,
            action="Run the model on the same feed without layerdiff to see where.",
        )


@contextmanager
def plain_attention() -> Iterator[None]:
    """Without the fused inference kernels for attention and transformer layers."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def require_eval(module: torch.nn.Module, name: str) -> None:
    """Raises ConfigError if the module, or any module in it, is in train mode."""
    if is_exported(module):
        training = [_training_node(module)]
    else:
        paths = [(path, child) for path, child in module.named_modules() if child.training]
        first = next((one for one in paths if isinstance(one[1], SENSITIVE)), paths[0] if paths else None)
        training = [f"'{first[0] or name}' ({_class_of(first[1])})" if first else ""]
    if training[0]:
        raise ConfigError(
            "the reference is in train mode.",
            where=name,
            detail=f"expected eval mode, but {training[0]} is training",
            action="Call .eval() on the model before it is handed over.",
        )


def _training_node(module: Any) -> str:
    for node in module.graph.nodes:
        position = _TRAIN_ARGUMENT.get(node.target)
        if position is not None and len(node.args) > position and node.args[position] is True:
            return f"the op '{node.name}'"
    return ""


def held_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, buffers, and tensors that are plain attributes, each once, under its first name."""
    found = dict(module.named_parameters()) | dict(module.named_buffers())
    seen = {id(tensor) for tensor in found.values()}
    for path, child in module.named_modules():
        for key, value in vars(child).items():
            if isinstance(value, torch.Tensor) and id(value) not in seen:
                seen.add(id(value))
                found[f"{path}.{key}" if path else key] = value
    return found


def describe(module: torch.nn.Module) -> dict[str, Any]:
    """What the model is and how it is run."""
    parameters = list(module.parameters())
    dtypes = sorted({dtype_name(parameter.dtype) for parameter in parameters})
    devices = sorted({str(parameter.device) for parameter in parameters})
    return {
        "engine": "torch",
        "class": _class_of(module),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "dtype": ", ".join(dtypes),
        "device": ", ".join(devices),
        "torch": torch.__version__,
        "eval": True,
        "fused_attention": False,
    }


def _class_of(module: Any) -> str:
    if is_exported(module):
        stacks = (list(node.meta.get("nn_module_stack", {}).values()) for node in module.graph.nodes)
        return next((str(stack[0][1]).rpartition(".")[2] for stack in stacks if stack), "GraphModule")
    return str(getattr(module, "original_name", type(module).__name__))
