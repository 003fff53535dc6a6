"""Compiled models: the same records and the same bits as the package they were compiled from."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from layerdiff import mil, quiet
from layerdiff.errors import PackageError
from layerdiff.mil.package import open_package
from tests.mil import mlmodelc
from tests.mil.same_program import assert_same_program

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 5)).astype(np.float32)
WEIGHT = RNG.standard_normal((4, 5)).astype(np.float32)


def recurrent(x):
    from coremltools.converters.mil import Builder as mb

    rng = np.random.default_rng(1)
    state = np.zeros((1, 3), np.float32)
    weights = {"weight_ih": rng.standard_normal((12, 5)), "weight_hh": rng.standard_normal((12, 3))}
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    bias = rng.standard_normal(12).astype(np.float32)
    return mb.lstm(x=mb.expand_dims(x=x, axes=[1]), initial_h=state, initial_c=state, bias=bias, **weights)


def palettized(x):
    from coremltools.converters.mil import Builder as mb

    weight = mb.constexpr_lut_to_dense(
        indices=np.arange(5, dtype=np.uint8), lut=np.linspace(-1, 1, 4, dtype=np.float32), shape=np.uint32([4, 5])
    )
    return mb.linear(x=x, weight=weight)


def blockwise(x):
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    data = (np.arange(20) % 16 - 8).reshape(4, 5).astype(types.np_int4_dtype)
    weight = mb.constexpr_blockwise_shift_scale(data=data, scale=np.float32([[0.5], [0.25], [2.0], [1.0]]))
    return mb.linear(x=x, weight=weight)


def values(x):
    """Constants of every kind: large ones in the file, empty, special and string ones in the text."""
    from coremltools.converters.mil import Builder as mb

    special = np.float32([[np.inf, -np.inf, 1e-45, -0.0, 3.4e38]])
    y = mb.linear(x=mb.maximum(x=x, y=special), weight=WEIGHT, name="dense")
    return mb.cast(x=mb.concat(values=[y, y, mb.cast(x=y, dtype="fp32")], axis=-1), dtype="int32")


def loop(x):
    from coremltools.converters.mil import Builder as mb

    def body(count, total):
        bigger = mb.cond(
            pred=mb.greater(x=mb.reduce_sum(x=total), y=np.float32(0)),
            _true_fn=lambda: mb.add(x=total, y=np.float32(1)),
            _false_fn=lambda: mb.sub(x=total, y=np.float32(1)),
        )
        return mb.add(x=count, y=np.int32(1)), bigger

    return mb.while_loop(_cond=lambda i, t: mb.less(x=i, y=np.int32(3)), _body=body, loop_vars=(np.int32(0), x))


PROGRAMS = [
    (recurrent, "iOS15", "float32"),
    (recurrent, "iOS17", "float16"),
    (palettized, "iOS16", "float16"),
    (blockwise, "iOS18", "float32"),
    (values, "iOS15", "float32"),
    (values, "iOS18", "float16"),
    (loop, "iOS17", "float32"),
]


def assert_same_bits(package, compiled, feed, **options):
    one, other = mil.load(package, **options), mil.load(compiled, **options)
    assert {n: str(s) for n, s in one.inputs.items()} == {n: str(s) for n, s in other.inputs.items()}
    assert list(one.inputs) == list(other.inputs)
    assert (dict(one.outputs), dict(one.states)) == (dict(other.outputs), dict(other.states))
    state, twin = (model.make_state() if model.states else None for model in (one, other))
    for _ in range(2):
        results, twins = one.predict(feed, state=state), other.predict(feed, state=twin)
        assert results.keys() == twins.keys()
        for name, value in results.items():
            assert (value.dtype, value.shape) == (twins[name].dtype, twins[name].shape)
            assert value.tobytes() == twins[name].tobytes()


@pytest.mark.parametrize(("function", "opset", "precision"), PROGRAMS, ids=lambda p: getattr(p, "__name__", p))
def test_a_compiled_model_is_the_package(build, tmp_path, function, opset, precision):
    package = build(function, opset=opset, precision=precision, x=X)
    for bare in (True, False):
        compiled = mlmodelc.compiled(package, tmp_path / f"{bare}.mlmodelc", bare=bare)
        assert_same_program(open_package(package).program, open_package(compiled).program)
        assert_same_bits(package, compiled, {"x": X})


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("metadata", [True, False])
def test_flexible_lengths_come_from_the_metadata_or_from_the_program(joints, tmp_path, precision, metadata):
    joint = joints[precision]
    compiled = mlmodelc.compiled(joint.package, tmp_path / "x.mlmodelc", metadata=metadata)
    model = mil.load(compiled)
    assert model.inputs["encoder"].shape == (1, 24, (1, 9))
    expected = mil.load(joint.package).predict(joint.feed)["logits"]
    assert model.predict(joint.feed)["logits"].tobytes() == expected.tobytes()


def test_inputs_come_in_the_order_of_the_description(joint, tmp_path):
    compiled = mlmodelc.compiled(joint.package, tmp_path / "x.mlmodelc")
    assert "func main<ios17>(tensor<fp32, [1, 20, ?]> decoder, tensor<fp32, [1, 24, ?]> encoder)" in (
        (compiled / "model.mil").read_text()
    )
    assert list(mil.load(compiled).inputs) == ["encoder", "decoder"]


@pytest.fixture(scope="module")
def stateful(tmp_path_factory):
    """A model with an accumulator, and one with two functions made of it."""
    folder = tmp_path_factory.mktemp("stateful")
    with quiet.third_party():
        import coremltools as ct
        import torch

        class Accumulator(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("total", torch.zeros(2, 5))

            def forward(self, x):
                self.total += x
                return self.total * 2

        class Halves(torch.nn.Module):
            def forward(self, x):
                return x * 0.5

        for name, module in (("accumulator", Accumulator()), ("halves", Halves())):
            ct.convert(
                torch.jit.trace(module.eval(), torch.zeros(2, 5), check_trace=False),
                inputs=[ct.TensorType(name="x", shape=(2, 5))],
                states=[ct.StateType(ct.TensorType(shape=(2, 5)), name="total")] if name == "accumulator" else None,
                outputs=[ct.TensorType(name="y")],
                minimum_deployment_target=ct.target.iOS18,
                skip_model_load=True,
            ).save(str(folder / f"{name}.mlpackage"))
        functions = ct.utils.MultiFunctionDescriptor(str(folder / "accumulator.mlpackage"))
        functions.add_function(str(folder / "halves.mlpackage"), "main", "halves")
        functions.default_function_name = "main"
        ct.utils.save_multifunction(functions, str(folder / "both.mlpackage"))
    return folder


def test_a_state_is_kept(stateful, tmp_path):
    compiled = mlmodelc.compiled(stateful / "accumulator.mlpackage", tmp_path / "x.mlmodelc")
    assert "state<tensor<fp16, [2, 5]>> total" in (compiled / "model.mil").read_text()
    assert_same_bits(stateful / "accumulator.mlpackage", compiled, {"x": X})
    model = mil.load(compiled)
    state = model.make_state()
    assert [model.predict({"x": np.ones((2, 5), np.float32)}, state=state)["y"][0, 0] for _ in range(3)] == [2, 4, 6]


@pytest.mark.parametrize("function", [None, "main", "halves"])
def test_every_function_is_found(stateful, tmp_path, function):
    compiled = mlmodelc.compiled(stateful / "both.mlpackage", tmp_path / "x.mlmodelc")
    assert_same_bits(stateful / "both.mlpackage", compiled, {"x": X}, function=function)


def pipelined(stateful, folder):
    """A pipeline of two programs, each with its own weights, as a compiled model."""
    folder.mkdir()
    for index in range(2):
        mlmodelc.compiled(stateful / "halves.mlpackage", folder / f"model{index}", metadata=False)
    first = folder / "model0/model.mil"
    first.write_text(first.read_text().replace("-> (y)", "-> (z)").replace("> y = ", "> z = "))
    second = folder / "model1/model.mil"
    second.write_text(second.read_text().replace("[2, 5]> x)", "[2, 5]> z)").replace("x = x", "x = z"))
    described = {"type": "MultiArray", "dataType": "Float32", "shape": "[2, 5]", "isOptional": "0"}
    schemas = {"inputSchema": [{"name": "x", **described}], "outputSchema": [{"name": "y", **described}]}
    (folder / "metadata.json").write_text(json.dumps([{"modelType": {"name": "MLModelType_pipeline"}, **schemas}]))
    return folder


def test_the_members_of_a_pipeline_are_folders(stateful, tmp_path):
    model = mil.load(pipelined(stateful, tmp_path / "x.mlmodelc"))
    assert model.predict({"x": X})["y"].tolist() == (X.astype(np.float16) * np.float16(0.25)).tolist()


def test_weights_of_a_member_are_in_its_own_folder(build, tmp_path):
    package = build(values, opset="iOS17", x=X)
    compiled = mlmodelc.compiled(package, tmp_path / "x.mlmodelc/model0", metadata=False).parent
    member = open_package(compiled).members["model0"]
    file = next(c.file for c in member.program.functions["main"].block.constants.values() if c.file)
    assert file.path == compiled / "model0/weights/weight.bin"


# ------------------------------------------------------------------ metadata.json


def features(tmp_path, *inputs):
    """The interface of a model whose inputs are described so."""
    folder = tmp_path / "x.mlmodelc"
    folder.mkdir()
    taken = ", ".join(f"{type_} {entry['name']}" for type_, entry in inputs)
    (folder / "model.mil").write_text(
        f"program(1.3) {{ func main<ios17>({taken}) {{ }} -> ({inputs[0][1]['name']}); }}"
    )
    (folder / "metadata.json").write_text(json.dumps([{"inputSchema": [entry for _, entry in inputs]}]))
    return open_package(folder).interfaces["main"].inputs


def test_enumerated_shapes_and_optional_inputs(tmp_path):
    entry = {"type": "MultiArray", "dataType": "Float32", "shape": "[1, 2]", "hasShapeFlexibility": "1"}
    ranged = {**entry, "name": "r", "shapeRange": "[[1, 1], [2, -1]]", "isOptional": "1"}
    listed = {**entry, "name": "e", "enumeratedShapes": "[[1, 2], [1, 4]]", "isOptional": "0"}
    found = features(tmp_path, ("tensor<fp32, [1, ?]>", ranged), ("tensor<fp32, [1, ?]>", listed))
    assert found["r"].shape == (1, (2, None))
    assert found["r"].optional
    assert found["e"].enumerated == ((1, 2), (1, 4))
    assert not found["e"].optional


def test_images_are_images(tmp_path):
    entry = {"name": "i", "type": "Image", "width": "4", "height": "3", "colorspace": "RGB", "isColor": "1"}
    found = features(tmp_path, ("tensor<fp32, [1, 3, 3, 4]>", {**entry, "hasSizeFlexibility": "0"}))
    assert found["i"].kind == "image"


@pytest.mark.parametrize(
    "content",
    [
        *["", "{", "[]", "[1]", '"x"', "[" * 100_000, "\0", '[{"specificationVersion": "x"}]'],
        *['[{"inputSchema": 1}]', '[{"inputSchema": [{"name": "encoder"}]}]', '[{"functions": {"name": 1}}]'],
        '[{"inputSchema": [{"name": "encoder", "type": "MultiArray", "shape": "[99999999999999999999]"}]}]',
        '[{"inputSchema": [{"name": "encoder", "type": "MultiArray", "shapeRange": "[[1]]"}]}]',
    ],
    ids=range(13),
)
def test_broken_metadata(joint, tmp_path, content):
    compiled = mlmodelc.compiled(joint.package, tmp_path / "x.mlmodelc")
    (compiled / "metadata.json").write_text(content)
    message = refusal(compiled)
    assert "in 'metadata.json' is broken" in message
    assert "delete 'metadata.json'" in message


# ------------------------------------------------------------------ what cannot be opened


def refusal(path) -> str:
    with pytest.raises(PackageError) as raised:
        mil.load(path)
    return str(raised.value)


def test_a_compiled_neural_network_is_told_how_to_become_an_ml_program(tmp_path):
    folder = tmp_path / "x.mlmodelc"
    folder.mkdir()
    (folder / "model.espresso.net").write_text("{}")
    assert "is a compiled neural network, not an ML Program" in refusal(folder)
    assert 'convert_to="mlprogram"' in refusal(folder)


def test_another_compiled_model_is_named(tmp_path):
    folder = tmp_path / "x.mlmodelc"
    folder.mkdir()
    (folder / "metadata.json").write_text('[{"modelType": {"name": "MLModelType_treeEnsembleClassifier"}}]')
    assert "is a compiled model of the type 'treeEnsembleClassifier'" in refusal(folder)


def test_an_empty_folder(tmp_path):
    (tmp_path / "x.mlmodelc").mkdir()
    assert "the program of 'x.mlmodelc' cannot be read" in refusal(tmp_path / "x.mlmodelc")


def test_damaged_text_names_file_line_and_column(joint, tmp_path):
    compiled = mlmodelc.compiled(joint.package, tmp_path / "x.mlmodelc")
    program = compiled / "model.mil"
    lines = program.read_text().splitlines()
    lines[6] = lines[6].replace(";", "", 1)
    program.write_text("\n".join(lines))
    message = refusal(compiled)
    assert f"damaged at line 8, column {len(lines[7]) - len(lines[7].lstrip()) + 1}" in message
    assert str(program) in message
    assert "expected ';', got 'tensor<" in message


def test_text_that_is_no_text(joint, tmp_path):
    compiled = mlmodelc.compiled(joint.package, tmp_path / "x.mlmodelc")
    (compiled / "model.mil").write_bytes(b"\xff\xfe\0")
    assert "cannot be read" in refusal(compiled)


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-70])])
def test_weights_that_are_missing_or_short(joint, tmp_path, damage):
    compiled = mlmodelc.compiled(joint.package, tmp_path / "x.mlmodelc")
    damage(compiled / "weights/weight.bin")
    assert "weight.bin" in refusal(compiled)


def test_weights_outside_of_the_model(joint, tmp_path):
    compiled = mlmodelc.compiled(joint.package, tmp_path / "x.mlmodelc")
    shutil.move(compiled / "weights", tmp_path / "weights")
    program = compiled / "model.mil"
    program.write_text(program.read_text().replace("@model_path/", "@model_path/../"))
    assert "outside of itself" in refusal(compiled)


def test_a_nested_pipeline_is_refused(tmp_path):
    (tmp_path / "x.mlmodelc/model0/model0").mkdir(parents=True)
    assert "a pipeline inside of a pipeline" in refusal(tmp_path / "x.mlmodelc")
