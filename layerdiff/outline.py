"""A model's structure as its source sees it: tensors, the ops that make them, and the weights that these hold.

One vocabulary for torch modules, ONNX graphs, ML Programs and recorded traces, so that any two of them can be aligned.
Nothing here runs a model. Values of weights are read on request only: what alignment needs of them is their
fingerprint, which a recorded trace keeps instead of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from layerdiff.fingerprint import Fingerprint, fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

WEIGHTED = {
    "linear": "x·Wᵀ (+ b); a matrix product one of whose factors is a weight",
    "conv": "convolution of any rank, grouped or depthwise",
    "conv_transpose": "transposed convolution",
    "embedding": "rows of a table",
    "batch_norm": "normalisation with stored statistics",
    "layer_norm": "normalisation over the last axes",
    "group_norm": "normalisation over groups of channels; instance norm has one group per channel",
    "rms_norm": "division by the root of the mean square",
    "lstm": "long short-term memory",
    "gru": "gated recurrent unit",
    "rnn": "plain recurrent network",
}
"""Kinds of op that hold weights."""

_COMPUTING = """
matmul attention add sub mul div pow maximum minimum where compare logical
relu leaky_relu prelu elu gelu silu sigmoid tanh softplus hardswish hardsigmoid clamp exp log sqrt rsqrt abs neg sin
cos erf floor round reciprocal square
softmax log_softmax logsumexp mean sum max min prod norm argmax argmin topk cumsum sort glu pool resize
"""
_MOVEMENT = "reshape transpose cast expand slice concat split pad gather scatter stack repeat flip roll"

COMPUTING = frozenset(_COMPUTING.split())
"""Kinds of op that compute from tensors alone, named after what they compute; `matmul` is a product of two computed
tensors, `attention` scaled dot-product attention as one op, `compare` and `logical` stand for all of their family."""

MOVEMENT = frozenset(_MOVEMENT.split())
"""Kinds of op that only move values; `reshape` is also squeezing and viewing, `cast` also copying and renaming."""

KINDS = frozenset(WEIGHTED) | COMPUTING | MOVEMENT | {"input", "constant", "other"}
"""The canonical kinds of ops, into which a source translates its own op types. `input` is given, `constant` depends on
nothing that is fed, `other` is anything else."""

SAME_VALUES = frozenset({"reshape", "transpose", "cast"})
"""Kinds whose result holds exactly the values of their operand, in another order, shape or dtype."""


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter, buffer or constant."""

    name: str
    """The key in the state_dict, or the constant's own name."""
    dtype: str
    """numpy name of the dtype in which it is stored, before decompression."""
    shape: tuple[int, ...]
    read: Callable[[], Array] | None = None
    """Its values after decompression; None where only the fingerprint is known, as in a recorded trace."""
    known_fingerprint: Fingerprint | None = None
    compression: str = ""
    """How it is stored, in words: `int8 per channel`, `palettized 4 bits`; empty if plainly."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Computed anew each time, which reads the values once: of a large model they take hundreds of megabytes.

        Raises:
            ValueError: neither values nor fingerprint are known.
        """
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        if self.read is None:
            raise ValueError(f"the weight '{self.name}' has neither values nor a fingerprint")
        return fingerprint(self.read())


@dataclass(frozen=True, eq=False)
class Node:
    """One tensor of a model and the op that makes it."""

    name: str
    """The source's own name; unique in its outline."""
    op: str
    """The source's own op type: `aten.linear`, `linear`, `Gemm`."""
    kind: str
    """One of `KINDS`."""
    inputs: tuple[str, ...] = ()
    """The tensors that the op reads, in the order of its arguments; weights and constants left out."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Role (`weight`, `bias`, `running_mean`, `weight_ih_l0`, …) → name in `Outline.weights`."""
    dtype: str = "float32"
    shape: tuple[int | None, ...] | None = None
    """As run or as declared; None for a length that is not known, None as a whole if the rank is not."""
    scope: str = ""
    """The module that computes it, dotted, without call index; of a package, what its constants' names tell."""
    aliases: tuple[str, ...] = ()
    """Other names of the very same tensor, e.g. of the modules around the op that made it."""
    result: int = 0
    """Which of the op's results it is."""


@dataclass(frozen=True, eq=False)
class Outline:
    """The structure of a model, or of one component of it, on one feed."""

    title: str
    """What it is, for messages: `parakeet-tdt-mini, joint`, `Joint.mlpackage`."""
    inputs: tuple[Node, ...]
    """What is fed, of the kind `input`, in the order of the model's signature."""
    nodes: tuple[Node, ...]
    """Every computed tensor in order of execution; what depends on no input is of the kind `constant`."""
    outputs: tuple[str, ...]
    """Names of what the model returns, in its order."""
    weights: Mapping[str, Weight]

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Name or alias → node, inputs included."""
        found = {alias: node for node in (*self.inputs, *self.nodes) for alias in node.aliases}
        return found | {node.name: node for node in (*self.inputs, *self.nodes)}

    @cached_property
    def readers(self) -> Mapping[str, tuple[Node, ...]]:
        """Tensor name → the nodes whose ops read it, in order of execution."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    def order(self) -> Mapping[str, int]:
        """Name or alias → place in the order of execution, inputs first."""
        places: dict[str, int] = {}
        for place, node in enumerate((*self.inputs, *self.nodes)):
            places |= dict.fromkeys((node.name, *node.aliases), place)
        return places

    def size(self, name: str) -> int:
        """Number of elements of a tensor; a length that is not known counts as 1."""
        node = self.by_name.get(name)
        return prod(length or 1 for length in (node.shape or ())) if node else 1

    def names(self) -> Iterable[str]:
        """Every name and alias that a stage may give: outputs first, then in order of execution, then inputs."""
        ordered = [*self.outputs, *(n for node in (*self.nodes, *self.inputs) for n in (node.name, *node.aliases))]
        return dict.fromkeys(ordered)
