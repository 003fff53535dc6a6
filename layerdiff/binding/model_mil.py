"""The program of a specification as the text that Core ML's compiler makes of it, `model.mil`.

The form is that of compiled models as they are shipped; `layerdiff.mil.text` describes and reads it. What they show:
the inputs of functions and ops and the attributes of ops stand in alphabetical order, ops as in the package; programs
up to iOS17 are `program(1.0)` and spell a scalar `tensor<int32, []>(1)`, later ones `program(1.3)` and `int32(1)`.
No shipped model with nested blocks is known; they are written as they are read. Core ML was not seen to take any
of it. Nothing is executed here, no weight file is opened, and nothing is written to disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import numpy as np

from layerdiff.mil.literal import MODEL_PATH
from layerdiff.mil.program import DTYPES
from layerdiff.mil.scanner import WORDS
from layerdiff.mil.text import OPSETS
from layerdiff.mil.weights import from_bytes, size_in_bytes

SPELLED = {code: word for word, code in WORDS.items()}
"""Code of a data type in the schema → its word in the text."""

OPSET_WORDS = {name: word for word, name in OPSETS.items()}
"""Opset of a package → its word in the text."""

BARE_SINCE = 8
"""The opset from which scalars are spelt without `tensor`: CoreML8, iOS18."""

ESCAPES = str.maketrans(
    {
        **{chr(code): f"\\x{code:02x}" for code in range(32)},
        **{"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"},
    }
)
"""Characters that cannot stand in a string as they are."""

COMPILER = '{{"coremlc-component-MIL", "3500.14.1"}, {"coremlc-version", "3500.32.1"}}'
"""The versions that shipped models of the form written here name."""


@dataclass(frozen=True)
class ProgramText:
    """A program as text."""

    text: str
    """The content of `model.mil`."""
    weight_files: tuple[str, ...]
    """Paths of the weight files that it names, relative to its folder."""


def program_text(spec: Any, *, bare: bool | None = None) -> ProgramText:
    """The program of a specification.

    Args:
        spec: a `Model` message with an ML Program.
        bare: whether scalars are `int32(1)` or `tensor<int32, []>(1)`; by default as the opset has it.

    Raises:
        KeyError: it uses an opset or a data type that has no spelling.
        ValueError: a constant does not hold what its type says.
        UnsupportedOpError: constants of a dtype cannot be read.
    """
    writer = _Writer(spec, _is_bare(spec) if bare is None else bare)
    return ProgramText(writer.program(), tuple(writer.weight_files))


def hexadecimal(value: float) -> str:
    """A float as C's `%a` prints it: `0x1.8p-3`."""
    return re.sub(r"\.?0*p", "p", value.hex()) if isfinite(value) else str(value)


def _is_bare(spec: Any) -> bool:
    opsets = {function.opset for function in spec.mlProgram.functions.values()}
    return any(int(opset.removeprefix("CoreML")) >= BARE_SINCE for opset in opsets if opset in OPSET_WORDS)


class _Writer:
    """Carries the spelling and the lines through the recursion."""

    def __init__(self, spec: Any, bare: bool) -> None:
        self.spec, self.bare = spec, bare
        self.lines: list[str] = []
        self.weight_files: dict[str, None] = {}  # a dict keeps the order

    # ------------------------------------------------------------------ functions, blocks, ops

    def program(self) -> str:
        string = self.scalar("string")
        self.lines = [
            "program(1.3)" if self.bare else "program(1.0)",
            f"[buildInfo = dict<{string}, {string}>({COMPILER})]",
            "{",
        ]
        for name, function in self.spec.mlProgram.functions.items():
            self.function(name, function)
        return "\n".join([*self.lines, "}", ""])

    def function(self, name: str, function: Any) -> None:
        if function.opset not in function.block_specializations:
            raise ValueError(f"the function '{name}' has no block for its opset '{function.opset}'")
        inputs = self.named(sorted(function.inputs, key=lambda named: str(named.name)))
        header = f"    func {name}<{OPSET_WORDS[function.opset]}>({inputs})"
        self.lines.append(f"{header}{self.flexible_shapes(name)} {{")
        self.block(function.block_specializations[function.opset])
        self.lines[-1] += ";"

    def block(self, block: Any) -> None:
        for operation in block.operations:
            self.operation(operation)
        self.lines.append(f"        }} -> ({', '.join(block.outputs)})")

    def operation(self, operation: Any) -> None:
        results = self.named(operation.outputs)
        inputs = ", ".join(f"{key} = {self.argument(operation.inputs[key])}" for key in sorted(operation.inputs))
        attributes = [f"{key} = {self.value(operation.attributes[key])}" for key in sorted(operation.attributes)]
        annotations = f"[{', '.join(attributes)}]" if attributes else ""
        self.lines.append(f"            {results + ' = ' if results else ''}{operation.type}({inputs}){annotations}")
        for block in operation.blocks:
            taken = self.named(block.inputs)
            self.lines[-1] += f" block({taken}) {{" if taken else " {"
            self.block(block)
        self.lines[-1] += ";"

    def argument(self, argument: Any) -> str:
        bound = [b.name if b.WhichOneof("binding") == "name" else self.value(b.value) for b in argument.arguments]
        return bound[0] if len(bound) == 1 else f"({', '.join(bound)})"

    def named(self, messages: Iterable[Any]) -> str:
        """Inputs or results with their types."""
        return ", ".join(f"{self.type_(message.type)} {message.name}" for message in messages)

    # ------------------------------------------------------------------ shapes that a function takes

    def flexible_shapes(self, function: str) -> str:
        """The attribute that tells which shapes the inputs of a function may have; empty if each has one."""
        described = {f.name: f for f in self.spec.description.functions}.get(function, self.spec.description)
        arrays = {feature.name: feature.type.multiArrayType for feature in described.input}
        string = self.scalar("string")
        shapes = f"dict<{string}, tensor<int32, [?]>>"
        if ranges := _ranges(arrays):
            kind, form, allowed = "RangeDims", f"dict<{string}, list<tensor<int32, [2]>, ?>>", _pairs(ranges)
        elif ranges := _enumerated(arrays):
            kind, form, allowed = "EnumeratedShapes", f"dict<{string}, {shapes}>", _pairs(_by_index(ranges))
        else:
            return ""
        default = _pairs({name: list(arrays[name].shape) for name in ranges})
        types = f"tuple<tuple<{string}, {shapes}>, tuple<{string}, {form}>>"
        return f' [FlexibleShapeInformation = {types}((("DefaultShapes", {default}), ("{kind}", {allowed})))]'

    # ------------------------------------------------------------------ types and values

    def scalar(self, word: str) -> str:
        return word if self.bare else f"tensor<{word}, []>"

    def type_(self, type_: Any) -> str:
        which = type_.WhichOneof("type")
        if which == "stateType":
            return f"state<{self.type_(type_.stateType.wrappedType)}>"
        if which == "listType":
            return f"list<{self.type_(type_.listType.type)}, {_length(type_.listType.length)}>"
        if which == "tupleType":
            return f"tuple<{', '.join(self.type_(item) for item in type_.tupleType.types)}>"
        if which == "dictionaryType":
            return f"dict<{self.type_(type_.dictionaryType.keyType)}, {self.type_(type_.dictionaryType.valueType)}>"
        word, dimensions = SPELLED[type_.tensorType.dataType], type_.tensorType.dimensions
        return f"tensor<{word}, [{', '.join(map(_length, dimensions))}]>" if dimensions else self.scalar(word)

    def value(self, value: Any) -> str:
        if value.WhichOneof("value") != "blobFileValue":
            return f"{self.type_(value.type)}({self.literal(value)})"
        blob = value.blobFileValue
        self.weight_files[blob.fileName.removeprefix(MODEL_PATH)] = None
        path, offset = f"{self.scalar('string')}({_quoted(blob.fileName)})", f"{self.scalar('uint64')}({blob.offset})"
        return f"{self.type_(value.type)}(BLOBFILE(path = {path}, offset = {offset}))"

    def literal(self, value: Any) -> str:
        which = value.type.WhichOneof("type")
        if which == "listType":
            return f"[{', '.join(self.literal(item) for item in value.immediateValue.list.values)}]"
        if which == "tupleType":
            return f"({', '.join(self.literal(item) for item in value.immediateValue.tuple.values)})"
        if which != "tensorType":
            raise ValueError(f"a constant is a '{which}', expected a tensor, a list or a tuple")
        return _tensor(value.type.tensorType, value.immediateValue.tensor)


def _length(dimension: Any) -> str:
    if dimension.WhichOneof("dimension") == "constant":
        return str(dimension.constant.size)
    return "..." if dimension.unknown.variadic else "?"


# ------------------------------------------------------------------ literals


def _tensor(type_: Any, tensor: Any) -> str:
    """The values of an immediate tensor in brackets that nest as its shape does."""
    shape = [int(dimension.constant.size) for dimension in type_.dimensions]
    words = _words(DTYPES[type_.dataType], tuple(shape), tensor)
    if len(words) != prod(shape):
        raise ValueError(f"a constant of the shape {shape} holds {len(words)} values")
    for length in reversed(shape):
        words = [f"[{', '.join(words[i : i + length])}]" for i in range(0, max(len(words), 1), max(length, 1))]
    return words[0]


def _words(dtype: str, shape: tuple[int, ...], tensor: Any) -> list[str]:
    """Every value, as it is written."""
    which = tensor.WhichOneof("value")
    if which == "strings":
        return [_quoted(text) for text in tensor.strings.values]
    values: list[Any] = list(getattr(tensor, which).values) if which and which != "bytes" else []
    if which == "bytes":
        raw = np.frombuffer(bytearray(tensor.bytes.values), np.uint8)
        if len(raw) != size_in_bytes(dtype, shape):
            raise ValueError(f"a constant of the type {dtype}{[*shape]} holds {len(raw)} bytes")
        values = from_bytes(raw, dtype, shape).ravel().tolist()
    if dtype == "bool":
        return [str(bool(value)).lower() for value in values]
    return [hexadecimal(float(value)) if "float" in dtype else str(value) for value in values]


def _quoted(text: str) -> str:
    return f'"{text.translate(ESCAPES)}"'


def _pairs(entries: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{{{_quoted(name)}, {value}}}" for name, value in entries.items()) + "}"


# ------------------------------------------------------------------ shapes that the description allows


def _ranges(arrays: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """Input → smallest and largest length of each axis, for inputs of flexible lengths."""
    sizes = {name: array.shapeRange.sizeRanges for name, array in arrays.items()}
    return {name: [[size.lowerBound, size.upperBound] for size in found] for name, found in sizes.items() if found}


def _enumerated(arrays: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """Input → the shapes it may have, for inputs with several."""
    shapes = {name: array.enumeratedShapes.shapes for name, array in arrays.items()}
    return {name: [list(shape.shape) for shape in found] for name, found in shapes.items() if found}


def _by_index(enumerated: Mapping[str, list[list[int]]]) -> dict[str, str]:
    """Number of a set of shapes, as eight hexadecimal digits → the shape of each input in it."""
    count = max(map(len, enumerated.values()))
    sets = [{name: shapes[i] for name, shapes in enumerated.items() if i < len(shapes)} for i in range(count)]
    return {f"{index:08x}": _pairs(shapes) for index, shapes in enumerate(sets)}
