"""Opens an `.mlmodelc`, what Core ML's compiler makes of a package, as the specification that it was made from.

    model.mil            the program as text
    weights/weight.bin   the constants, byte for byte those of the package
    metadata.json        names, dtypes and allowed shapes of inputs, outputs and states
    model0/, model1/ …   the members of a pipeline, each with its own model.mil and weights
    coremldata.bin       the same in a form that nobody has documented; not read

The specification then takes the way of any other, so that both kinds of model are checked and run alike. What a
compiled model does not tell in readable form is lost: the values of optional inputs that are not given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from layerdiff.errors import PackageError
from layerdiff.mil import schema
from layerdiff.mil.text import Text, flexible_shapes, read

SUFFIX = ".mlmodelc"
PROGRAM, METADATA = "model.mil", "metadata.json"

ARRAY_DTYPES = {"Float16": 65552, "Float32": 65568, "Double": 65600, "Int8": 131080, "Int32": 131104}
"""dtypes of `metadata.json` with their codes in `ArrayFeatureType`."""

COLOR_SPACES = {"Grayscale": 10, "RGB": 20, "BGR": 30, "Grayscale16Half": 40}
"""Colour spaces of `metadata.json` with their codes in `ImageFeatureType`."""

COMPILE_AGAIN = "copy the whole .mlmodelc again, or give the .mlpackage that it was compiled from"
DAMAGED_JSON = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


def is_compiled(path: Path) -> bool:
    """Whether this is a compiled model, whatever it holds."""
    return path.is_dir() and (path.suffix == SUFFIX or (path / PROGRAM).is_file())


def specification(folder: Path) -> Any:
    """The `Model` message of a compiled model.

    Args:
        folder: an existing `.mlmodelc`.

    Raises:
        PackageError: it holds no program, or one that is damaged.
    """
    metadata = _metadata(folder / METADATA)
    model = schema.model_module().Model()
    try:
        _describe(model.description, metadata)
        model.specificationVersion = int(metadata.get("specificationVersion", 0))
    except DAMAGED_JSON as error:
        raise _broken(folder / METADATA, error) from error
    if (folder / "model0").is_dir() and not (folder / PROGRAM).exists():
        _read_members(model.pipeline, folder)
    else:
        _read_program(model, folder, metadata, "")
    return model


def _read_members(pipeline: Any, folder: Path) -> None:
    """The models of a pipeline; what they take and return stands only in their programs."""
    index = 0
    while (member := folder / f"model{index}").is_dir():
        if (member / "model0").is_dir():
            raise PackageError(
                "a pipeline inside of a pipeline is not read.", where=str(member), action="give the inner model alone"
            )
        _read_program(pipeline.models.add(), member, {}, f"{member.name}/")
        index += 1


def _read_program(model: Any, folder: Path, metadata: Mapping[str, Any], model_path: str) -> None:
    text = _text(folder, metadata)
    try:
        found = read(text, model_path)
        model.mlProgram.CopyFrom(found.message)
        if not metadata:
            _describe_flexible(model.description, found)
    except PackageError as error:
        raise PackageError(
            error.what, where=str(folder / PROGRAM), detail=error.detail, action=error.action or COMPILE_AGAIN
        ) from error
    _sort_inputs(model)


def _text(folder: Path, metadata: Mapping[str, Any]) -> str:
    path = folder / PROGRAM
    if not path.is_file() and (kind := _other_kind(folder, metadata)):
        raise PackageError(
            f"'{folder.name}' is a compiled {kind}, not an ML Program.",
            where=str(folder),
            detail=f"expected {PROGRAM}",
            action='convert the original model with coremltools.convert(model, convert_to="mlprogram")',
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise PackageError(
            f"the program of '{folder.name}' cannot be read.",
            where=str(path),
            detail=f"{type(error).__name__}: {error}",
            action=COMPILE_AGAIN,
        ) from error


def _other_kind(folder: Path, metadata: Mapping[str, Any]) -> str | None:
    """What a compiled model without program is: as its metadata says, or as its files show."""
    if any(folder.glob("model.espresso.*")) or (folder / "neural_network_optionals").exists():
        return "neural network"
    kind = metadata.get("modelType")
    name = str(kind.get("name", "")).removeprefix("MLModelType_") if isinstance(kind, dict) else ""
    return f"model of the type '{name}'" if name and name != "mlProgram" else None


# ------------------------------------------------------------------ metadata.json


def _metadata(path: Path) -> Mapping[str, Any]:
    """The entry of the model; empty if there is no metadata, which only describes what the program declares."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entry = content[0] if isinstance(content, list) else content
        if not isinstance(entry, dict):
            raise ValueError(f"expected an object, got {type(entry).__name__}")
    except FileNotFoundError:
        return {}
    except (OSError, IndexError, *DAMAGED_JSON) as error:
        raise _broken(path, error) from error
    return entry


def _broken(path: Path, error: Exception) -> PackageError:
    return PackageError(
        f"the description of the model in '{path.name}' is broken.",
        where=str(path),
        detail=f"{type(error).__name__}: {error}"[:500],
        action=f"delete '{path.name}' to go by what the program declares, or {COMPILE_AGAIN}",
    )


def _describe(description: Any, metadata: Mapping[str, Any]) -> None:
    """Fills a `ModelDescription` from the metadata."""
    _describe_interface(description, metadata)
    for entry in metadata.get("functions", []):
        _describe_interface(description.functions.add(name=str(entry["name"])), entry)
    description.defaultFunctionName = str(metadata.get("defaultFunctionName", ""))


def _describe_interface(message: Any, entry: Mapping[str, Any]) -> None:
    for schema_name, features in (("input", message.input), ("output", message.output), ("state", message.state)):
        for feature in entry.get(f"{schema_name}Schema", []):
            _fill_feature(features.add(), feature)


def _fill_feature(message: Any, entry: Mapping[str, Any]) -> None:
    message.name = str(entry["name"])
    message.type.isOptional = str(entry.get("isOptional", "0")) == "1"
    fill = FEATURES.get(str(entry["type"]))
    if fill is not None:
        fill(message.type, entry)


def _multi_array(type_: Any, entry: Mapping[str, Any]) -> None:
    _fill_array(type_.multiArrayType, entry)


def _state(type_: Any, entry: Mapping[str, Any]) -> None:
    _fill_array(type_.stateType.arrayType, entry)


def _fill_array(array: Any, entry: Mapping[str, Any]) -> None:
    array.dataType = ARRAY_DTYPES.get(str(entry.get("dataType")), 0)
    array.shape.extend(_integers(entry.get("shape", "[]")))
    for key in ("shapeRange", "enumeratedShapes"):
        if key in entry:
            _allow(array, key, [_integers(sizes) for sizes in _list(entry[key])])


def _allow(array: Any, key: str, sizes: list[list[int]]) -> None:
    """Adds the allowed shapes to an `ArrayFeatureType`."""
    if key == "shapeRange":
        for low, high in sizes:
            array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
    else:
        for shape in sizes:
            array.enumeratedShapes.shapes.add(shape=shape)


def _image(type_: Any, entry: Mapping[str, Any]) -> None:
    image = type_.imageType
    image.width, image.height = int(entry["width"]), int(entry["height"])
    image.colorSpace = COLOR_SPACES.get(str(entry.get("colorspace")), 0)
    if "sizeRange" in entry:
        width, height = (_integers(sizes) for sizes in _list(entry["sizeRange"]))
        image.imageSizeRange.widthRange.lowerBound, image.imageSizeRange.widthRange.upperBound = width
        image.imageSizeRange.heightRange.lowerBound, image.imageSizeRange.heightRange.upperBound = height
    for size in _list(entry.get("enumeratedSizes", "[]")):
        image.enumeratedSizes.sizes.add(**dict(zip(("width", "height"), _integers(size), strict=True)))


def _dictionary(type_: Any, entry: Mapping[str, Any]) -> None:
    key = "int64KeyType" if entry.get("keyType") == "Int64" else "stringKeyType"
    getattr(type_.dictionaryType, key).SetInParent()


FEATURES: Mapping[str, Callable[[Any, Mapping[str, Any]], None]] = {
    "MultiArray": _multi_array,
    "State": _state,
    "Image": _image,
    "Dictionary": _dictionary,
    "String": lambda type_, entry: type_.stringType.SetInParent(),
    "Int64": lambda type_, entry: type_.int64Type.SetInParent(),
    "Double": lambda type_, entry: type_.doubleType.SetInParent(),
}
"""Feature type of `metadata.json` → what fills the `FeatureType` message."""


def _list(value: Any) -> list[Any]:
    """A list that stands in the metadata as a string."""
    found = json.loads(value) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise ValueError(f"expected a list, got '{value}'")
    return found


def _integers(value: Any) -> list[int]:
    return [int(item) for item in _list(value)]


# ------------------------------------------------------------------ what the program itself says


def _describe_flexible(description: Any, text: Text) -> None:
    """One `FunctionDescription` for each function, with the flexible inputs only."""
    for name, attributes in text.attributes.items():
        function = description.functions.add(name=name)
        for input_name, (key, sizes) in flexible_shapes(attributes).items():
            feature = function.input.add(name=input_name)
            try:
                _allow(feature.type.multiArrayType, key, [_integers(shape) for shape in sizes])
            except DAMAGED_JSON as error:
                raise PackageError(
                    f"the shapes that the input '{input_name}' allows are damaged.", detail=f"{sizes}"[:200]
                ) from error


def _sort_inputs(model: Any) -> None:
    """Puts inputs in the order of the description: the compiler sorts them by name."""
    described = {f.name: f for f in model.description.functions}
    for name, function in model.mlProgram.functions.items():
        listed = described.get(name, model.description)
        order = {f.name: index for index, f in enumerate([*listed.input, *listed.state])}
        function.inputs.sort(key=lambda named, order=order: order.get(named.name, len(order)))
