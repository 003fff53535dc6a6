"""The description of a model as Core ML's compiler writes it beside the program, `metadata.json`.

Only what describes the interface: names, types, allowed shapes, functions, and what the author has added. The
compiler's statistics of ops and precisions are left out. `layerdiff.mil.compiled` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from layerdiff.mil import compiled

ARRAY_DTYPES = {code: name for name, code in compiled.ARRAY_DTYPES.items()}
"""Codes in `ArrayFeatureType` → names in the metadata."""

COLOR_SPACES = {code: name for name, code in compiled.COLOR_SPACES.items()}
"""Codes in `ImageFeatureType` → names in the metadata."""

KINDS = {"mlProgram": "MLModelType_mlProgram", "pipeline": "MLModelType_pipeline"}
"""Type of a specification → its name in the metadata."""


def metadata_text(spec: Any) -> str:
    """The content of `metadata.json`.

    Args:
        spec: a `Model` message with an ML Program or a pipeline.

    Raises:
        KeyError: it uses an array dtype or a colour space that has no name.
    """
    return json.dumps([_metadata(spec)], indent=2, ensure_ascii=False) + "\n"


def _metadata(spec: Any) -> dict[str, Any]:
    description = spec.description
    entry = {
        "metadataOutputVersion": "3.0",
        "specificationVersion": spec.specificationVersion,
        "modelType": {"name": KINDS[spec.WhichOneof("Type")]},
        "userDefinedMetadata": dict(sorted(description.metadata.userDefined.items())),
        "method": "predict",
        **_schemas(description),
    }
    if description.functions:
        functions = {function.name: _schemas(function) for function in description.functions}
        entry |= functions.get(description.defaultFunctionName, {})
        entry["functions"] = [{"name": name, **schemas} for name, schemas in functions.items()]
        entry["defaultFunctionName"] = description.defaultFunctionName
    return entry


def _schemas(description: Any) -> dict[str, Any]:
    """The interface of a model or of one function."""
    return {
        "inputSchema": [_feature(feature) for feature in description.input],
        "outputSchema": [_feature(feature) for feature in description.output],
        "stateSchema": [_feature(feature) for feature in description.state],
    }


def _feature(feature: Any) -> dict[str, str]:
    which = feature.type.WhichOneof("Type")
    optional = str(int(feature.type.isOptional))
    entry = {"name": feature.name, "isOptional": optional, "shortDescription": feature.shortDescription}
    return entry | (FEATURES[which](feature.type) if which else {})


def _multi_array(type_: Any) -> dict[str, str]:
    array = type_.multiArrayType
    lengths = " × ".join(map(str, array.shape))
    formatted = f"MultiArray ({ARRAY_DTYPES[array.dataType]}{f' {lengths}' if lengths else ''})"
    return {"type": "MultiArray", "formattedType": formatted, **_array(array)}


def _array(array: Any) -> dict[str, str]:
    entry = {"dataType": ARRAY_DTYPES[array.dataType], "shape": str(list(array.shape)), "hasShapeFlexibility": "0"}
    if ranges := _bounds(array.shapeRange.sizeRanges):
        entry |= {"hasShapeFlexibility": "1", "shapeRange": str(ranges)}
    if shapes := [list(shape.shape) for shape in array.enumeratedShapes.shapes]:
        entry |= {"hasShapeFlexibility": "1", "enumeratedShapes": str(shapes)}
    return entry


def _image(type_: Any) -> dict[str, str]:
    image = type_.imageType
    entry = {"type": "Image", "width": str(image.width), "height": str(image.height), "hasSizeFlexibility": "0"}
    entry["colorspace"] = COLOR_SPACES[image.colorSpace]
    which = image.WhichOneof("SizeFlexibility")
    if which == "imageSizeRange":
        sizes = _bounds([image.imageSizeRange.widthRange, image.imageSizeRange.heightRange])
        entry |= {"hasSizeFlexibility": "1", "sizeRange": str(sizes)}
    elif which == "enumeratedSizes":
        sizes = [[size.width, size.height] for size in image.enumeratedSizes.sizes]
        entry |= {"hasSizeFlexibility": "1", "enumeratedSizes": str(sizes)}
    return entry


def _bounds(ranges: Any) -> list[list[int]]:
    return [[size.lowerBound, size.upperBound] for size in ranges]


def _dictionary(type_: Any) -> dict[str, str]:
    integers = type_.dictionaryType.WhichOneof("KeyType") == "int64KeyType"
    return {"type": "Dictionary", "keyType": "Int64" if integers else "String"}


FEATURES: Mapping[str, Callable[[Any], dict[str, str]]] = {
    "multiArrayType": _multi_array,
    "stateType": lambda type_: {"type": "State", **_array(type_.stateType.arrayType)},
    "imageType": _image,
    "dictionaryType": _dictionary,
    "stringType": lambda type_: {"type": "String"},
    "int64Type": lambda type_: {"type": "Int64"},
    "doubleType": lambda type_: {"type": "Double"},
    "sequenceType": lambda type_: {"type": "Sequence"},
}
"""Type of a feature in the schema → its entries in the metadata."""
