"""A file is refused where it is damaged, its names are told, and nothing of it is loaded that need not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from layerdiff.errors import CheckpointError, EngineError, FeedError
from layerdiff.sources.onnx import OnnxSource
from layerdiff.sources.onnx_graph import read_graph
from tests.sources.onnx_models import CONVNET_TENSORS, convnet, model, saved, values

FLOAT = TensorProto.FLOAT


def test_nodes_keep_their_order_and_constants_are_no_nodes(tmp_path: Path) -> None:
    graph = read_graph(saved(convnet(), tmp_path))
    assert [name for node in graph.nodes for name in node.output] == CONVNET_TENSORS
    assert graph.values("k").tolist() == [2]
    assert graph.values("third") == np.float32(1 / 3)
    assert (list(graph.inputs), graph.outputs) == (["x"], ("best", "sure"))


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"value_floats": [1.0, 2.5]}, np.array([1, 2.5], np.float32)),
        ({"value_int": 3}, np.array(3)),
        ({"value_ints": [3, 4]}, np.array([3, 4])),
        ({"value": numpy_helper.from_array(np.array([True]))}, np.array([True])),
    ],
)
def test_every_form_of_constant_is_read(tmp_path: Path, attribute: dict[str, Any], expected: np.ndarray) -> None:
    nodes = [helper.make_node("Constant", [], ["c"], **attribute), helper.make_node("Identity", ["c"], ["y"])]
    graph = read_graph(saved(model(nodes, inputs={}, outputs=["y"]), tmp_path))
    found = graph.values("c")
    assert (found.dtype, found.shape, found.tolist()) == (expected.dtype, expected.shape, expected.tolist())
    assert graph.constants == {"c", "y"}


def test_a_sparse_initializer_is_a_constant(tmp_path: Path) -> None:
    proto = model([helper.make_node("Add", ["x", "s"], ["y"])], inputs={"x": (FLOAT, [4])}, outputs=["y"])
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([7], np.float32), "s"), numpy_helper.from_array(np.array([2])), [4]
    )
    proto.graph.sparse_initializer.append(sparse)
    found = dict(OnnxSource.open(saved(proto, tmp_path)).trace({"x": np.zeros(4, np.float32)}, ["y"]))
    assert found["y"].tolist() == [0, 0, 7, 0]


def test_random_results_are_not_constant(tmp_path: Path) -> None:
    proto = model([helper.make_node("RandomNormal", [], ["r"], shape=[2])], inputs={}, outputs=["r"])
    source = OnnxSource.open(saved(proto, tmp_path))
    assert [node.kind for node in source.outline({}).nodes] == ["other"]


def test_an_old_file_lists_its_weights_among_the_inputs(tmp_path: Path) -> None:
    proto = convnet()
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    source = OnnxSource.open(saved(proto, tmp_path))
    assert list(source.graph.inputs) == ["x"]
    assert [name for name, _ in source.trace({"x": values(1, 3, 4)})] == CONVNET_TENSORS


def test_only_what_is_needed_is_run(tmp_path: Path) -> None:
    graph = read_graph(saved(convnet(), tmp_path))
    assert [graph.nodes[i].op_type for i in graph.ancestors(["r"])] == ["Conv", "BatchNormalization", "Relu"]
    assert graph.ancestors(["x", "fc.weight"]) == []


def test_a_part_refers_to_external_data(tmp_path: Path) -> None:
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, inputs={"x": (FLOAT, [1, 500])}, outputs=["y"], weights={"w": values(500, 500)})
    graph = read_graph(saved(proto, tmp_path, **options))
    assert graph.model_of(graph.nodes, inputs=[], outputs=["y"]).ByteSize() < 1000
    assert graph.path.stat().st_size < 1000


# ------------------------------------------------------------------ damage


def broken(change: str) -> ModelProto:
    proto = convnet()
    graph = proto.graph
    if change == "order":
        graph.node.append(helper.make_node("Relu", ["later"], ["early"], name="first"))
        graph.node.append(helper.make_node("Relu", ["x"], ["later"]))
    elif change == "twice":
        graph.node.append(helper.make_node("Relu", ["x"], ["r"]))
    elif change == "output":
        graph.output.append(onnx.ValueInfoProto(name="nowhere"))
    elif change == "values":
        graph.initializer[0].raw_data = graph.initializer[0].raw_data[:-1]
    elif change == "negative":
        graph.initializer[1].dims[:] = [-1]
    elif change == "type":
        graph.initializer[0].data_type = 65
    elif change == "arity":
        graph.node.append(helper.make_node("Relu", [], ["alone"]))
    elif change == "opset":
        del proto.opset_import[:]
    elif change == "graph":
        proto.ClearField("graph")
    return proto


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("order", "the node 'first' (Relu) reads 'later' before it is there"),
        ("twice", "the tensor 'r' is computed twice"),
        ("output", "nothing computes its output 'nowhere'"),
        ("values", "the values of 'conv.weight' cannot be read"),
        ("negative", "'conv.bias': expected the shape [-1], got [4]"),
        ("type", "the values of 'conv.weight' cannot be read"),
        ("arity", "Relu"),
        ("opset", "it holds no graph"),
        ("graph", "it holds no graph"),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(tmp_path: Path, change: str, shown: str) -> None:
    path = saved(broken(change), tmp_path)
    with pytest.raises(CheckpointError, match=r"'model.onnx' cannot be used as an ONNX model") as caught:
        OnnxSource.open(path)
    assert shown in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("size", "shown"), [(None, "no such file"), (3, "got 3 bytes")])
def test_external_data_that_is_not_there_is_named(tmp_path: Path, size: int | None, shown: str) -> None:
    path = saved(convnet(), tmp_path, save_as_external_data=True, location="w.bin", size_threshold=0)
    data = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").unlink()
    if size is not None:
        (tmp_path / "w.bin").write_bytes(data[:size])
    with pytest.raises(CheckpointError) as caught:
        OnnxSource.open(path)
    assert "lie in 'w.bin'" in str(caught.value)
    assert shown in str(caught.value)


def test_what_is_no_file_or_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is no protobuf")
    with pytest.raises(CheckpointError, match="there is no file"):
        OnnxSource.open(tmp_path / "absent.onnx")
    with pytest.raises(CheckpointError, match="there is no file"):
        OnnxSource.open(tmp_path)
    with pytest.raises(CheckpointError, match=r"'text.onnx' cannot be used"):
        OnnxSource.open(tmp_path / "text.onnx")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_with_our_own_errors(tmp_path: Path, data: st.DataObject) -> None:
    raw = saved(convnet(), tmp_path).read_bytes()
    cut = data.draw(st.none() | st.integers(0, len(raw) - 1))
    place, bit = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 7))
    damaged = raw[:cut] if cut is not None else raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]
    x = {"x": np.ones((1, 3, 4), np.float32)}
    expected = {name: value.tobytes() for name, value in OnnxSource.open(tmp_path / "model.onnx").trace(x)}
    (tmp_path / "model.onnx").write_bytes(damaged)
    try:
        source = OnnxSource.open(tmp_path / "model.onnx")
        source.outline(x)
        found = {name: value.tobytes() for name, value in source.trace(x)}
    except (CheckpointError, EngineError, FeedError):
        return
    # ONNX has no hashes: a changed weight is another model. What is cut off may be the version of an unused domain.
    assert cut is None or found == expected
