"""What a package says about itself, against packages built to have each property."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerdiff import mil, quiet
from layerdiff.inspection import Inspection, inspect_outline, inspect_package, metadata_claims
from layerdiff.sources.coreml_outline import outline_of
from tests.align.networks import convert
from tests.align.outlines import node, outline

Array = Any
W = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)


def package(folder: Path, body: Any, *, precision: str = "FLOAT32", compression: str = "", **shapes: Any) -> Path:
    """A program written with coremltools' builder; `body(mb, **inputs)`."""
    with quiet.third_party():
        import coremltools as ct
        from coremltools.converters.mil import Builder as mb

        scope: dict[str, Any] = {"body": body, "mb": mb}
        exec(f"def program({', '.join(shapes)}): return body(mb, {', '.join(shapes)})", scope)
        specs = [mb.TensorSpec(shape=shape) for shape in shapes.values()]
        program = mb.program(input_specs=specs, opset_version=ct.target.iOS17)(scope["program"])
        model = ct.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=getattr(ct.precision, precision),
            skip_model_load=True,
        )
        if compression:
            from coremltools.optimize import coreml as cto

            op = cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=1)
            model = cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=op))
        path = folder / "Model.mlpackage"
        model.save(str(path))
    return path


def inspected(path: Path) -> Inspection:
    model = mil.load(path)
    return inspect_package({"main": model}, {"main": outline_of(model)}, kind="Core ML package")


def test_inputs_outputs_ops_and_landmarks(tmp_path: Path) -> None:
    def body(mb: Any, x: Any) -> Any:
        h = mb.linear(x=x, weight=W, name="h")
        return mb.relu(x=mb.add(x=h, y=h, name="twice"), name="y")

    found = inspected(package(tmp_path, body, x=(1, 8)))
    (part,) = found.parts
    assert (found.kind, found.name, found.facts["functions"]) == ("Core ML package", "Model.mlpackage", ["main"])
    assert [(port.name, port.type) for port in (*part.inputs, *part.outputs)] == [
        ("x", "float32[1, 8]"),
        ("y", "float32[1, 16]"),
    ]
    assert {(count.op, count.dtype, count.count) for count in part.ops} == {
        ("linear", "float32", 1),
        ("add", "float32", 1),
        ("relu", "float32", 1),
    }
    assert [(tensor.name, tensor.is_landmark) for tensor in part.tensors] == [
        ("h", True),
        ("twice", False),
        ("y", True),
    ]
    assert (part.precision, part.islands, part.hazards, part.states) == ("float32", (), (), ())


def test_storage_is_what_the_weights_take(tmp_path: Path) -> None:
    """16 × 8 values: 4 bytes each; as int8 one byte each and a scale per channel."""

    def body(mb: Any, x: Any) -> Any:
        return mb.linear(x=x, weight=W, name="y")

    (plain,) = inspected(package(tmp_path, body, x=(1, 8))).parts[0].storage
    assert (plain.stored, plain.values, plain.bits_per_value) == ("float32", W.size + 16, 32)  # and the bias
    assert plain.size_bytes == 4 * plain.values
    (tmp_path / "small").mkdir()
    small = inspected(package(tmp_path / "small", body, compression="int8", x=(1, 8))).parts[0].storage
    (quantised,) = [s for s in small if s.values == W.size]
    assert quantised.stored == "affine dequantize, int8"
    assert 8 < quantised.bits_per_value < 16


def test_a_float32_island_in_a_float16_program(tmp_path: Path) -> None:
    """coremltools keeps out of float16 what a selector says; the island is found with its ends."""

    def body(mb: Any, x: Any) -> Any:
        a = mb.relu(x=mb.cast(x=x, dtype="fp16"), name="a")
        b = mb.exp(x=mb.cast(x=a, dtype="fp32"), name="first")
        c = mb.cast(x=mb.log(x=b, name="last"), dtype="fp16")
        return mb.cast(x=mb.tanh(x=mb.sin(x=mb.cos(x=c))), dtype="fp32", name="y")

    (part,) = inspected(package(tmp_path, body, x=(1, 8))).parts
    (island,) = part.islands
    assert (island.dtype, island.first, island.last, island.ops) == ("float32", "first", "last", ("exp", "log"))
    assert part.precision == "mixed"


def fragile(mb: Any, x: Any) -> Any:
    return mb.softplus(x=x, name="y")


def log_of_softmax(mb: Any, x: Any) -> Any:
    return mb.log(x=mb.softmax(x=x, axis=-1), name="y")


def masked(mb: Any, x: Any) -> Any:
    return mb.add(x=x, y=np.array([[-1e9] * 4 + [0.0] * 4], np.float32), name="y")


def logarithm(mb: Any, x: Any) -> Any:
    return mb.log(x=x, name="y")  # with an epsilon of 1e-45


def small_cast(mb: Any, x: Any) -> Any:
    return mb.cast(x=mb.cast(x=x, dtype="int16"), dtype="fp32", name="y")


@pytest.mark.parametrize(
    ("body", "precision", "kinds"),
    [
        (fragile, "FLOAT16", {"fragile_op"}),
        (fragile, "FLOAT32", set()),
        (log_of_softmax, "FLOAT16", {"log_of_softmax", "epsilon_is_zero"}),
        (log_of_softmax, "FLOAT32", set()),
        (masked, "FLOAT32", {"beyond_float16"}),
        (logarithm, "FLOAT16", {"epsilon_is_zero"}),
        (logarithm, "FLOAT32", set()),
        (small_cast, "FLOAT32", {"integer_cast"}),
    ],
)
def test_what_is_known_to_go_wrong(body: Any, precision: str, kinds: set[str], tmp_path: Path) -> None:
    (part,) = inspected(package(tmp_path, body, precision=precision, x=(1, 8))).parts
    assert {hazard.kind for hazard in part.hazards} == kinds
    assert all(hazard.detail for hazard in part.hazards)


@pytest.mark.parametrize(
    ("metadata", "contradicts"),
    [
        ({"compute_precision": "FLOAT16"}, True),
        ({"compute_precision": "FLOAT32"}, False),
        ({"deep": [{"Precision": "Mixed (Float16, Float32)"}]}, False),
        ({"author": "float16"}, False),
    ],
)
def test_metadata_that_claims_another_precision_is_contradicted(
    metadata: dict[str, Any], contradicts: bool, tmp_path: Path
) -> None:
    def body(mb: Any, x: Any) -> Any:
        return mb.relu(x=x, name="y")

    path = package(tmp_path, body, x=(1, 8))
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    found = inspected(path)
    assert found.claims == tuple(metadata_claims(path))
    assert bool(found.notes) == contradicts


def test_metadata_that_is_no_json_claims_nothing(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_bytes(b"\xff{")
    assert list(metadata_claims(tmp_path / "Model.mlpackage")) == []


def test_anything_else_is_shown_by_its_outline() -> None:
    nodes = (
        node("a", "linear", "x", dtype="float16", shape=(1, None), weights={"weight": "w"}),
        node("b", "cast", "a", dtype="float32"),
    )
    found = inspect_outline(outline(*nodes), kind="checkpoint", path="x.pt", facts={"state": "complete"})
    (part,) = found.parts
    assert found.facts == {"state": "complete", "weights": 1, "values": 0}
    assert (part.precision, part.tensors[0].is_landmark) == ("float16", True)
    assert part.outputs[0].type == "float32"


def test_what_a_loop_holds_is_counted(tmp_path: Path) -> None:
    """A GRU: 3 × (5 × 6 + 5 × 5) values in its gates and 6 biases of 5."""
    convert(torch.nn.GRU(6, 5).eval(), {"x": np.zeros((4, 1, 6), np.float32)}, tmp_path / "gru.mlpackage")
    (stored,) = inspected(tmp_path / "gru.mlpackage").parts[0].storage
    assert stored.values >= 3 * (5 * 6 + 5 * 5) + 6 * 5
