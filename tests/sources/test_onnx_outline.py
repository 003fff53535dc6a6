"""The outline of an ONNX model: kinds, weights with their decompressed values, and the modules that torch exported."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto, TensorProto, helper
from torch import nn

from layerdiff.outline import Outline
from layerdiff.sources.onnx import OnnxSource
from layerdiff.sources.onnx_outline import SCOPES, scope_of
from tests.sources.onnx_models import convnet, model, saved, values

FLOAT = TensorProto.FLOAT


def outline_of(proto: Any, folder: Path, **feed: Any) -> Outline:
    return OnnxSource.open(saved(proto, folder)).outline(feed)


def test_nodes_say_what_they_compute_from_what(tmp_path: Path) -> None:
    outline = outline_of(convnet(), tmp_path, x=values(2, 3, 6))
    rows = [(n.name, n.op, n.kind, n.inputs, n.dtype, n.shape, n.result) for n in outline.nodes]
    assert rows == [
        ("c", "Conv", "conv", ("x",), "float32", (2, 4, 6), 0),
        ("n", "BatchNormalization", "batch_norm", ("c",), "float32", (2, 4, 6), 0),
        ("r", "Relu", "relu", ("n",), "float32", (2, 4, 6), 0),
        ("t", "Transpose", "transpose", ("r",), "float32", (2, 6, 4), 0),
        ("m", "MatMul", "linear", ("t",), "float32", (2, 6, 5), 0),
        ("a", "Add", "add", ("m",), "float32", (2, 6, 5), 0),
        ("p", "Softmax", "softmax", ("a",), "float32", (2, 6, 5), 0),
        ("best", "TopK", "topk", ("p",), "float32", (2, 6, 2), 0),
        ("which", "TopK", "topk", ("p",), "int64", (2, 6, 2), 1),
        ("sure", "Greater", "compare", ("p",), "bool", (2, 6, 5), 0),
    ]
    assert [(n.name, n.kind, n.shape) for n in outline.inputs] == [("x", "input", (2, 3, 6))]
    assert (outline.title, outline.outputs) == ("model.onnx", ("best", "sure"))
    assert outline.by_name["bn"].name == "n"


def test_weights_have_roles_and_scopes(tmp_path: Path) -> None:
    outline = outline_of(convnet(), tmp_path, x=values(2, 3, 6))
    by_name = outline.by_name
    assert by_name["c"].weights == {"weight": "conv.weight", "bias": "conv.bias"}
    assert by_name["n"].weights == {role: f"bn.{role}" for role in ("weight", "bias", "running_mean", "running_var")}
    assert (by_name["m"].weights, by_name["a"].weights) == ({"weight": "fc.weight"}, {"other": "fc.bias"})
    assert [by_name[name].scope for name in "cnrmap"] == ["conv", "bn", "", "fc", "fc", ""]
    assert "third" not in outline.weights, "one number is no weight"
    assert outline.weights["conv.weight"].shape == (4, 3, 3)


def test_weights_are_the_same_objects_in_every_outline(tmp_path: Path) -> None:
    source = OnnxSource.open(saved(convnet(), tmp_path))
    one, two = (source.outline({"x": values(1, 3, length)}) for length in (4, 5))
    assert all(one.weights[name] is two.weights[name] for name in one.weights)


def test_a_gather_from_a_weight_is_an_embedding(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["table", "ids"], ["e"]), helper.make_node("Gather", ["e", "ids"], ["g"])]
    proto = model(nodes, inputs={"ids": (TensorProto.INT64, [2])}, outputs=["g"], weights={"table": values(3, 4)})
    outline = outline_of(proto, tmp_path, ids=np.array([0, 1]))
    assert [(node.kind, dict(node.weights)) for node in outline.nodes] == [
        ("embedding", {"weight": "table"}),
        ("gather", {}),
    ]


def test_what_depends_on_no_input_is_constant(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("Mul", ["v", "v"], ["vv"]),
        helper.make_node("MatMul", ["x", "wt"], ["m"]),
        helper.make_node("MatMul", ["m", "vv"], ["y"]),
    ]
    w, v = values(5, 3), values(5, 5)
    proto = model(nodes, inputs={"x": (FLOAT, [2, 3])}, outputs=["y"], weights={"w": w, "v": v})
    outline = outline_of(proto, tmp_path, x=values(2, 3))
    assert [(n.name, n.kind, n.inputs, dict(n.weights)) for n in outline.nodes] == [
        ("wt", "constant", (), {}),
        ("vv", "constant", (), {}),
        ("m", "linear", ("x",), {"weight": "w"}),
        ("y", "linear", ("m",), {"weight": "vv"}),
    ]
    assert set(outline.weights) == {"w", "vv"}
    np.testing.assert_array_equal(outline.weights["w"].read(), w)
    np.testing.assert_allclose(outline.weights["vv"].read(), v * v, rtol=1e-6)


def quantised(axis: int | None, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8[4, 6], scales and zero points along an axis, or one of each."""
    random = np.random.default_rng(3)
    w = random.integers(-128, 128, (4, 6)).astype(np.int8)
    scale = random.uniform(0.01, 0.1, count).astype(np.float32)
    zero = random.integers(-5, 5, count).astype(np.int8)
    return (w, scale, zero) if axis is not None else (w, scale[0], zero[0])


@pytest.mark.parametrize(("axis", "count", "words"), [(0, 4, "channel"), (1, 6, "channel"), (None, 1, "tensor")])
def test_a_dequantised_weight_keeps_its_name_and_has_its_values(
    tmp_path: Path, axis: int | None, count: int, words: str
) -> None:
    w, scale, zero = quantised(axis, count)
    options = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("DequantizeLinear", ["fc.weight_quantized", "s", "z"], ["fc.weight"], **options),
        helper.make_node("Transpose", ["fc.weight"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "wt"], ["y"]),
    ]
    weights = {"fc.weight_quantized": w, "s": scale, "z": zero}
    proto = model(nodes, inputs={"x": (FLOAT, [2, 6])}, outputs=["y"], weights=weights)
    outline = outline_of(proto, tmp_path, x=values(2, 6))
    assert [node.kind for node in outline.nodes] == ["constant", "constant", "linear"]
    assert (dict(outline.nodes[2].weights), outline.nodes[2].scope) == ({"weight": "fc.weight_quantized"}, "fc")
    weight = outline.weights["fc.weight_quantized"]
    assert (weight.dtype, weight.shape, weight.compression) == ("int8", (4, 6), f"int8 per {words}")
    shape = {0: (4, 1), 1: (1, 6), None: ()}[axis]
    expected = (w.astype(np.float64) - zero.astype(np.float64).reshape(shape)) * scale.reshape(shape)
    np.testing.assert_allclose(weight.read(), expected, rtol=1e-6, atol=1e-7)


def test_a_weight_quantised_in_blocks(tmp_path: Path) -> None:
    w = np.arange(-12, 12, dtype=np.int8).reshape(4, 6)
    scale = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=1, block_size=3),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    proto = model(nodes, inputs={"x": (FLOAT, [1, 4])}, outputs=["y"], weights={"w": w, "s": scale}, opset=21)
    weight = outline_of(proto, tmp_path, x=values(1, 4)).weights["w"]
    assert weight.compression == "int8 per block"
    np.testing.assert_array_equal(weight.read(), w * np.repeat(scale, 3, axis=1))


def test_a_quantised_convolution_has_a_weight(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    w = random.integers(-128, 128, (3, 2, 3)).astype(np.int8)
    scale = np.array([0.5, 0.25, 2], np.float32)
    one, zero = np.float32(0.1), np.array(0, np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("QLinearConv", ["q", "one", "zero", "w", "scale", "zeros", "one", "zero"], ["y"]),
    ]
    weights = {"w": w, "scale": scale, "zeros": np.zeros(3, np.int8), "one": one, "zero": zero}
    outline = outline_of(
        model(nodes, inputs={"x": (FLOAT, [1, 2, 5])}, outputs=["y"], weights=weights), tmp_path, x=values(1, 2, 5)
    )
    node = outline.by_name["y"]
    assert (node.kind, dict(node.weights)) == ("conv", {"weight": "w"})
    np.testing.assert_array_equal(outline.weights["w"].read(), w * scale[:, None, None])
    assert outline.weights["w"].compression == "int8 per channel"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_weights_read_through_a_cast_keep_their_dtype(tmp_path: Path, dtype: str) -> None:
    w = values(3, 4).astype(np.dtype(dtype))
    nodes = [helper.make_node("Cast", ["w"], ["wide"], to=FLOAT), helper.make_node("MatMul", ["x", "wide"], ["y"])]
    proto = model(nodes, inputs={"x": (FLOAT, [1, 3])}, outputs=["y"], weights={"w": w})
    weight = outline_of(proto, tmp_path, x=values(1, 3)).weights["w"]
    assert (weight.dtype, weight.shape) == (dtype, (3, 4))
    np.testing.assert_array_equal(np.asarray(weight.read(), np.float32), w.astype(np.float32))


# ------------------------------------------------------------------ torch's exports


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 8)
        self.net = nn.Sequential(nn.Conv1d(6, 6, 3, padding=1, groups=6), nn.Sequential(nn.LayerNorm(7), nn.ReLU()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, 6, 7]
        return self.fc(self.net(x).transpose(1, 2))


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Inner()])
        self.act = nn.Tanh()
        self.norm = nn.BatchNorm1d(7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.layers[0](x)))


def exported(module: nn.Module, x: torch.Tensor, path: Path) -> OnnxSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates this exporter; the other needs onnxscript
        torch.onnx.export(module, (x,), str(path), dynamo=False, input_names=["x"], output_names=["y"])
    return OnnxSource.open(path)


def test_an_export_of_torch_has_its_modules_weights_and_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Outer().eval(), torch.randn(2, 6, 7)
    source = exported(module, x, tmp_path / "outer.onnx")
    feed = {"x": x.numpy()}
    inside: dict[str, torch.Tensor] = {}
    for name, part in module.named_modules():
        if not list(part.children()):
            part.register_forward_hook(lambda _m, _i, out, name=name: inside.update({name: out}))
    with torch.no_grad():
        module(x)
    outline, tensors = source.outline(feed), dict(source.trace(feed))
    last = {node.scope: node for node in outline.nodes}
    for name, expected in inside.items():
        if name in last:  # a batch norm may be folded into what is before it
            np.testing.assert_allclose(tensors[last[name].name], expected.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
    assert {"layers.0.fc", "layers.0.net.0", "layers.0.net.1.0", "layers.0.net.1.1", "act", "norm"} <= set(last)
    state = module.state_dict()
    conv = outline.weights[last["layers.0.net.0"].weights["weight"]]
    np.testing.assert_array_equal(conv.read(), state["layers.0.net.0.weight"].numpy())
    (fc,) = (node for node in outline.nodes if node.kind == "linear")
    np.testing.assert_array_equal(outline.weights[fc.weights["weight"]].read(), state["layers.0.fc.weight"].numpy().T)
    assert fc.scope == "layers.0.fc"


@pytest.mark.parametrize(
    ("name", "scopes", "weights", "expected"),
    [
        ("/encoder/layers.0/fc/MatMul", "", {}, "encoder.layers.0.fc"),
        ("/net/net.0/net.0.1/Gemm", "", {}, "net.0.1"),
        ("/Relu", "", {}, ""),
        ("MatMul_3", "", {"weight": "encoder.fc.weight_quantized"}, "encoder.fc"),
        ("MatMul_3", "", {"weight": "onnx::MatMul_3"}, ""),
        ("node_linear", "['', 'encoder', 'encoder.fc', 'linear']", {"weight": "a.weight"}, "encoder.fc"),
        ("node_add", "['', 'add']", {}, ""),
    ],
)
def test_scopes_come_from_exporters_and_weights(name: str, scopes: str, weights: dict[str, str], expected: str) -> None:
    node = NodeProto(name=name)
    if scopes:
        node.metadata_props.add(key=SCOPES, value=scopes)
    assert scope_of(node, weights) == expected


def test_a_name_that_two_nodes_have_is_no_alias(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="n"), helper.make_node("Relu", ["a"], ["b"], name="n")]
    nodes.append(helper.make_node("Tanh", ["b"], ["y"], name="a"))
    outline = outline_of(model(nodes, inputs={"x": (FLOAT, [2])}, outputs=["y"]), tmp_path, x=values(2))
    assert [node.aliases for node in outline.nodes] == [(), (), ()]
