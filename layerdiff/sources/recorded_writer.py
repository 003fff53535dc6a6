"""Records what a source computes, to be compared later or on another machine.

Tensors are collected in memory until a shard's worth is there, then written; so memory is bounded by a shard, or by the
largest tensor; the index, some hundred bytes a tensor, is kept until the end. The folder is written beside its final
place and moved there when everything is in it. Whatever ends the recording early (an error, Ctrl-C) leaves what was
recorded until then, as a trace that says it is partial; a complete trace is never replaced by a partial one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import platform, python_version
from types import TracebackType
from typing import TYPE_CHECKING, Any

from layerdiff.errors import OutputError, TraceError
from layerdiff.sources.recorded_format import FORMAT, INDEX, encode_index, node_json, read_index
from layerdiff.sources.recorded_shards import ShardWriter, writing
from layerdiff.store import json_bytes, replace_folder, write_atomically

if TYPE_CHECKING:
    from layerdiff.outline import Outline, Weight
    from layerdiff.records import Array
    from layerdiff.sources import Feed, TensorSource

SHARD_BYTES = 64 * 2**20
"""How much is collected before a shard is written."""

PACKAGES = ("layerdiff", "numpy", "torch", "coremltools", "onnxruntime", "nemo_toolkit", "safetensors")
"""The distributions whose versions are recorded."""


def record(
    source: TensorSource,
    feeds: Iterable[tuple[str, Feed]],
    path: str | Path,
    *,
    names: Collection[str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Runs a source on every feed and records the tensors.

    Args:
        source: what computes them.
        feeds: label (the name of a clip, say; each only once) and feed of every call.
        path: where the trace is put; by custom its name ends in `.trace`.
        names: the tensors to record; None for all.
        extra: JSON values that are kept with the trace.

    Returns:
        Where the trace is: `path`.

    Raises:
        OutputError: it cannot be written there.
        TraceError: the source computes one name twice, or two calls have one label.
        Whatever the source raises, and KeyboardInterrupt, with a note (PEP 678) that says where the partial trace is.
    """
    writer = TraceWriter(path, description=source.description, names=names, extra=extra)
    with writer:
        for label, feed in feeds:
            writer.begin_call(label, feed, source.outline(feed))
            source.stream(feed, writer.add, names)
            writer.end_call()
    return writer.path


class TraceWriter:
    """Writes a trace call by call; a context manager, whose end decides what the trace is.

    Args:
        path: where the trace is put when it is complete.
        description: the source's, plain JSON values.
        names: the tensors that were asked for; None for all. Kept, so that a reader can say which are missing.
        extra: JSON values that are kept with the trace.
        shard_bytes: how much is collected before it is written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        description: Mapping[str, Any],
        names: Collection[str] | None = None,
        extra: Mapping[str, Any] | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.path = Path(path)
        """Where the trace is, or will be; after an error the place of the partial trace."""
        self._header = {
            "description": dict(description),
            "environment": _environment(),
            "settings": {"names": None if names is None else sorted(names), "extra": dict(extra or {})},
        }
        self._shard_bytes = shard_bytes
        self._calls: list[dict[str, Any]] = []
        self._structure = _Structure()

    def __enter__(self) -> TraceWriter:
        """Raises OutputError where the trace would replace something that is none, or cannot be written."""
        _require_replaceable(self.path)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=self.path.parent))
            self._folder.chmod(0o755)
        self._shards = ShardWriter(self._folder, self._shard_bytes)
        return self

    def begin_call(self, label: str, feed: Feed, outline: Outline) -> None:
        """Starts the recording of one run on one feed.

        Raises:
            TraceError: there is a call of this label.
            OutputError: the feed holds a dtype that cannot be recorded, or the disk is full.
        """
        if any(call["label"] == label for call in self._calls):
            raise TraceError(
                f"two calls are named '{label}'.",
                where=str(self.path),
                action="give every call a label of its own: a comparison finds calls by their labels",
            )
        key = f"{len(self._calls)}/feed/"
        inputs = [self._shards.put(name, value, key=key + name) for name, value in feed.items()]
        number = self._structure.add(outline, self._shards)
        self._names: set[str] = set()
        call = {"label": label, "complete": False, "outline": number, "feed": inputs, "tensors": []}
        self._calls.append(call)

    def add(self, name: str, value: Array) -> None:
        """Records a tensor of the current call; a sink for `TensorSource.stream`. The value is copied.

        Raises:
            TraceError: the call has a tensor of this name.
            OutputError: its dtype cannot be recorded, or the disk is full.
        """
        call = self._calls[-1]
        if name in self._names:
            raise TraceError(
                f"the tensor '{name}' was computed twice.",
                where=f"the call '{call['label']}'",
                action="this is a fault of the source: every tensor needs a name of its own",
            )
        stored = self._shards.put(name, value, key=f"{len(self._calls) - 1}/tensor/{name}")
        call["tensors"].append(stored)
        self._names.add(name)

    def end_call(self) -> None:
        """Says that the current call is complete."""
        self._calls[-1]["complete"] = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Puts the complete trace in its place; after an error a partial one, if a call had begun.

        Raises:
            OutputError: the complete trace cannot be written.
        """
        try:
            if error is None:
                self._publish(self.path, complete=True)
            elif self._calls:
                self._keep_partial(error)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _keep_partial(self, error: BaseException) -> None:
        try:
            self.path = _place_of_partial(self.path)
            _require_replaceable(self.path)
            self._publish(self.path, complete=False)
        except OutputError as second:
            error.add_note(f"nothing is kept of the trace: {second}")
        else:
            error.add_note(f"what was recorded is kept in '{self.path}', a partial trace")

    def _publish(self, path: Path, *, complete: bool) -> None:
        self._shards.flush()
        index = {
            **self._header,
            **self._structure.index(),
            "format": FORMAT,
            "complete": complete and all(call["complete"] for call in self._calls),
            "calls": self._calls,
            "shards": {name: {"bytes": size} for name, size in self._shards.sizes_bytes.items()},
        }
        write_atomically(self._folder / INDEX, encode_index(index))
        replace_folder(self._folder, path)


class _Structure:
    """Outlines and fingerprints of weights, each kept once however many calls share it."""

    def __init__(self) -> None:
        self._outlines: dict[bytes, dict[str, Any]] = {}
        self._weights: list[dict[str, Any]] = []
        self._numbers: dict[Weight, int] = {}  # Weights compare by identity; as keys they stay alive

    def add(self, outline: Outline, shards: ShardWriter) -> int:
        """The number of the outline; puts the fingerprints of weights that are new."""
        described = {
            "title": outline.title,
            "inputs": [node_json(node) for node in outline.inputs],
            "nodes": [node_json(node) for node in outline.nodes],
            "outputs": list(outline.outputs),
            "weights": [[key, self._weight(weight, shards)] for key, weight in outline.weights.items()],
        }
        key = json_bytes(described)
        self._outlines.setdefault(key, described)
        return list(self._outlines).index(key)

    def _weight(self, weight: Weight, shards: ShardWriter) -> int:
        if weight not in self._numbers:
            number = len(self._weights)
            print_ = weight.fingerprint
            tables = {"products": print_.products, "norms": print_.norms}
            stored = {
                kind: [
                    shards.put(weight.name, table, key=f"weight/{number}/{kind}/{axis}")
                    for axis, table in enumerate(axes)
                ]
                for kind, axes in tables.items()
            }
            self._weights.append(
                {
                    "name": weight.name,
                    "dtype": weight.dtype,
                    "shape": list(weight.shape),
                    "compression": weight.compression,
                    "fingerprint": {"shape": list(print_.shape), **stored},
                }
            )
            self._numbers[weight] = number
        return self._numbers[weight]

    def index(self) -> dict[str, Any]:
        """The title of the first outline, all outlines and all weights."""
        outlines = list(self._outlines.values())
        return {"title": outlines[0]["title"] if outlines else "", "outlines": outlines, "weights": self._weights}


def _environment() -> dict[str, str | None]:
    """Versions of what is installed; imports nothing."""
    return {"python": python_version(), "platform": platform()} | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _place_of_partial(path: Path) -> Path:
    """`path` itself, unless a trace is there that may be complete: then `x.partial.trace` beside `x.trace`."""
    if not (path / INDEX).is_file():
        return path
    try:
        complete = bool(read_index(path)["complete"])
    except TraceError:  # damaged or of another format: not ours to remove
        complete = True
    return path.with_name(f"{path.stem}.partial{path.suffix}") if complete else path


def _require_replaceable(path: Path) -> None:
    """Raises OutputError where something is that is no trace: it would be lost."""
    if path.exists() and not (path / INDEX).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise OutputError(
            f"'{path}' exists, and it is no recorded trace.",
            action="choose another place; a trace replaces only a trace",
        )
