"""Opening packages: the good ones, and one message for every way to be damaged."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import suppress

import numpy as np
import pytest

from layerdiff import mil, quiet
from layerdiff.errors import LayerdiffError, PackageError
from layerdiff.mil import schema
from layerdiff.mil.package import open_package, specification_path

SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture
def copy(joint, tmp_path):
    return shutil.copytree(joint.package, tmp_path / "copy.mlpackage")


def refusal(path) -> str:
    with pytest.raises(PackageError) as raised:
        mil.load(path)
    return str(raised.value)


def test_the_specification_is_found_through_the_manifest(joint):
    assert specification_path(joint.package) == joint.package / SPECIFICATION
    package = open_package(joint.package)
    assert list(package.program.functions) == ["main"]
    assert package.default_function == "main"


def test_a_bare_specification_finds_its_weights_beside_it(joint, copy):
    bare = mil.load(copy / SPECIFICATION)
    packaged = mil.load(joint.package)
    assert bare.predict(joint.feed)["logits"].tobytes() == packaged.predict(joint.feed)["logits"].tobytes()


def test_a_missing_package(tmp_path):
    assert "'no.mlpackage' does not exist" in refusal(tmp_path / "no.mlpackage")


def test_a_folder_without_manifest(copy):
    (copy / "Manifest.json").unlink()
    assert "has no Manifest.json" in refusal(copy)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"rootModelIdentifier": "x", "itemInfoEntries": {}}', "\0", "[" * 10**5]
)
def test_a_broken_manifest(copy, text):
    (copy / "Manifest.json").write_text(text)
    assert "manifest of the package is broken" in refusal(copy)


@pytest.mark.parametrize("path", ["com.apple.CoreML/other.mlmodel", "../../../../etc/passwd"])
def test_a_manifest_that_points_elsewhere(copy, path):
    manifest = json.loads((copy / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
    (copy / "Manifest.json").write_text(json.dumps(manifest))
    assert "does not exist" in refusal(copy) or "outside of itself" in refusal(copy)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_specification(copy, share):
    content = (copy / SPECIFICATION).read_bytes()
    (copy / SPECIFICATION).write_bytes(content[: int(len(content) * share)])
    assert "copy.mlpackage" in refusal(copy)


def test_a_specification_that_is_no_protobuf(copy):
    (copy / SPECIFICATION).write_bytes(b"\xff" * 100)
    assert "truncated or not a Core ML model" in refusal(copy)


def test_a_neural_network_is_told_how_to_become_an_ml_program(edited):
    message = refusal(edited(lambda spec: spec.neuralNetwork.SetInParent()))
    assert "is a 'neuralNetwork', not an ML Program" in message
    assert 'convert_to="mlprogram"' in message


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_weight_file_is_refused_before_anything_runs(copy, share):
    content = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(content[: int(len(content) * share)])
    message = refusal(copy)
    assert "'weight.bin' is truncated" in message
    assert f"got {int(len(content) * share)}" in message


def test_a_missing_weight_file(copy):
    (copy / WEIGHTS).unlink()
    assert "'weight.bin' cannot be read" in refusal(copy)


@pytest.mark.parametrize("name", ["@model_path/../../../../x", "@model_path/../../../x.bin", "@model_path/a\0b"])
def test_a_weight_file_outside_of_the_package(edited, name):
    def escape(spec):
        for operation in spec.mlProgram.functions["main"].block_specializations["CoreML7"].operations:
            if operation.attributes["val"].HasField("blobFileValue"):
                operation.attributes["val"].blobFileValue.fileName = name

    assert "outside of itself" in refusal(edited(escape))


@pytest.mark.parametrize("part", [SPECIFICATION, WEIGHTS, "Manifest.json"])
def test_whatever_bits_are_flipped_a_package_runs_or_is_refused(joint, copy, part):
    rng, content = random.Random(0), (copy / part).read_bytes()
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        (copy / part).write_bytes(damaged)
        with suppress(LayerdiffError):
            mil.load(copy).predict(joint.feed)


def test_an_unknown_function_lists_the_known_ones(joint):
    with pytest.raises(PackageError, match="has no function 'mian'") as raised:
        mil.load(joint.package, function="mian")
    assert "did you mean 'main'?" in str(raised.value)


def test_a_constant_that_is_not_of_its_type_names_the_file(edited):
    def shorten(spec):
        function = spec.mlProgram.functions["main"]
        for operation in function.block_specializations[function.opset].operations:
            value = operation.attributes["val"].immediateValue.tensor
            if value.WhichOneof("value") == "ints":
                del value.ints.values[:]

    message = refusal(edited(shorten))
    assert "does not hold what its type says" in message
    assert "edited.mlpackage" in message


def test_a_cyclic_program_names_the_package(edited):
    def turn(spec):
        function = spec.mlProgram.functions["main"]
        operations = function.block_specializations[function.opset].operations
        relu = next(o for o in operations if o.type == "relu")
        relu.inputs["x"].arguments[0].name = "logits"

    message = refusal(edited(turn))
    assert "'logits' is used before it is computed: the program is cyclic" in message
    assert "in edited.mlpackage, function 'main', op '" in message


@pytest.mark.parametrize("offset", [1, 128, 2**40])
def test_a_wrong_offset_of_a_constant(edited, offset):
    def move(spec):
        function = spec.mlProgram.functions["main"]
        for operation in function.block_specializations[function.opset].operations:
            if operation.attributes["val"].HasField("blobFileValue"):
                operation.attributes["val"].blobFileValue.offset = offset

    assert "weight.bin" in refusal(edited(move))


@pytest.mark.parametrize("in_file", [True, False])
def test_a_constant_of_an_absurd_size_is_refused_without_being_made(edited, in_file):
    def enlarge(spec):
        function = spec.mlProgram.functions["main"]
        for operation in function.block_specializations[function.opset].operations:
            value = operation.attributes["val"]
            dimensions = value.type.tensorType.dimensions
            if operation.type == "const" and len(dimensions) and value.HasField("blobFileValue") == in_file:
                for dimension in dimensions:
                    dimension.constant.size = 10**12

    message = refusal(edited(enlarge))
    assert ("weight.bin" if in_file else "does not hold what its type says") in message


# ------------------------------------------------------------------ functions


@pytest.fixture(scope="module")
def multifunction(convert, tmp_path_factory):
    """`add` adds 1 to `x`, float32[2]; `scale` triples `values`, float32[3, 1..4]; the latter is the default."""
    import torch

    class Add(torch.nn.Module):
        def forward(self, x):
            return x + 1

    class Scale(torch.nn.Module):
        def forward(self, values):
            return values * 3

    def flexible(ct):
        return [ct.TensorType(name="values", shape=(3, ct.RangeDim(1, 4)))]

    path = tmp_path_factory.mktemp("functions") / "two.mlpackage"
    options = {"minimum_deployment_target": "iOS18"}
    add = convert(Add(), torch.zeros(2), inputs=lambda ct: [ct.TensorType(name="x", shape=(2,))], **options)
    scale = convert(Scale(), torch.zeros(3, 2), inputs=flexible, **options)
    with quiet.third_party():
        import coremltools as ct

        functions = ct.utils.MultiFunctionDescriptor()
        functions.add_function(str(add), src_function_name="main", target_function_name="add")
        functions.add_function(str(scale), src_function_name="main", target_function_name="scale")
        functions.default_function_name = "scale"
        ct.utils.save_multifunction(functions, str(path))
    return path


def test_every_function_has_its_own_interface(multifunction):
    package = open_package(multifunction)
    assert package.default_function == "scale"
    taken = {name: [str(s) for s in i.inputs.values()] for name, i in package.interfaces.items()}
    assert taken == {"add": ["float32[2]"], "scale": ["float32[3, 1..4]"]}


def test_the_requested_function_or_the_default_one_runs(multifunction):
    (added,) = mil.load(multifunction, function="add").predict({"x": np.float32([1, 2])}).values()
    np.testing.assert_array_equal(added, [2, 3])
    (scaled,) = mil.load(multifunction).predict({"values": np.ones((3, 4), np.float32)}).values()
    np.testing.assert_array_equal(scaled, np.full((3, 4), 3.0))
    with pytest.raises(PackageError, match="has no function 'ad'") as raised:
        mil.load(multifunction, function="ad")
    assert "its functions: add, scale — did you mean 'add'?" in str(raised.value)


def test_a_default_function_that_is_not_there(multifunction, tmp_path):
    copy = shutil.copytree(multifunction, tmp_path / "copy.mlpackage")
    spec = schema.model_module().Model()
    spec.ParseFromString((copy / SPECIFICATION).read_bytes())
    spec.description.defaultFunctionName = "gone"
    (copy / SPECIFICATION).write_bytes(spec.SerializeToString())
    assert "has no function 'gone'" in refusal(copy)
