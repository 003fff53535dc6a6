"""How a recorded trace lies on disk: what its writer and its reader agree on.

A folder of `index.json` and shards `tensors-00001.safetensors`, `tensors-00002.safetensors` …

The index is `{"sha256": …, "index": …}`, so that no change of it goes unnoticed; the inner part holds

    format, complete, title, description, environment, settings
    shards    {file: {"bytes": size}}
    weights   [{name, dtype, shape, compression, fingerprint: {shape, products: [tensor], norms: [tensor]}}]
    outlines  [{title, inputs: [node], nodes: [node], outputs, weights: [[key, number of the weight]]}]
    calls     [{label, complete, outline: number, feed: [tensor], tensors: [tensor]}]

where a tensor is where its values lie and what they are (`Stored`). Order is kept in lists, never in keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from layerdiff.errors import TraceError
from layerdiff.outline import Node
from layerdiff.store import json_bytes, sha256_json

FORMAT = 1
"""The version of the format; another one is refused."""

INDEX = "index.json"

DTYPES = {
    "bool": "BOOL",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
"""numpy name of a dtype that can be recorded → its name in safetensors."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a trace: where its values lie, and what they are."""

    name: str
    shard: str
    """The name of the file."""
    key: str
    """The tensor's key in that file; unlike `name`, unique in the whole trace."""
    dtype: str
    """numpy name."""
    shape: tuple[int, ...]
    sha256: str
    """`store.sha256_array` of its values."""

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Stored:
        return cls(**{**value, "shape": tuple(value["shape"])})


def shard_name(number: int) -> str:
    """The file name of a shard; `number` counts from 1."""
    return f"tensors-{number:05d}.safetensors"


def node_json(node: Node) -> dict[str, Any]:
    """All fields of a node as JSON values."""
    return {field.name: getattr(node, field.name) for field in fields(Node)} | {"weights": dict(node.weights)}


def node_from_json(value: Mapping[str, Any]) -> Node:
    """The node of which `node_json` made `value`."""
    shape = value["shape"]
    lists = {"inputs": tuple(value["inputs"]), "aliases": tuple(value["aliases"])}
    return Node(**{**value, **lists, "shape": None if shape is None else tuple(shape)})


def encode_index(index: Mapping[str, Any]) -> bytes:
    """The bytes of `index.json`."""
    plain = json.loads(json.dumps(index, default=asdict))  # as it will be read: keys are strings, tuples are lists
    return json_bytes({"index": plain, "sha256": sha256_json(plain)}) + b"\n"


def read_index(folder: Path) -> dict[str, Any]:
    """The inner part of the index of a trace.

    Raises:
        TraceError: there is none, it is damaged, or of another version of the format.
    """
    path = folder / INDEX
    if not path.is_file():
        raise TraceError(
            f"'{folder}' is no recorded trace.",
            detail=f"expected a folder that holds {INDEX}, got {'a folder without it' if folder.is_dir() else 'none'}",
            action="give the folder that 'layerdiff capture' wrote; one whose writer was killed cannot be read",
        )
    try:
        document = json.loads(path.read_bytes())
        index = document["index"]
        intact = document["sha256"] == sha256_json(index)
        version = index["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder, f"{INDEX} cannot be read: {type(error).__name__}: {error}") from error
    if not intact:
        raise damaged(folder, f"{INDEX} is not what was written: its sha256 is another")
    if version != FORMAT:
        raise TraceError(
            f"'{folder}' is a trace of format '{version}', which this version of layerdiff does not read.",
            detail=f"expected format {FORMAT}, got {version}",
            action="record it again, or read it with the version of layerdiff that wrote it",
        )
    return dict(index)


def damaged(folder: Path, detail: str) -> TraceError:
    """The error for a trace whose files are not what was written."""
    return TraceError(
        f"the recorded trace '{folder.name}' is damaged.",
        where=str(folder),
        detail=detail,
        action="copy it again from where it was recorded, or record it again",
    )
