"""An ML program as frozen records: program, functions, blocks, ops, types, constants.

Parsed from the protobuf once and never changed. Constants are not read here: a `Constant` knows where its
values are and decodes them on request, so that a program of any size is parsed in milliseconds. Types are
written `float16[1, 188, ?]`, where `?` is a dimension known only at run time.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol

import numpy as np

from layerdiff.errors import PackageError, UnsupportedOpError
from layerdiff.mil.weights import WeightFile, bits_per_value, from_bytes, size_in_bytes

DTYPES = {
    1: "bool",
    2: "str",
    10: "float16",
    11: "float32",
    12: "float64",
    13: "bfloat16",
    21: "int8",
    22: "int16",
    23: "int32",
    24: "int64",
    25: "int4",
    31: "uint8",
    32: "uint16",
    33: "uint32",
    34: "uint64",
    35: "uint4",
    36: "uint2",
    37: "uint1",
    38: "uint6",
    39: "uint3",
    40: "float8_e4m3fn",
    41: "float8_e5m2",
}
"""The data types of the MIL schema by their numpy names."""

CONSTEXPR = "constexpr_"
"""Prefix of the ops that decompress weights."""

CONVERT_AGAIN = "convert the model again"


@dataclass(frozen=True)
class TensorType:
    """dtype and shape of a tensor; `kind` tells states and lists of such tensors from plain ones."""

    dtype: str
    shape: tuple[int | None, ...] | None
    """None for a dimension known at run time; None as a whole if even the rank is."""
    kind: str = "tensor"
    """`tensor`, `list`, `state`, or another kind that only issue-specific ops use (`dictionary`, `tuple`)."""

    def __str__(self) -> str:
        dims = "..." if self.shape is None else ", ".join("?" if d is None else str(d) for d in self.shape)
        text = f"{self.dtype}[{dims}]"
        return text if self.kind == "tensor" else f"{self.kind}<{text}>"


@dataclass(frozen=True, eq=False)
class Constant:
    """A value written in the program: inline, in a weight file, or compressed."""

    name: str
    type: TensorType
    inline: Any = None
    """numpy array, string or tuple; None if it is in a file or compressed."""
    file: WeightFile | None = None
    offset: int = 0
    decompressed_by: Op | None = None
    """The `constexpr_*` op whose result it is; everything that op reads is a constant too."""
    result: int = 0
    """Which result of that op."""
    opset: str = ""
    """The opset that defines that op."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(d or 0 for d in self.type.shape or ())

    @property
    def size_bytes(self) -> int:
        """Bytes of the stored values."""
        return 0 if self.type.dtype == "str" else size_in_bytes(self.type.dtype, self.shape)

    def array(self) -> Any:
        """The values as they are stored: an array (a view of the file), a string, or a tuple of them.

        Raises:
            ValueError: it is stored in compressed form only; the engine computes its values.
        """
        if self.decompressed_by is not None:
            raise ValueError(f"'{self.name}' is compressed; its values are computed by {self.decompressed_by.type}")
        if self.file is None:
            return self.inline
        return self.file.array(self.offset, self.type.dtype, self.shape)


Argument = str | Constant
"""One thing bound to an input of an op: the name of a tensor, or a value."""


@dataclass(frozen=True)
class Named:
    """A tensor: an input of a function or block, or a result of an op."""

    name: str
    type: TensorType


@dataclass(frozen=True, eq=False)
class Op:
    """One operation."""

    type: str
    name: str
    inputs: Mapping[str, tuple[Argument, ...]]
    """Input name → what is bound to it; several where the input is a tuple."""
    outputs: tuple[Named, ...]
    blocks: tuple[Block, ...] = ()
    """Nested blocks of `cond` and `while_loop`."""
    attributes: Mapping[str, Constant] = field(default_factory=dict)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the tensors and states whose values it, or a block inside it, takes from around it; each once."""
        values = self.inputs if self.type != "write_state" else {"data": self.inputs.get("data", ())}
        own = [a for bound in values.values() for a in bound if isinstance(a, str)]
        inner = [name for block in self.blocks for name in block.reads]
        return tuple(dict.fromkeys([*own, *inner]))

    @property
    def written_states(self) -> tuple[str, ...]:
        """States that it, or an op inside it, gives a new value."""
        own = [a for a in self.inputs.get("input", ()) if isinstance(a, str)] if self.type == "write_state" else []
        return (*own, *(name for block in self.blocks for op in block.ops for name in op.written_states))


@dataclass(frozen=True, eq=False)
class Block:
    """A list of ops in execution order."""

    inputs: tuple[Named, ...]
    ops: tuple[Op, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Constant]
    """The results of its `const` and `constexpr_*` ops, which are no ops to us."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names that it takes from the blocks around it."""
        own = {named.name for named in self.inputs} | set(self.constants)
        own |= {output.name for op in self.ops for output in op.outputs}
        used = [name for op in self.ops for name in op.reads] + list(self.outputs)
        return tuple(dict.fromkeys(name for name in used if name not in own))


@dataclass(frozen=True, eq=False)
class Function:
    """An entry point of a program."""

    name: str
    opset: str
    """As in the package: CoreML5 (iOS15) … CoreML8 (iOS18)."""
    inputs: tuple[Named, ...]
    block: Block

    def __iter__(self) -> Iterator[Op]:
        return iter(self.block.ops)


@dataclass(frozen=True, eq=False)
class Program:
    """All functions of a package."""

    functions: Mapping[str, Function]


# ------------------------------------------------------------------ from protobuf


class WeightFiles(Protocol):
    """Opens a weight file by the name that the program gives it."""

    def __getitem__(self, name: str, /) -> WeightFile: ...


def parse(message: Any, files: WeightFiles) -> Program:
    """The records of a `MILSpec.Program` message.

    Args:
        message: the protobuf message.
        files: file name of a constant → its opened weight file.

    Raises:
        PackageError: the message contradicts itself, or a constant is outside its weight file.
    """
    return Program({name: _function(name, f, files) for name, f in message.functions.items()})


def _function(name: str, message: Any, files: WeightFiles) -> Function:
    block = message.block_specializations.get(message.opset)
    if block is None:
        raise PackageError(
            f"function '{name}' has no block for its opset '{message.opset}'.",
            detail=f"it has: {', '.join(message.block_specializations) or 'none'}",
            action=CONVERT_AGAIN,
        )
    parsed = _Parser(files, message.opset).block(block, {})
    return Function(name, message.opset, _named(message.inputs), parsed)


class _Parser:
    """Carries the weight files and the opset through the recursion."""

    def __init__(self, files: WeightFiles, opset: str) -> None:
        self.files, self.opset = files, opset

    def block(self, message: Any, around: MutableMapping[str, Constant]) -> Block:
        """A block, given the constants of the blocks around it."""
        constants: dict[str, Constant] = {}
        ops = []
        for operation in message.operations:
            if operation.type == "const":
                if len(operation.outputs) != 1 or "val" not in operation.attributes:
                    raise _malformed("an op 'const' has no result or no value.")
                name = operation.outputs[0].name
                constants[name] = self.constant(name, operation.attributes["val"])
            elif operation.type.startswith(CONSTEXPR):
                constants |= decompressed(self.op(operation, {}), ChainMap(constants, around), self.opset)
            else:
                ops.append(self.op(operation, ChainMap(constants, around)))
        return Block(_named(message.inputs), tuple(ops), tuple(message.outputs), constants)

    def op(self, message: Any, around: MutableMapping[str, Constant]) -> Op:
        outputs = _named(message.outputs)
        attributes = {key: self.constant(key, value) for key, value in message.attributes.items()}
        name = attributes["name"].inline if "name" in attributes else outputs[0].name if outputs else message.type
        inputs = {}
        for key, argument in message.inputs.items():
            if not argument.arguments:
                raise _malformed(f"nothing is bound to the input '{key}' of the op '{name}'.")
            inputs[key] = tuple(
                binding.name
                if binding.WhichOneof("binding") == "name"
                else self.constant(f"{name}.{key}", binding.value)
                for binding in argument.arguments
            )
        blocks = tuple(self.block(block, around) for block in message.blocks)
        return Op(message.type, str(name), dict(sorted(inputs.items())), outputs, blocks, attributes)

    def constant(self, name: str, value: Any) -> Constant:
        type_ = value_type(value.type)
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            constant = Constant(name, type_, file=self.files[blob.fileName], offset=blob.offset)
            constant.file.check(blob.offset, type_.dtype, constant.shape)  # type: ignore[union-attr]
            return constant
        return Constant(name, type_, inline=self.immediate(name, type_, value.immediateValue))

    def immediate(self, name: str, type_: TensorType, value: Any) -> Any:
        which = value.WhichOneof("value") or ("list" if type_.kind == "list" else None)  # an empty one is left out
        if which == "tensor":
            return _tensor_value(name, type_, value.tensor)
        if which in ("list", "tuple"):
            items = getattr(value, which).values
            return tuple(self.immediate(name, value_type(item.type), item.immediateValue) for item in items)
        raise UnsupportedOpError(
            f"the constant '{name}' is a '{which}'.", detail="expected a tensor, a list or a tuple"
        )


def decompressed(op: Op, constants: Mapping[str, Constant], opset: str) -> dict[str, Constant]:
    """The results of a `constexpr_*` op as constants.

    iOS16 writes the parameters of these ops as attributes, iOS18 as inputs; here they are inputs.

    Args:
        op: the op.
        constants: the constants that it may read.
        opset: the opset that defines it.

    Raises:
        PackageError: it reads something that is no constant.
    """
    inputs: dict[str, tuple[Argument, ...]] = {k: (v,) for k, v in op.attributes.items() if k != "name"}
    for key, bound in op.inputs.items():
        for argument in bound:
            if isinstance(argument, str) and argument not in constants:
                raise _malformed(f"the op '{op.name}' of type {op.type} reads '{argument}', which is no constant.")
        inputs[key] = tuple(constants[a] if isinstance(a, str) else a for a in bound)
    folded = replace(op, inputs=inputs)
    return {
        output.name: Constant(output.name, output.type, decompressed_by=folded, result=index, opset=opset)
        for index, output in enumerate(op.outputs)
    }


def _named(messages: Any) -> tuple[Named, ...]:
    return tuple(Named(message.name, value_type(message.type)) for message in messages)


def value_type(message: Any) -> TensorType:
    """The `TensorType` of a `ValueType` message."""
    which = message.WhichOneof("type")
    if which == "tensorType":
        return _tensor_type(message.tensorType, "tensor")
    if which == "stateType":
        return _tensor_type(message.stateType.wrappedType.tensorType, "state")
    if which == "listType":
        return _tensor_type(message.listType.type.tensorType, "list")
    return TensorType("str", None, {"dictionaryType": "dictionary", "tupleType": "tuple"}.get(which, "unknown"))


def _tensor_type(message: Any, kind: str) -> TensorType:
    dims = message.dimensions
    if any(d.WhichOneof("dimension") == "unknown" and d.unknown.variadic for d in dims):
        return TensorType(_dtype(message.dataType), None, kind)
    shape = tuple(int(d.constant.size) if d.WhichOneof("dimension") == "constant" else None for d in dims)
    return TensorType(_dtype(message.dataType), shape, kind)


def _dtype(code: int) -> str:
    if code not in DTYPES:
        raise PackageError(f"the program uses the unknown data type '{code}'.", action="update layerdiff")
    return DTYPES[code]


def _tensor_value(name: str, type_: TensorType, message: Any) -> Any:
    which = message.WhichOneof("value")
    shape = tuple(d or 0 for d in type_.shape or ())
    if which == "strings":
        strings = list(message.strings.values)
        if len(strings) != prod(shape):
            raise _wrong_value(name, type_, f"{len(strings)} strings")
        return strings[0] if not shape else np.array(strings, dtype=object).reshape(shape)
    if which == "bytes":
        raw = np.frombuffer(bytearray(message.bytes.values), np.uint8)
        if len(raw) != size_in_bytes(type_.dtype, shape):
            raise _wrong_value(name, type_, f"{len(raw)} bytes")
        try:
            return from_bytes(raw, type_.dtype, shape)
        except ValueError as error:  # no values, and lengths that no array can have
            raise _wrong_value(name, type_, str(error)) from error
    bits_per_value(type_.dtype)  # refuses what is not read, whatever dtypes numpy has learnt meanwhile
    values = getattr(message, which).values if which else []
    if len(values) != prod(shape):
        raise _wrong_value(name, type_, f"{len(values)} values")
    try:
        return np.array(list(values), dtype=type_.dtype).reshape(shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong_value(name, type_, f"what is no {type_.dtype}: {error}") from error


def _wrong_value(name: str, type_: TensorType, got: str) -> PackageError:
    return PackageError(
        f"the constant '{name}' does not hold what its type says.",
        detail=f"expected {type_}, got {got}",
        action=CONVERT_AGAIN,
    )


def _malformed(what: str) -> PackageError:
    return PackageError(what, action=CONVERT_AGAIN)
