"""An ONNX file as a graph that can be cut: nodes in order, constants, and what reads what.

The values of external data are never loaded here, so a file may be of any size. Constant nodes become initializers,
the functions of the model are put in place of their calls, and subgraphs (If, Loop, Scan) stay inside of their node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from layerdiff.errors import CheckpointError
from layerdiff.sources.onnx_kinds import RANDOM

if TYPE_CHECKING:
    from layerdiff.records import Array

LARGE = 1024
"""Elements beyond which the values of an initializer are no shape, axis or repeat: shape inference does without."""

Type = tuple[str, tuple[int | None, ...] | None]
"""numpy name of a dtype (`object` for what is no tensor of numbers) and shape, as far as they are known."""

_CONSTANT_ATTRIBUTES = ("value", "value_float", "value_floats", "value_int", "value_ints")

_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


@dataclass(frozen=True, eq=False)
class Graph:
    """What an ONNX file computes."""

    path: Path
    model: ModelProto
    """With external data left where it is."""
    nodes: tuple[NodeProto, ...]
    """In order of execution."""
    initializers: Mapping[str, TensorProto]
    """Constants by name, those of Constant nodes included."""
    inputs: Mapping[str, ValueInfoProto]
    outputs: tuple[str, ...]

    @cached_property
    def producers(self) -> Mapping[str, int]:
        """Tensor name → the number of the node that computes it."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def reads(self) -> tuple[tuple[str, ...], ...]:
        """Number of a node → every name that it reads, also inside of its subgraphs; each once."""
        return tuple(tuple(dict.fromkeys(_reads(node))) for node in self.nodes)

    @cached_property
    def constants(self) -> frozenset[str]:
        """The names of all tensors that depend on nothing that is fed, initializers included."""
        constants = set(self.initializers)
        for node, reads in zip(self.nodes, self.reads, strict=True):
            if node.op_type not in RANDOM and constants.issuperset(reads):
                constants.update(node.output)
        return frozenset(constants)

    def ancestors(self, names: Iterable[str]) -> list[int]:
        """The numbers of the nodes that these tensors need, in order of execution."""
        needed: set[int] = set()
        pending = [self.producers[name] for name in names if name in self.producers]
        while pending:
            if (number := pending.pop()) not in needed:
                needed.add(number)
                pending += [self.producers[name] for name in self.reads[number] if name in self.producers]
        return sorted(needed)

    def values(self, name: str) -> Array:
        """The values of an initializer in its own dtype; bfloat16 as float32. Reads external data."""
        array = numpy_helper.to_array(self.initializers[name], base_dir=str(self.path.parent))
        return array.astype(np.float32) if array.dtype.name == "bfloat16" else array

    def model_of(
        self, nodes: Iterable[NodeProto], *, inputs: Iterable[ValueInfoProto], outputs: Iterable[str]
    ) -> ModelProto:
        """A part of the graph as a model; external data is referred to, not copied."""
        nodes = list(nodes)
        names = dict.fromkeys(name for node in nodes for name in _reads(node))
        graph = GraphProto(name=self.model.graph.name or "part", node=nodes, input=inputs)
        graph.initializer.extend(self.initializers[name] for name in names if name in self.initializers)
        graph.output.extend(ValueInfoProto(name=name) for name in outputs)
        version = max(self.model.ir_version, 4)  # before, initializers had to be inputs
        return ModelProto(ir_version=version, opset_import=self.model.opset_import, graph=graph)

    def types(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Type]:
        """dtype and shape of every tensor, as far as ONNX' shape inference tells them.

        Args:
            shapes: the shapes of inputs that are fed.

        Raises:
            CheckpointError: an op has not the inputs or outputs that its type has.
        """
        try:
            inferred = onnx.shape_inference.infer_shapes(self._skeleton(shapes), data_prop=True).graph
        except onnx.shape_inference.InferenceError as error:
            raise _damaged(self.path, str(error)) from error
        return {value.name: declared(value) for value in (*inferred.value_info, *inferred.output, *inferred.input)}

    def _skeleton(self, shapes: Mapping[str, tuple[int, ...]]) -> ModelProto:
        """The whole model without the values of large initializers, which become inputs."""
        small = {name: t for name, t in self.initializers.items() if np.prod(t.dims) <= LARGE and not t.external_data}
        inputs = [
            helper.make_tensor_value_info(name, value.type.tensor_type.elem_type, shapes[name])
            if name in shapes
            else value
            for name, value in self.inputs.items()
        ]
        inputs += [
            helper.make_tensor_value_info(name, t.data_type, t.dims)
            for name, t in self.initializers.items()
            if name not in small
        ]
        graph = GraphProto(name="skeleton", node=self.nodes, input=inputs, initializer=small.values())
        version = max(self.model.ir_version, 4)
        return ModelProto(ir_version=version, opset_import=self.model.opset_import, graph=graph)


def read_graph(path: str | Path) -> Graph:
    """Opens an ONNX file; its external data must be there, but is not read.

    Raises:
        CheckpointError: it is missing, damaged, or not an ONNX model.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file '{path}'.", action="give the path of an ONNX model")
    try:
        model = onnx.load(path, load_external_data=False)
        if not model.HasField("graph") or not model.opset_import:
            raise _damaged(path, "it holds no graph")
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        graph = _graph(path, model)
        _check_names(graph)
        _check_order(graph)
        _check_values(graph)
    except (DecodeError, ValueError, TypeError) as error:  # no protobuf, no UTF-8, an attribute of another type
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    graph.types({})
    return graph


def _graph(path: Path, model: ModelProto) -> Graph:
    """Sorts what the file holds into nodes and constants."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [
        helper.make_node("Constant", [], [sparse.values.name], sparse_value=sparse)
        for sparse in model.graph.sparse_initializer
    ]
    for node in model.graph.node:
        tensor = _constant(node)
        if tensor is None:
            nodes.append(node)
        else:
            initializers[tensor.name] = tensor
    inputs = {value.name: value for value in model.graph.input if value.name not in initializers}
    outputs = tuple(value.name for value in model.graph.output)
    return Graph(path, model, tuple(nodes), initializers, inputs, outputs)


def _constant(node: NodeProto) -> TensorProto | None:
    """What a Constant node holds, under the name of its output; None for any other node, and for strings."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    if len(node.attribute) != 1 or len(node.output) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.name not in _CONSTANT_ATTRIBUTES:
        return None
    value = helper.get_attribute_value(attribute)
    if not isinstance(value, TensorProto):
        value = numpy_helper.from_array(np.array(value, np.float32 if "float" in attribute.name else np.int64))
    tensor = TensorProto()
    tensor.CopyFrom(value)
    tensor.name = node.output[0]
    return tensor


def _reads(node: NodeProto) -> Iterator[str]:
    """The names that a node reads; of its subgraphs those that they take from outside."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
            yield from _reads_from_outside(graph)


def _reads_from_outside(graph: GraphProto) -> Iterator[str]:
    own = {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        yield from (name for name in _reads(node) if name not in own)
        own.update(node.output)
    yield from (value.name for value in graph.output if value.name not in own)


def _check_names(graph: Graph) -> None:
    """Raises CheckpointError if a name is no UTF-8, which protobuf then gives as bytes."""
    names: list[Any] = [*graph.inputs, *graph.initializers, *graph.outputs]
    for node in graph.nodes:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise _damaged(graph.path, f"the name {wrong[0]!r} is not UTF-8")


def _check_order(graph: Graph) -> None:
    """Raises CheckpointError if something is read before, or without, being computed, or is computed twice."""
    known = {*graph.inputs, *graph.initializers}
    for node, reads in zip(graph.nodes, graph.reads, strict=True):
        for name in reads:
            if name not in known:
                raise _damaged(graph.path, f"the node '{node.name}' ({node.op_type}) reads '{name}' before it is there")
        for name in node.output:
            if name and name in known:
                raise _damaged(graph.path, f"the tensor '{name}' is computed twice")
        known.update(node.output)
    for name in graph.outputs:
        if name not in known:
            raise _damaged(graph.path, f"nothing computes its output '{name}'")


def _check_values(graph: Graph) -> None:
    """Raises CheckpointError if the values of an initializer are not there, or not as many as it says."""
    for name, tensor in graph.initializers.items():
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_external(graph.path, tensor)
            continue
        try:
            shape = numpy_helper.to_array(tensor).shape  # of a large tensor a view
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise _damaged(graph.path, f"the values of '{name}' cannot be read: {error}") from error
        if shape != tuple(tensor.dims):
            raise _damaged(graph.path, f"'{name}': expected the shape {list(tensor.dims)}, got {list(shape)}")


def _check_external(path: Path, tensor: TensorProto) -> None:
    """Raises CheckpointError if a file of external data is missing, or too short for what is said to lie in it."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    location = place.get("location", "")
    try:
        needed_bytes = prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        end = int(place.get("offset", 0)) + int(place.get("length", needed_bytes))
    except (ValueError, KeyError) as error:
        raise _damaged(path, f"the place of the values of '{tensor.name}' cannot be read: {error}") from error
    file = path.parent / location
    size_bytes = file.stat().st_size if file.is_file() else None
    if size_bytes is None or end > size_bytes:
        got = "no such file" if size_bytes is None else f"{size_bytes} bytes"
        raise _damaged(path, f"the values of '{tensor.name}' lie in '{location}': expected {end} bytes, got {got}")


def _damaged(path: Path, detail: str) -> CheckpointError:
    return CheckpointError(
        f"'{path.name}' cannot be used as an ONNX model.",
        where=str(path),
        detail=detail,
        action="export it again, or copy it again together with its external data",
    )


def declared(value: ValueInfoProto) -> Type:
    """dtype and shape that an ONNX value declares."""
    tensor: Any = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return "object", None
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return dtype_name(tensor.elem_type), shape if tensor.HasField("shape") else None


def dtype_name(elem_type: int) -> str:
    """numpy name of an ONNX element type; `object` for strings and for what is none."""
    if elem_type not in TensorProto.DataType.values() or elem_type == TensorProto.UNDEFINED:
        return "object"
    return str(helper.tensor_dtype_to_np_dtype(elem_type).name)
