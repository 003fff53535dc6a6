"""`metadata.json`: what it says of each kind of feature, and that the description comes back from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layerdiff.binding.metadata_json import metadata_text
from layerdiff.mil import compiled, schema

FLOAT32, STATE16, RGB, HALF_GREY = 65568, 65552, 20, 40


def described() -> Any:
    """Features of every kind."""
    spec = schema.model_module().Model(specificationVersion=9)
    spec.mlProgram.SetInParent()
    description = spec.description
    description.metadata.userDefined["author"] = "Zoë"
    array = description.input.add(name="x", shortDescription="a signal").type.multiArrayType
    array.dataType = FLOAT32
    array.shape.extend([1, 3])
    for low, high in ((1, 1), (2, -1)):
        array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
    few = description.input.add(name="few").type
    few.isOptional = True
    few.multiArrayType.dataType = FLOAT32
    few.multiArrayType.shape.extend([4])
    for length in (4, 8):
        few.multiArrayType.enumeratedShapes.shapes.add(shape=[length])
    picture = description.input.add(name="picture").type.imageType
    picture.width, picture.height, picture.colorSpace = 8, 6, RGB
    for (low, high), axis in (((4, 8), "width"), ((3, 6), "height")):
        sizes = getattr(picture.imageSizeRange, f"{axis}Range")
        sizes.lowerBound, sizes.upperBound = low, high
    thumbnail = description.output.add(name="thumbnail").type.imageType
    thumbnail.width, thumbnail.height, thumbnail.colorSpace = 2, 1, HALF_GREY
    thumbnail.enumeratedSizes.sizes.add(width=4, height=2)
    description.output.add(name="label").type.stringType.SetInParent()
    description.output.add(name="number").type.int64Type.SetInParent()
    description.output.add(name="score").type.doubleType.SetInParent()
    description.output.add(name="scores").type.dictionaryType.int64KeyType.SetInParent()
    description.output.add(name="odds").type.dictionaryType.stringKeyType.SetInParent()
    state = description.state.add(name="total").type.stateType.arrayType
    state.dataType = STATE16
    state.shape.extend([2, 5])
    return spec


def test_what_is_said_of_a_feature() -> None:
    (entry,) = json.loads(metadata_text(described()))
    assert entry["inputSchema"][0] == {
        "name": "x",
        "isOptional": "0",
        "shortDescription": "a signal",
        "type": "MultiArray",
        "formattedType": "MultiArray (Float32 1 × 3)",
        "dataType": "Float32",
        "shape": "[1, 3]",
        "hasShapeFlexibility": "1",
        "shapeRange": "[[1, 1], [2, -1]]",
    }
    assert entry["modelType"] == {"name": "MLModelType_mlProgram"}
    assert (entry["specificationVersion"], entry["userDefinedMetadata"]) == (9, {"author": "Zoë"})
    assert [feature["type"] for feature in entry["outputSchema"]] == [
        *("Image", "String", "Int64", "Double", "Dictionary", "Dictionary")
    ]


def read_back(spec: Any, folder: Path) -> Any:
    """The specification of a compiled model with this metadata and an empty program."""
    (folder / "metadata.json").write_text(metadata_text(spec), encoding="utf-8")
    (folder / "model.mil").write_text("program(1.3) {}")
    return compiled.specification(folder)


def test_the_description_comes_back(tmp_path: Path) -> None:
    spec = described()
    found = read_back(spec, tmp_path)
    spec.description.ClearField("metadata")
    spec.description.input[0].ClearField("shortDescription")
    assert found.description == spec.description
    assert found.specificationVersion == 9


@pytest.mark.parametrize("default", ["first", "second"])
def test_functions_and_the_default_one(tmp_path: Path, default: str) -> None:
    spec = schema.model_module().Model()
    spec.mlProgram.SetInParent()
    for name in ("first", "second"):
        array = spec.description.functions.add(name=name).input.add(name=f"of_{name}").type.multiArrayType
        array.dataType = FLOAT32
    spec.description.defaultFunctionName = default
    found = read_back(spec, tmp_path).description
    assert found.functions == spec.description.functions
    assert found.defaultFunctionName == default
    assert [feature.name for feature in found.input] == [f"of_{default}"]
