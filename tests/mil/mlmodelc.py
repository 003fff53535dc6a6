"""Compiles packages into `.mlmodelc` folders in the form of shipped ones: text, metadata and weights.

Nothing here is of the engine's parser: values are decoded from the protobuf anew.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from layerdiff.mil import schema

MODEL_FOLDER = "Data/com.apple.CoreML"
WORDS = {
    **{1: "bool", 2: "string", 10: "fp16", 11: "fp32", 12: "fp64", 13: "bf16", 21: "int8", 22: "int16", 23: "int32"},
    **{24: "int64", 25: "int4", 31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64", 35: "uint4", 36: "uint2"},
    **{37: "uint1", 38: "uint6", 39: "uint3"},
}
NUMPY = {"fp16": "<f2", "fp32": "<f4", "fp64": "<f8"}
SUB_BYTE = {"int4": 4, "uint4": 4, "uint2": 2, "uint1": 1, "uint6": 6, "uint3": 3}
ARRAY_DTYPES = {65552: "Float16", 65568: "Float32", 65600: "Double", 131104: "Int32", 131080: "Int8"}


def specification(package: Path) -> Any:
    spec = schema.model_module().Model()
    spec.ParseFromString((package / MODEL_FOLDER / "model.mlmodel").read_bytes())
    return spec


def compiled(package: Path, folder: Path, *, bare: bool | None = None, metadata: bool = True) -> Path:
    """The compiled form of a package.

    Args:
        package: an `.mlpackage`.
        folder: where the `.mlmodelc` goes; it must not exist.
        bare: whether scalars are `int32(1)` or `tensor<int32, []>(1)`; by default as its opset has it.
        metadata: whether `metadata.json` is written.
    """
    spec = specification(package)
    folder.mkdir(parents=True)
    if spec.WhichOneof("Type") == "pipeline":
        for index, model in enumerate(spec.pipeline.models):
            member = folder / f"model{index}"
            member.mkdir()
            (member / "model.mil").write_text(Writer(model, bare).program())
            _copy_weights(package, member)
    else:
        (folder / "model.mil").write_text(Writer(spec, bare).program())
        _copy_weights(package, folder)
    if metadata:
        (folder / "metadata.json").write_text(json.dumps([_metadata(spec)], indent=2))
    (folder / "coremldata.bin").write_bytes(b"\xf6\x01\0\0")
    return folder


def _copy_weights(package: Path, folder: Path) -> None:
    weights = package / MODEL_FOLDER / "weights"
    if weights.is_dir():
        shutil.copytree(weights, folder / "weights")


class Writer:
    """Writes the program of one specification."""

    def __init__(self, spec: Any, bare: bool | None = None) -> None:
        self.spec = spec
        opsets = {f.opset for f in spec.mlProgram.functions.values()}
        self.bare = "CoreML8" in opsets if bare is None else bare
        self.lines: list[str] = []

    def program(self) -> str:
        string = self.word("string")
        info = '{{"coremlc-component-MIL", "3500.14.1"}, {"coremlc-version", "3500.32.1"}}'
        self.lines = [
            "program(1.3)" if self.bare else "program(1.0)",
            f"[buildInfo = dict<{string}, {string}>({info})]",
            "{",
        ]
        for name, function in self.spec.mlProgram.functions.items():
            self.function(name, function)
        return "\n".join([*self.lines, "}"])

    def function(self, name: str, function: Any) -> None:
        inputs = ", ".join(f"{self.type_(i.type)} {i.name}" for i in sorted(function.inputs, key=lambda i: i.name))
        opset = f"ios{int(function.opset.removeprefix('CoreML')) + 10}"
        self.lines.append(f"    func {name}<{opset}>({inputs}){self.flexible(name)} {{")
        self.block(function.block_specializations[function.opset])
        self.lines[-1] += ";"

    def flexible(self, name: str) -> str:
        """The attribute that tells which shapes the inputs of a function may have."""
        described = {f.name: f for f in self.spec.description.functions}.get(name, self.spec.description)
        arrays = {f.name: f.type.multiArrayType for f in described.input}
        ranges = {n: [[r.lowerBound, r.upperBound] for r in a.shapeRange.sizeRanges] for n, a in arrays.items()}
        shapes = {n: [list(s.shape) for s in a.enumeratedShapes.shapes] for n, a in arrays.items()}
        string = self.word("string")
        default = f"dict<{string}, tensor<int32, [?]>>"
        if any(ranges.values()):
            form, kind, given = f"dict<{string}, list<tensor<int32, [2]>, ?>>", "RangeDims", ranges
            entries = _pairs({n: r for n, r in ranges.items() if r})
        elif any(shapes.values()):
            form, kind, given = f"dict<{string}, {default}>", "EnumeratedShapes", shapes
            count = max(map(len, shapes.values()))
            sets = [_pairs({n: s[i] for n, s in shapes.items() if s}) for i in range(count)]
            entries = _pairs({f"{i:08x}": pairs for i, pairs in enumerate(sets)})
        else:
            return ""
        first = _pairs({n: list(arrays[n].shape) for n, allowed in given.items() if allowed})
        types = f"tuple<tuple<{string}, {default}>, tuple<{string}, {form}>>"
        return f' [FlexibleShapeInformation = {types}((("DefaultShapes", {first}), ("{kind}", {entries})))]'

    def block(self, block: Any) -> None:
        for operation in block.operations:
            self.operation(operation)
        self.lines.append(f"        }} -> ({', '.join(block.outputs)})")

    def operation(self, operation: Any) -> None:
        outputs = ", ".join(f"{self.type_(o.type)} {o.name}" for o in operation.outputs)
        inputs = ", ".join(f"{key} = {self.argument(operation.inputs[key])}" for key in sorted(operation.inputs))
        attributes = [f"{key} = {self.value(operation.attributes[key])}" for key in sorted(operation.attributes)]
        annotations = f"[{', '.join(attributes)}]" if attributes else ""
        self.lines.append(f"            {outputs + ' = ' if outputs else ''}{operation.type}({inputs}){annotations}")
        for block in operation.blocks:
            given = ", ".join(f"{self.type_(i.type)} {i.name}" for i in block.inputs)
            self.lines[-1] += f" block({given}) {{" if given else " {"
            self.block(block)
        self.lines[-1] += ";"

    def argument(self, argument: Any) -> str:
        bound = [b.name if b.WhichOneof("binding") == "name" else self.value(b.value) for b in argument.arguments]
        return bound[0] if len(bound) == 1 else f"({', '.join(bound)})"

    # ------------------------------------------------------------------ types and values

    def word(self, word: str) -> str:
        return word if self.bare else f"tensor<{word}, []>"

    def type_(self, type_: Any) -> str:
        which = type_.WhichOneof("type")
        if which == "stateType":
            return f"state<{self.type_(type_.stateType.wrappedType)}>"
        if which == "listType":
            return f"list<{self.type_(type_.listType.type)}, {_length(type_.listType.length)}>"
        tensor = type_.tensorType
        word = WORDS[tensor.dataType]
        if not tensor.dimensions:
            return self.word(word)
        return f"tensor<{word}, [{', '.join(map(_length, tensor.dimensions))}]>"

    def value(self, value: Any) -> str:
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            path, offset = f'{self.word("string")}("{blob.fileName}")', f"{self.word('uint64')}({blob.offset})"
            return f"{self.type_(value.type)}(BLOBFILE(path = {path}, offset = {offset}))"
        return f"{self.type_(value.type)}({self.literal(value)})"

    def literal(self, value: Any) -> str:
        if value.immediateValue.WhichOneof("value") == "list":
            return f"[{', '.join(self.literal(item) for item in value.immediateValue.list.values)}]"
        words = _words(value)
        for dimension in reversed(value.type.tensorType.dimensions):
            size = dimension.constant.size
            words = [f"[{', '.join(words[i : i + size])}]" for i in range(0, max(len(words), 1), max(size, 1))]
        return words[0]


def _words(value: Any) -> list[str]:
    """Every element of an immediate tensor, as it is written."""
    tensor = value.immediateValue.tensor
    word, which = WORDS[value.type.tensorType.dataType], tensor.WhichOneof("value")
    if which == "strings":
        return [json.dumps(text, ensure_ascii=False) for text in tensor.strings.values]
    if which != "bytes":
        values = list(getattr(tensor, which).values) if which else []
    elif word in SUB_BYTE:
        width = SUB_BYTE[word]
        stream = int.from_bytes(tensor.bytes.values, "little")
        count = int(np.prod([d.constant.size for d in value.type.tensorType.dimensions]))
        values = [stream >> i * width & (1 << width) - 1 for i in range(count)]
        values = [v - 16 if word == "int4" and v > 7 else v for v in values]
    else:
        values = np.frombuffer(tensor.bytes.values, NUMPY.get(word, word)).tolist()
    if word == "bool":
        return [str(bool(v)).lower() for v in values]
    return [hexadecimal(float(v)) if word in ("fp16", "fp32", "fp64") else str(v) for v in values]


def hexadecimal(value: float) -> str:
    """As printf's %a: `0x1.8p-3`."""
    return re.sub(r"\.?0*p", "p", value.hex()) if np.isfinite(value) else str(value)


def _length(dimension: Any) -> str:
    return str(dimension.constant.size) if dimension.WhichOneof("dimension") == "constant" else "?"


def _pairs(entries: dict[str, Any]) -> str:
    return "{" + ", ".join(f'{{"{name}", {value}}}' for name, value in entries.items()) + "}"


# ------------------------------------------------------------------ metadata.json


def _metadata(spec: Any) -> dict[str, Any]:
    description = spec.description
    entry = {"metadataOutputVersion": "3.0", "specificationVersion": spec.specificationVersion, **_schemas(description)}
    if description.functions:
        entry["functions"] = [{"name": f.name, **_schemas(f)} for f in description.functions]
        entry["defaultFunctionName"] = description.defaultFunctionName
        default = next(f for f in description.functions if f.name == description.defaultFunctionName)
        entry |= _schemas(default)
    kind = {"pipeline": "MLModelType_pipeline"}.get(spec.WhichOneof("Type"), "MLModelType_mlProgram")
    return entry | {"modelType": {"name": kind}, "userDefinedMetadata": {}, "method": "predict"}


def _schemas(description: Any) -> dict[str, Any]:
    return {
        "inputSchema": [_feature(f) for f in description.input],
        "outputSchema": [_feature(f) for f in description.output],
        "stateSchema": [_feature(f) for f in description.state],
    }


def _feature(feature: Any) -> dict[str, str]:
    which = feature.type.WhichOneof("Type")
    entry = {"name": feature.name, "isOptional": str(int(feature.type.isOptional)), "shortDescription": ""}
    if which == "imageType":
        image = feature.type.imageType
        space = {10: "Grayscale", 20: "RGB", 30: "BGR"}[image.colorSpace]
        entry |= {"type": "Image", "width": str(image.width), "height": str(image.height), "colorspace": space}
        return entry | {"hasSizeFlexibility": "0"}
    state = which == "stateType"
    array = feature.type.stateType.arrayType if state else feature.type.multiArrayType
    entry |= {"type": "State" if state else "MultiArray", "dataType": ARRAY_DTYPES[array.dataType]}
    entry |= {"shape": str(list(array.shape)), "hasShapeFlexibility": "0"}
    if ranges := [[r.lowerBound, r.upperBound] for r in array.shapeRange.sizeRanges]:
        entry |= {"hasShapeFlexibility": "1", "shapeRange": str(ranges)}
    if shapes := [list(s.shape) for s in array.enumeratedShapes.shapes]:
        entry |= {"hasShapeFlexibility": "1", "enumeratedShapes": str(shapes)}
    return entry
