"""A part of a package as a package of its own: the ops between some tensors and one, and only their constants.

    from layerdiff import mil

    mil.extract("Joint.mlpackage", "logits", {"relu_hidden": hidden}, "part.mlpackage")

The tensors in front become inputs with the shapes of the values that they are given. A dtype that Core ML doesn't take
or return gets a cast. Weights are copied blob by blob, as they are stored.
"""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff.errors import FeedError
from layerdiff.mil import schema
from layerdiff.mil.exposure import opened, parsed
from layerdiff.mil.literal import MODEL_PATH
from layerdiff.mil.outputs import (
    FEATURE_DTYPES,
    MARK,
    Exposure,
    add_outputs,
    cast_ops,
    dtype_code,
    fresh,
    names_of,
    returned_dtype,
    select,
)
from layerdiff.mil.package import Package, specification_path
from layerdiff.mil.plan import Graph
from layerdiff.mil.weights import DTYPES, HEADER_BYTES, RECORD_BYTES, SENTINEL, VERSION, WeightFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

WEIGHTS = "weights/weight.bin"
FOLDER = "com.apple.CoreML"
MAIN = "main"
"""The name of the function of a package that has one."""


@dataclass(frozen=True)
class Part:
    """What was written."""

    path: Path
    feed: Mapping[str, Array]
    """Input of the part → the value that was given, in the dtype that the input takes."""
    output: str
    """The tensor's name among the outputs, which is another one where a cast stands behind it."""
    ops: tuple[str, ...]
    """The types of its ops in order, constants left out."""


def extract(path: str | Path, tensor: str, given: Mapping[str, Array], target: Path) -> Part:
    """Writes the ops that compute a tensor from others as a package.

    Args:
        path: an `.mlpackage` folder with an ML Program; of its default function.
        tensor: what the part returns.
        given: tensor → value, of any dtype that casts to the tensor's; what is in front of these is left out. Inputs of
            the function may be among them, and have to be where they are needed.
        target: the folder to write, which does not exist.

    Raises:
        FeedError: there is no tensor of a name, the tensor cannot be an output, it depends on a state or on an input
            that is not given, or a given one is not of numbers.
        PackageError: the package is missing, damaged, or no ML Program that can be edited.
        OSError: it cannot be written.
    """
    package, graph = opened(path)
    select(graph, [tensor])
    spec = parsed(specification_path(package.path))
    part = _Extraction(package, graph, spec, tensor, given)
    part.cut()
    (target / "Data" / FOLDER / "weights").mkdir(parents=True)
    blobs = list(_blobs(part.block))
    if blobs:
        _write_weights(package, blobs, target / "Data" / FOLDER / WEIGHTS)
    (target / "Data" / FOLDER / "model.mlmodel").write_bytes(spec.SerializeToString(deterministic=True))
    (target / "Manifest.json").write_text(json.dumps(_manifest(), indent=4) + "\n", encoding="utf-8")
    return Part(target, part.feed, part.output, tuple(o.type for o in part.block.operations if o.type != "const"))


@dataclass
class _Extraction:
    """The specification on its way from the whole package to the part, edited in place."""

    package: Package
    graph: Graph
    spec: Any
    tensor: str
    given: Mapping[str, Array]
    feed: dict[str, Array] = field(default_factory=dict)
    output: str = ""

    @property
    def function(self) -> Any:
        return self.spec.mlProgram.functions[MAIN]

    @property
    def block(self) -> Any:
        return self.function.block_specializations[self.function.opset]

    def cut(self) -> None:
        """Leaves of the program what computes the tensor from the given ones."""
        functions = self.spec.mlProgram.functions
        main = type(functions[self.graph.function.name])()
        main.CopyFrom(functions[self.graph.function.name])
        functions.clear()
        functions[MAIN].CopyFrom(main)
        needed, reached = self._needed()
        types = {output.name: output.type for op in self.block.operations for output in op.outputs}
        types |= {given.name: given.type for given in self.function.inputs}
        kept = [op for op in self.block.operations if any(output.name in needed for output in op.outputs)]
        fronts = [self._front(front, types[front]) for front in reached]
        function = self.function
        for opset in [opset for opset in function.block_specializations if opset != function.opset]:
            del function.block_specializations[opset]
        del function.inputs[:]
        function.inputs.extend(named for named, _ in fronts)
        operations = [op for _, casts in fronts for op in casts] + kept
        self.block.CopyFrom(schema.mil_module().Block(operations=operations))
        self._describe()

    def _needed(self) -> tuple[set[str], list[str]]:
        """The tensors that have to be computed, and the given ones that they are computed from, in order."""
        producers = {output.name: op for op in self.block.operations for output in op.outputs}
        inputs, states = {given.name for given in self.function.inputs}, set(self.graph.states)
        needed: set[str] = set()
        reached: dict[str, None] = {}
        pending = [self.tensor]
        while pending:
            name = pending.pop()
            if name in self.given and name != self.tensor:
                reached[name] = None
            elif name in states or name in inputs:
                kind = "the state" if name in states else "the input"
                raise FeedError(
                    f"the tensor '{self.tensor}' depends on {kind} '{name}', which is not given.",
                    where=self.graph.where,
                )
            elif name in producers and name not in needed:
                needed |= {output.name for output in producers[name].outputs}
                pending += _reads(producers[name])
        return needed, list(reached)

    def _front(self, name: str, type_: Any) -> tuple[Any, list[Any]]:
        """An input in the place of a tensor, and the cast behind it where Core ML takes no such dtype."""
        mil = schema.mil_module()
        value = self.given[name]
        dtype = self.graph.types[name].dtype
        taken = returned_dtype(dtype, self.graph.function.opset)
        if taken is None:
            raise FeedError(f"the tensor '{name}' is of dtype {dtype}, which no input has.", where=self.graph.where)
        shaped = mil.NamedValueType(name=name, type=_of_shape(type_, value.shape))
        if taken == dtype:
            self.feed[name] = value.astype(dtype)
            return shaped, []
        given = fresh(f"{name}_as_{taken}", names_of(self.graph))
        self.feed[given] = value.astype(dtype).astype(taken)  # rounded as the program would hold it
        casts = list(cast_ops(given, name, dtype, shaped.type))
        named = mil.NamedValueType(name=given, type=_of_shape(type_, value.shape, taken))
        return named, casts

    def _describe(self) -> None:
        """The interface of the part: its inputs, and the tensor as the only output."""
        description = self.spec.description
        metadata = {key: text for key, text in description.metadata.userDefined.items() if key.startswith("com.github")}
        description.Clear()
        description.metadata.userDefined.update(metadata)
        for named in self.function.inputs:
            array = description.input.add(name=named.name).type.multiArrayType
            array.dataType = array.ArrayDataType.Value(FEATURE_DTYPES[str(self.feed[named.name].dtype)])
            array.shape.extend(self.feed[named.name].shape)
        chosen = select(self.graph, [self.tensor]).exposures
        self.output = chosen[0].output if chosen else self.tensor
        if not chosen:  # it is an output of the package
            dtype = self.graph.types[self.tensor].dtype
            chosen = (Exposure(self.tensor, self.tensor, dtype, dtype),)
        add_outputs(self.spec, MAIN, chosen)
        del description.metadata.userDefined[MARK]


def _reads(operation: Any) -> Iterator[str]:
    """The names that an op reads, those inside of its blocks included; names that blocks define do no harm."""
    for argument in operation.inputs.values():
        yield from (binding.name for binding in argument.arguments if binding.WhichOneof("binding") == "name")
    for block in operation.blocks:
        yield from block.outputs
        for inner in block.operations:
            yield from _reads(inner)


def _of_shape(type_: Any, shape: Sequence[int], dtype: str | None = None) -> Any:
    """A tensor type with a fixed shape."""
    found = schema.mil_module().ValueType()
    found.CopyFrom(type_)
    tensor = found.tensorType
    del tensor.dimensions[:]
    for length in shape:
        tensor.dimensions.add().constant.size = length
    tensor.rank = len(shape)
    if dtype is not None:
        tensor.dataType = dtype_code(dtype)
    return found


# ------------------------------------------------------------------ weights


def _blobs(block: Any) -> Iterator[Any]:
    """Every reference to a weight file in a block and those inside of it."""
    for operation in block.operations:
        values = [*operation.attributes.values()]
        values += [
            b.value for a in operation.inputs.values() for b in a.arguments if b.WhichOneof("binding") == "value"
        ]
        yield from (value.blobFileValue for value in values if value.WhichOneof("value") == "blobFileValue")
        for inner in operation.blocks:
            yield from _blobs(inner)


def _write_weights(package: Package, blobs: Sequence[Any], path: Path) -> None:
    """Copies the blobs into a file of their own and points the references to it."""
    folder = specification_path(package.path).parent
    files: dict[str, WeightFile] = {}
    places: dict[tuple[str, int], int] = {}
    codes = {name: code for code, name in DTYPES.items()}
    with path.open("wb") as out:
        out.write(bytes(HEADER_BYTES))
        for blob in blobs:
            key = (blob.fileName, blob.offset)
            if key not in places:
                name = blob.fileName.removeprefix(MODEL_PATH)
                file = files.setdefault(name, WeightFile(folder / name))
                record = file.record(blob.offset)
                out.write(bytes(-out.tell() % 64))
                places[key] = out.tell()
                start = out.tell() + RECORD_BYTES
                head = struct.pack(
                    "<IIQQQ", SENTINEL, codes[record.dtype], record.size_bytes, start, record.padding_bits
                )
                out.write(head.ljust(RECORD_BYTES, b"\0"))
                out.write(file.raw(record))
            blob.fileName, blob.offset = MODEL_PATH + WEIGHTS, places[key]
        out.write(bytes(-out.tell() % 64))
        out.seek(0)
        out.write(struct.pack("<II", len(places), VERSION))


def _manifest() -> dict[str, Any]:
    """The table of contents of a package, as Core ML wants it; the same for every part."""
    items = {
        str(uuid.uuid5(uuid.NAMESPACE_URL, name)).upper(): {
            "author": FOLDER,
            "description": f"CoreML Model {what}",
            "name": name,
            "path": f"{FOLDER}/{name}",
        }
        for name, what in (("model.mlmodel", "Specification"), ("weights", "Weights"))
    }
    return {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": next(iter(items))}
