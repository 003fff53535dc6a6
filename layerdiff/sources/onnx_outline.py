"""The structure of an ONNX graph as an `Outline`: a node per result of every op, the weights, and the module of each.

A constant that an op reads is followed back through ops that only move values. Where this ends at an initializer, that
is the weight; where it ends at the dequantisation of one, the weight is compressed and keeps the initializer's name;
anything else that is computed from constants is a weight of its own. Weights are read, and computed, when asked for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from math import prod
from typing import Any

from onnx import NodeProto, helper

from layerdiff.outline import SAME_VALUES, Node, Outline, Weight
from layerdiff.sources.onnx_graph import Graph, Type, declared, dtype_name
from layerdiff.sources.onnx_kinds import KINDS, SCALES, kind_of, role_of
from layerdiff.sources.onnx_slices import Slices

SCOPES = "pkg.torch.onnx.name_scopes"
"""Under which torch's newer exporter keeps the modules of a node: the names of all around it, then the node's own."""

WEIGHT_DTYPES = frozenset(["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int4", "uint4"])
"""What a weight may be stored as; wider integers are shapes and indices."""

_SUFFIXES = ("_quantized", "_to_fp16", "_to_fp32")
_ROLES = ("weight", "bias", "running_mean", "running_var")


class Structure:
    """What is known of a graph without a feed. Its Weight objects are the same in every outline."""

    def __init__(self, graph: Graph, slices: Slices) -> None:
        self._graph, self._slices = graph, slices
        self._found: dict[str, Weight] = {}
        self._weights = [dict(self._weights_of(node)) for node in graph.nodes]
        self.aliases = _aliases(graph)
        """Name of a node → the name of its first result, where the former means nothing else."""

    def outline(self, types: Mapping[str, Type]) -> Outline:
        """The outline on a feed that gives the tensors these types; float32 is assumed where nothing is known."""
        graph = self._graph
        inputs = []
        for name, value in graph.inputs.items():
            dtype, shape = types.get(name, declared(value))
            inputs.append(Node(name, "input", "input", dtype=dtype, shape=shape))
        nodes = tuple(node for number in range(len(graph.nodes)) for node in self._nodes(number, types))
        weights = {weight.name: weight for weight in self._found.values()}
        return Outline(graph.path.name, tuple(inputs), nodes, graph.outputs, weights)

    def _nodes(self, number: int, types: Mapping[str, Type]) -> Iterator[Node]:
        """One node per result of an op."""
        graph, node = self._graph, self._graph.nodes[number]
        captured = [name for name in graph.reads[number] if name not in node.input]
        weights = {role: weight.name for role, weight in self._weights[number].items()}
        constant = graph.constants.issuperset(node.output)
        for index, name in enumerate(node.output):
            if not name:
                continue
            dtype, shape = types.get(name, ("float32", None))
            yield Node(
                name=name,
                op=node.op_type,
                kind=kind_of(node.op_type, node.domain, weights=weights, constant=constant),
                inputs=tuple(read for read in (*node.input, *captured) if read and read not in graph.constants),
                weights=weights,
                dtype=dtype,
                shape=shape,
                scope=scope_of(node, weights),
                aliases=(node.name,) if self.aliases.get(node.name) == name else (),
                result=index,
            )

    # -------------------------------------------------------------- weights

    def _weights_of(self, node: NodeProto) -> Iterator[tuple[str, Weight]]:
        """Role and weight of every constant that an op reads as a weight; none of an op that is itself constant."""
        if self._graph.constants.issuperset(node.output):
            return
        roles: Counter[str] = Counter()
        for position, name in enumerate(node.input):
            role = role_of(node.op_type, position)
            if not role or name not in self._graph.constants:
                continue
            if (weight := self._weight(node, position)) is not None:
                yield role + (f"_{roles[role]}" if roles[role] else ""), weight
                roles[role] += 1

    def _weight(self, node: NodeProto, position: int) -> Weight | None:
        """The weight at a position of an op; None if it is one number, or no numbers of a weight."""
        origin = self._origin(node.input[position])
        if origin not in self._found:
            if (node.op_type, position) in SCALES and origin in self._graph.initializers:
                scale, axis = SCALES[node.op_type, position]
                weight = self._dequantised(origin, node.input[scale : scale + 2], axis=axis, block=0)
            elif origin in self._graph.initializers:
                weight = self._plain(origin)
            else:
                weight = self._computed(origin)
            if weight.dtype not in WEIGHT_DTYPES or prod(weight.shape) <= 1:
                return None
            self._found[origin] = weight
        return self._found[origin]

    def _origin(self, name: str) -> str:
        """The constant whose values `name` holds in another order, shape or dtype."""
        while (number := self._graph.producers.get(name)) is not None:
            node = self._graph.nodes[number]
            if KINDS.get(node.op_type) not in SAME_VALUES:
                return name
            name = node.input[0]
        return name

    def _plain(self, name: str) -> Weight:
        tensor = self._graph.initializers[name]
        return Weight(name, dtype_name(tensor.data_type), tuple(tensor.dims), partial(self._graph.values, name))

    def _computed(self, name: str) -> Weight:
        """A weight that nodes compute: the dequantisation of an initializer, or anything else."""
        node = self._graph.nodes[self._graph.producers[name]]
        if node.op_type == "DequantizeLinear" and node.input[0] in self._graph.initializers:
            options = {attribute.name: attribute.i for attribute in node.attribute}
            axis, block = options.get("axis", 1), options.get("block_size", 0)
            return self._dequantised(node.input[0], node.input[1:], axis=axis, block=block)
        nodes = [self._graph.nodes[number] for number in self._graph.ancestors([name])]
        dtype, shape = self._graph.types({}).get(name, ("float32", None))
        read = partial(self._slices.compute, nodes, name)
        if shape is None or None in shape:
            shape = read().shape
        return Weight(name, dtype, tuple(length or 0 for length in shape), read)

    def _dequantised(self, name: str, parameters: list[str], *, axis: int, block: int) -> Weight:
        """A weight stored as integers, with a scale and maybe a zero point."""
        stored, result = self._plain(name), f"{name}/dequantised"
        options: dict[str, Any] = {"axis": axis, **({"block_size": block} if block else {})}
        node = helper.make_node("DequantizeLinear", [name, *parameters], [result], **options)
        scales = self._graph.initializers.get(parameters[0])
        whole = scales is not None and prod(scales.dims) == 1
        return Weight(
            name,
            stored.dtype,
            stored.shape,
            partial(self._slices.compute, [node], result),
            compression=f"{stored.dtype} per {'tensor' if whole else 'block' if block else 'channel'}",
        )


def _aliases(graph: Graph) -> dict[str, str]:
    counts = Counter(node.name for node in graph.nodes)
    taken = {"", *graph.inputs, *graph.initializers, *graph.producers}
    free = (node for node in graph.nodes if counts[node.name] == 1 and node.name not in taken)
    return {node.name: next(filter(None, node.output), "") for node in free}


def scope_of(node: NodeProto, weights: Mapping[str, str]) -> str:
    """The module of an op, dotted, as the exporter or the names of the op's weights tell; empty if nothing does.

    `/encoder/layers.0/fc/MatMul` → `encoder.layers.0.fc`; the child of a container that is called itself has the
    container's name in its own: `/net/net.0/Gemm` → `net.0`.
    """
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            return next((scope for scope in reversed(re.findall("'([^']*)'", entry.value)[:-1]) if scope), "")
    if node.name.startswith("/"):
        parts: list[str] = []
        for part in node.name.split("/")[1:-1]:
            nested = bool(parts) and part.startswith(f"{parts[-1]}.")
            parts[len(parts) - nested :] = [part]
        return ".".join(parts)
    return next((scope for name in weights.values() if (scope := _module_of(name))), "")


def _module_of(weight: str) -> str:
    """`encoder.fc.weight_quantized` → `encoder.fc`; empty for a name that is no path."""
    for suffix in _SUFFIXES:
        weight = weight.removesuffix(suffix)
    module, _, role = weight.rpartition(".")
    return module if role in _ROLES else ""
