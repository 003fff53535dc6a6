"""Runs an ONNX graph in slices, so that every tensor in it can be seen and no more is kept than fits a budget.

A graph is cut, in its order of execution, into runs of nodes whose wanted results together stay within the budget. Each
slice becomes a model of its own whose outputs are the tensors that are wanted or read later; it goes on from the
results of the slices before it, so every node runs exactly once. ONNX Runtime executes them on the CPU with its graph
optimisations off: each op reads what the graph says that it reads, and no value depends on where the graph was cut.

Sizes come from shape inference on the shapes that are fed. A result whose size cannot be inferred makes a slice of its
own; its size is known from then on, until something of other shapes is fed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from onnx import NodeProto, TensorProto, ValueInfoProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from layerdiff.errors import EngineError
from layerdiff.sources.onnx_graph import Graph, Type, dtype_name

if TYPE_CHECKING:
    from layerdiff.records import Array

_NUMBERS = "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64"
READABLE = frozenset(_NUMBERS.split())
"""The dtypes of the tensors that are handed out; strings, and types of fewer than eight bits, are not."""

_ORT_ERRORS = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    UnicodeDecodeError,  # of a message that quotes a damaged name
)


@dataclass(frozen=True)
class Slice:
    """Nodes that run together."""

    nodes: tuple[int, ...]
    """Their numbers, in order of execution."""
    outputs: tuple[str, ...]
    """The results that are wanted or read later."""


class Slices:
    """Executes a graph; keeps the last session, and what was learnt about sizes, from one feed to the next."""

    def __init__(self, graph: Graph, *, budget_bytes: int) -> None:
        self._graph, self._budget_bytes = graph, budget_bytes
        self._shapes: Mapping[str, tuple[int, ...]] | None = None
        self._types: dict[str, Type] = {}
        self._loaded: tuple[Any, Any] = (None, None)

    def types(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Type]:
        """dtype and shape of every tensor on inputs of these shapes: as inferred, or as it was when it was run."""
        if self._shapes != shapes:
            self._shapes, self._types = dict(shapes), self._graph.types(shapes)
        return self._types

    def tensors(self, feed: Mapping[str, Array], wanted: Iterable[str]) -> Iterator[tuple[str, Array]]:
        """The wanted tensors in order of execution; only the nodes that they need are run.

        Args:
            feed: input name → array of the declared dtype, float32 for bfloat16.
            wanted: names of computed tensors; what is no tensor of numbers is left out.

        Yields:
            Name and value, which belongs to the caller; float16 and bfloat16 as float32.

        Raises:
            EngineError: ONNX Runtime cannot run a node.
        """
        wanted = frozenset(wanted)
        types = self.types({name: value.shape for name, value in feed.items()})
        order = self._graph.ancestors(wanted)
        last_reads = {name: i for i in order for name in self._graph.reads[i]}
        live = {name: self._fed(name, value) for name, value in feed.items() if name in last_reads}
        for part in self._cut(order, wanted, last_reads, types):
            results = self._run(part, live)
            types |= {name: _type(value) for name, value in results.items()}
            end = part.nodes[-1]
            live = {name: value for name, value in (live | results).items() if last_reads.get(name, -1) > end}
            for name in part.outputs:
                value = results.pop(name)
                if name in wanted and _type(value)[0] in READABLE:
                    yield name, _array(value)

    def compute(self, nodes: Sequence[NodeProto], name: str) -> Array:
        """A tensor that `nodes` compute from initializers alone.

        Raises:
            EngineError: ONNX Runtime cannot run a node, or the result is no tensor of numbers.
        """
        (value,) = self._execute(self._load(nodes, {}, [name]), {}, [name], nodes)
        if _type(value)[0] not in READABLE:
            raise EngineError(f"'{name}' is a {value.data_type()}, not numbers.", where=str(self._graph.path))
        return _array(value)

    def _cut(
        self, order: Sequence[int], wanted: frozenset[str], last_reads: Mapping[str, int], types: Mapping[str, Type]
    ) -> Iterator[Slice]:
        """The slices, each cut when those before it have run, and the sizes of their results are known."""
        start = 0
        while start < len(order):
            nodes = self._within_budget(order[start:], wanted, types)
            computed = [name for number in nodes for name in self._graph.nodes[number].output if name]
            outputs = (name for name in computed if name in wanted or last_reads.get(name, -1) > nodes[-1])
            yield Slice(tuple(nodes), tuple(outputs))
            start += len(nodes)

    def _within_budget(self, order: Sequence[int], wanted: frozenset[str], types: Mapping[str, Type]) -> list[int]:
        """The first nodes of `order`, at least one, whose wanted results fit the budget."""
        total_bytes = 0
        nodes: list[int] = []
        for number in order:
            sizes = [size_bytes(types.get(name)) for name in self._graph.nodes[number].output if name in wanted]
            total_bytes += sum(self._budget_bytes + 1 if size is None else size for size in sizes)
            if nodes and total_bytes > self._budget_bytes:
                break
            nodes.append(number)
        return nodes

    def _run(self, part: Slice, live: Mapping[str, Any]) -> dict[str, Any]:
        """Executes a slice. Its session stays loaded until another one is, so a graph of one slice is loaded once.

        To keep more of them would hold the weights of the whole model, and scatter the heap.
        """
        nodes = [self._graph.nodes[number] for number in part.nodes]
        inputs = {name: live[name] for number in part.nodes for name in self._graph.reads[number] if name in live}
        key = (part, *((name, value.data_type()) for name, value in inputs.items()))
        if self._loaded[0] != key:
            self._loaded = (None, None)
            self._loaded = (key, self._load(nodes, inputs, part.outputs))
        results = self._execute(self._loaded[1], inputs, part.outputs, nodes)
        return dict(zip(part.outputs, results, strict=True))

    def _load(self, nodes: Sequence[NodeProto], inputs: Mapping[str, Any], outputs: Iterable[str]) -> Any:
        declared = [_value_info(name, value) for name, value in inputs.items()]
        model = self._graph.model_of(nodes, inputs=declared, outputs=outputs)
        try:
            return onnxruntime.InferenceSession(
                model.SerializeToString(), self._options(), providers=["CPUExecutionProvider"], enable_fallback=False
            )
        except _ORT_ERRORS as error:
            raise self._failed("load", nodes, error) from error

    def _execute(
        self, session: Any, inputs: Mapping[str, Any], outputs: Sequence[str], nodes: Sequence[NodeProto]
    ) -> list[Any]:
        try:
            return list(session.run_with_ort_values(list(outputs), dict(inputs)))
        except _ORT_ERRORS as error:
            raise self._failed("run", nodes, error) from error

    def _options(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.use_deterministic_compute = True
        options.enable_cpu_mem_arena = False  # memory goes back when a slice ends
        options.log_severity_level = 4  # what matters is raised
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle sessions take no core
        folder = str(self._graph.path.resolve().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        return options

    def _fed(self, name: str, value: Array) -> Any:
        elem_type = self._graph.inputs[name].type.tensor_type.elem_type
        if elem_type == TensorProto.BFLOAT16:
            bits = np.ascontiguousarray(value, np.dtype("bfloat16")).view(np.uint16)
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits.reshape(value.shape), elem_type)
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value).reshape(value.shape))

    def _failed(self, what: str, nodes: Sequence[NodeProto], error: Exception) -> EngineError:
        first, last = (f"'{node.name or node.output[0]}' ({node.op_type})" for node in (nodes[0], nodes[-1]))
        return EngineError(
            f"ONNX Runtime could not {what} " + (f"the nodes {first} … {last}." if len(nodes) > 1 else f"{first}."),
            where=str(self._graph.path),
            detail=str(error),
        )


def size_bytes(type_: Type | None) -> int | None:
    """How large a tensor is; None if its shape is not known or it is no tensor of numbers."""
    dtype, shape = type_ or ("object", None)
    if dtype not in READABLE or shape is None or None in shape:
        return None
    return prod(length or 0 for length in shape) * np.dtype(dtype).itemsize


def _type(value: Any) -> Type:
    if not value.is_tensor():
        return "object", None
    return dtype_name(value.element_type()), tuple(value.shape())


def _value_info(name: str, value: Any) -> ValueInfoProto:
    """What a slice takes, as its model declares it; lengths are left open."""
    tensor = helper.make_tensor_type_proto(value.element_type(), None)
    return helper.make_value_info(name, tensor if value.is_tensor() else helper.make_sequence_type_proto(tensor))


def _array(value: Any) -> Array:
    """A copy of a tensor of ONNX Runtime; float16 and bfloat16 as float32."""
    if value.element_type() == TensorProto.BFLOAT16:  # numpy has none: read as what it is, the upper half of a float32
        shape = tuple(value.shape())
        bits = (ctypes.c_uint16 * prod(shape)).from_address(value.data_ptr())
        return (np.frombuffer(bits, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    array: Array = value.numpy()
    return array.astype(np.float32 if array.dtype == np.float16 else array.dtype)
