"""Small ONNX models with everything that the source has to cope with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

NORM = ("weight", "bias", "running_mean", "running_var")

RANDOM = np.random.default_rng(11)


def values(*shape: int, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return RANDOM.standard_normal(shape).astype(dtype)


def model(
    nodes: Sequence[NodeProto],
    *,
    inputs: Mapping[str, tuple[int, Sequence[int | str | None] | None]],
    outputs: Iterable[str],
    weights: Mapping[str, np.ndarray[Any, Any]] | None = None,
    opset: int = 20,
    **options: Any,
) -> ModelProto:
    """A model of these nodes; inputs are name → (element type, shape)."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **options)


def saved(proto: ModelProto, folder: Path, name: str = "model.onnx", **options: Any) -> Path:
    onnx.save(proto, folder / name, **options)
    return folder / name


def convnet() -> ModelProto:
    """Convolution, normalisation, a product, a choice: ten tensors of float32, int64 and bool, on [B, 3, T]."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], name="conv", pads=[1, 1]),
        node(
            "BatchNormalization", ["c", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"], ["n"], name="bn"
        ),
        node("Relu", ["n"], ["r"], name="act"),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["t", "fc.weight"], ["m"]),
        node("Add", ["m", "fc.bias"], ["a"]),
        node("Softmax", ["a"], ["p"]),
        node("TopK", ["p", "k"], ["best", "which"]),
        node("Constant", [], ["k"], value=numpy_helper.from_array(np.array([2]))),
        node("Constant", [], ["third"], value_float=1 / 3),
        node("Greater", ["p", "third"], ["sure"]),
    ]
    nodes.sort(key=lambda n: n.op_type != "Constant")
    weights = {
        "conv.weight": values(4, 3, 3),
        "conv.bias": values(4),
        "bn.weight": values(4),
        "bn.bias": values(4),
        "bn.running_mean": values(4),
        "bn.running_var": np.abs(values(4)) + 0.5,
        "fc.weight": values(4, 5),
        "fc.bias": values(5),
    }
    return model(nodes, inputs={"x": (TensorProto.FLOAT, ["B", 3, "T"])}, outputs=["best", "sure"], weights=weights)


CONVNET_TENSORS = ["c", "n", "r", "t", "m", "a", "p", "best", "which", "sure"]


def with_all_outputs(proto: ModelProto) -> ModelProto:
    """The same model with every result of a node of the main graph as an output."""
    whole = ModelProto()
    whole.CopyFrom(proto)
    del whole.graph.output[:]
    names = [name for node in whole.graph.node if node.op_type != "Constant" for name in node.output if name]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return whole


def reference(proto: ModelProto, feed: Mapping[str, Any]) -> dict[str, Any]:
    """Every tensor as ONNX' own reference implementation computes it."""
    whole = with_all_outputs(proto)
    for value in whole.graph.output:  # the evaluator asks for a type, and does not look at it
        value.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    results = ReferenceEvaluator(whole).run(None, dict(feed))
    return dict(zip((value.name for value in whole.graph.output), results, strict=True))
