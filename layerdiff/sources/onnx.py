"""Runs an ONNX model on the CPU and yields every tensor in it, in slices that bound memory.

What is handed out is the result of every node, as ONNX Runtime computes it without graph optimisations. Of ops with
subgraphs (If, Loop, Scan) these are the results of the op itself; sequences, optionals and strings are run and not
handed out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff.errors import FeedError, MissingExtraError
from layerdiff.mil.features import UNBOUNDED, TensorSpec
from layerdiff.mil.feed import checked

try:
    import onnx
    import onnxruntime
except ImportError as error:
    raise MissingExtraError(error.name or "onnxruntime", extra="onnx", purpose="an ONNX model") from error

from layerdiff.sources.onnx_graph import Graph, declared, read_graph
from layerdiff.sources.onnx_outline import Structure
from layerdiff.sources.onnx_slices import Slices

if TYPE_CHECKING:
    from layerdiff.outline import Outline
    from layerdiff.records import Array
    from layerdiff.sources import Feed, Sink

SLICE_BYTES = 256 * 2**20
"""How large the tensors may be that are computed at once."""


@dataclass(frozen=True, eq=False)
class OnnxSource:
    """An ONNX model as a source; opened by `open`."""

    graph: Graph
    slice_bytes: int
    _slices: Slices

    @classmethod
    def open(cls, path: str | Path, *, slice_bytes: int = SLICE_BYTES) -> OnnxSource:
        """Opens a model; external data stays on the disk until a slice needs it.

        Args:
            path: the `.onnx` file.
            slice_bytes: how large the tensors may be that are computed at once; one tensor may be larger.

        Raises:
            CheckpointError: the file is missing, damaged, or its external data is.
        """
        graph = read_graph(path)
        return cls(graph, slice_bytes, Slices(graph, budget_bytes=slice_bytes))

    @property
    def description(self) -> dict[str, Any]:
        """Engine, versions, and what exported the model."""
        model = self.graph.model
        return {
            "engine": "onnxruntime",
            "versions": {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__},
            "graph_optimizations": "disabled",
            "path": str(self.graph.path),
            "producer": f"{model.producer_name} {model.producer_version}".strip(),
            "opsets": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
            "slice_bytes": self.slice_bytes,
        }

    def outline(self, feed: Feed) -> Outline:
        """The structure on this feed; shapes as inferred, or as run if this was the feed of the last run.

        Raises:
            FeedError: the feed does not fit the model.
        """
        shapes = {name: value.shape for name, value in self._checked(feed).items()}
        return self._structure.outline(self._slices.types(shapes))

    def stream(self, feed: Feed, sink: Sink, wanted: Collection[str] | None = None) -> None:
        """Hands the tensors to `sink`; see `trace`."""
        for name, value in self.trace(feed, wanted):
            sink(name, value)

    def trace(self, feed: Feed, wanted: Collection[str] | None = None) -> Iterator[tuple[str, Array]]:
        """The result of every node, or those of `wanted`, in order of execution; one slice is computed at a time.

        A name of `wanted` may be an alias, or an input or initializer, which comes first; other names are left out.

        Raises:
            FeedError: the feed does not fit the model; before anything runs.
            EngineError: ONNX Runtime cannot run a node; when it is reached.
        """
        arrays = self._checked(feed)
        names = {name: [name] for name in self.graph.producers} if wanted is None else self._asked(wanted)
        return self._trace(arrays, names)

    def _trace(self, feed: Mapping[str, Array], names: Mapping[str, list[str]]) -> Iterator[tuple[str, Array]]:
        for name in (*self.graph.inputs, *self.graph.initializers):
            for asked in names.get(name, ()):
                value = feed[name] if name in feed else self.graph.values(name)
                yield asked, value.copy()
        for name, value in self._slices.tensors(feed, [name for name in names if name in self.graph.producers]):
            for position, asked in enumerate(names[name]):
                yield asked, value if position == 0 else value.copy()

    def _asked(self, wanted: Collection[str]) -> dict[str, list[str]]:
        """Name of a tensor → the names under which it is wanted."""
        aliases = self._structure.aliases
        asked: dict[str, list[str]] = {}
        for name in sorted(set(wanted)):
            asked.setdefault(aliases.get(name, name), []).append(name)
        return asked

    @cached_property
    def _structure(self) -> Structure:
        return Structure(self.graph, self._slices)

    def _checked(self, feed: Feed) -> dict[str, Array]:
        """The feed as arrays of the declared dtypes; values of another width of the same kind are converted."""
        specs = {name: self._spec(name, feed) for name in self.graph.inputs}
        return checked(feed, specs, specs, where=str(self.graph.path))

    def _spec(self, name: str, feed: Feed) -> TensorSpec:
        """What an input accepts; an input of no declared rank accepts what it is given."""
        dtype, shape = declared(self.graph.inputs[name])
        if dtype == "object":
            raise FeedError(
                f"the input '{name}' takes no tensor of numbers.",
                where=str(self.graph.path),
                detail="expected inputs that are tensors of numbers, got a sequence, an optional or strings",
                action="export the model with tensors as inputs",
            )
        if shape is None:
            shape = (None,) * getattr(feed.get(name), "ndim", 0)
        return TensorSpec(
            name,
            "float32" if dtype == "bfloat16" else dtype,
            tuple(UNBOUNDED if length is None else length for length in shape),
        )
