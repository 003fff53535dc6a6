"""Opens the models of a configuration that are compared as a whole: the reference's, and each candidate's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from layerdiff.capture import walk_reference
from layerdiff.config import parts_of
from layerdiff.installed import package_path
from layerdiff.run.candidates import build_packages, load_program, wants_native
from layerdiff.run.inputs import find_points
from layerdiff.run.runs import PackageRuns, PlainRuns, Runs
from layerdiff.sources.coreml_model import PackageSource

if TYPE_CHECKING:
    from layerdiff.config import CandidateConfig, Config
    from layerdiff.outline import Outline
    from layerdiff.progress import Progress
    from layerdiff.records import Array, Clip, Component
    from layerdiff.sources import Feed, Sink, TensorSource
    from layerdiff.sources.nemo import NemoSource, Tokenizer

WHOLE = "model"
"""The component of a model that is compared as one."""


@dataclass(frozen=True)
class References:
    """The models that count as right, by component."""

    parts: Mapping[str, TensorSource]
    description: Mapping[str, Any]
    nemo: Any = None
    """The NeMo model that they are parts of, if they are."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Makes texts of the NeMo model's tokens."""
        return self.source.tokenizer if self.nemo is not None and hasattr(self.nemo, "joint") else None

    @property
    def source(self) -> NemoSource:
        """The NeMo model as a transducer, to be converted."""
        from layerdiff.sources.nemo import NemoSource

        return NemoSource.from_model(self.nemo)


def open_references(config: Config, *, progress: Progress) -> References:
    """Opens the reference of a configuration, component by component.

    Raises:
        LayerdiffError: a model is missing, damaged, or can't be used as a reference.
    """
    entry = config.reference
    if entry.nemo is not None:
        return _nemo_parts(entry.nemo, parts_of(entry), progress=progress)
    given = getattr(entry, entry.kind)
    texts = given if isinstance(given, dict) else {WHOLE: given}
    parts = {name: open_source(entry.kind, text) for name, text in texts.items()}
    described: dict[str, Any] = {"kind": entry.kind}
    if len(parts) == 1:
        described |= next(iter(parts.values())).description
    else:
        described["parts"] = {name: dict(source.description) for name, source in parts.items()}
    return References(parts, described)


def _nemo_parts(name: str, components: Collection[str], *, progress: Progress) -> References:
    from layerdiff.sources.nemo_asr import component_of, open_component

    first, *others = components
    opened = open_component(name, first, walk=_walk, progress=progress)
    joint, as_found = getattr(opened.model, "joint", None), {}
    if joint is not None:
        as_found = {"log_softmax_as_found": joint.log_softmax}
        joint.log_softmax = False  # None would normalise on a CPU; what is exported has to return the raw logits
    found = {first: opened} | {part: component_of(opened.model, part, name=name, walk=_walk) for part in others}
    description = dict(opened.description) | as_found
    if others:
        description |= {"component": "whole"}
    return References(found, description, opened.model)


def _walk(reference: NemoSource, clip: Clip, until: Component) -> Iterator[Any]:
    """The calls of the reference's greedy path through a clip."""
    return walk_reference(reference, clip, tensors={}, until=until, find_points=partial(find_points, reference, "path"))


def open_source(kind: str, text: str) -> TensorSource:
    """Opens one model that is not a NeMo model.

    Args:
        kind: `torch`, `onnx`, `trace` or `coreml`.
        text: what the configuration says of it.
    """
    if kind == "torch":
        from layerdiff.sources.torch_source import TorchSource

        return TorchSource.open(text)
    if kind == "onnx":
        from layerdiff.sources.onnx import OnnxSource

        return OnnxSource.open(Path(text).expanduser())
    if kind == "trace":
        from layerdiff.sources.recorded import RecordedSource

        return RecordedSource.open(Path(text).expanduser())
    # what a package computes without its own loss of precision is what another one is held against
    return PackageSource(load_program(package_path(text)).with_precision("float32"))


@dataclass(frozen=True)
class Replayed:
    """A source that can only push its tensors, recorded to disk first and read back one by one; see `TraceSource`."""

    source: TensorSource

    @property
    def description(self) -> Mapping[str, Any]:
        return self.source.description

    def outline(self, feed: Feed) -> Outline:
        return self.source.outline(feed)

    def stream(self, feed: Feed, sink: Sink, wanted: Collection[str] | None = None) -> None:
        self.source.stream(feed, sink, wanted)

    def trace(self, feed: Feed, wanted: Collection[str] | None = None) -> Iterator[tuple[str, Array]]:
        """The tensors one by one; all of them, or the wanted ones, lie in a temporary folder meanwhile."""
        from layerdiff.sources.recorded import RecordedSource
        from layerdiff.sources.recorded_writer import record

        with TemporaryDirectory(prefix="layerdiff-") as folder:
            path = record(self.source, [("feed", feed)], Path(folder) / "candidate.trace", names=wanted)
            yield from RecordedSource.open(path).trace(feed, wanted)


def open_runs(
    name: str, entry: CandidateConfig, config: Config, references: References, *, progress: Progress
) -> dict[str, Runs]:
    """Component → the candidate's model of it, ready to run.

    Raises:
        LayerdiffError: a model is missing, damaged, or not to be had on this machine.
    """
    measured = config.limits == "measured"
    if entry.convert is not None:
        components = cast("tuple[Component, ...]", tuple(references.parts))
        built = build_packages(entry, reference=references.source, components=components, progress=progress)
        models = dict(built.packages.items())
        return {part: _package_runs(name, entry, model, measured) for part, model in models.items()}
    given = getattr(entry, entry.kind)
    texts = given if isinstance(given, dict) else {next(iter(references.parts)): given}
    wanted = {part: text for part, text in texts.items() if part in references.parts}
    if entry.coreml is not None:
        return {
            part: _package_runs(name, entry, load_program(package_path(text)), measured)
            for part, text in wanted.items()
        }
    return {part: _plain_runs(entry.kind, text) for part, text in wanted.items()}


def _package_runs(name: str, entry: CandidateConfig, model: Any, measured: bool) -> PackageRuns:
    if not wants_native(name, entry):
        return PackageRuns(model, measured)
    from layerdiff.sources.coreml_native_model import NativeModel

    return PackageRuns(model, measured, NativeModel(model, entry.compute_unit))


def _plain_runs(kind: str, text: str) -> PlainRuns:
    source = open_source(kind, text)
    signature = getattr(source, "signature", None)
    if kind == "trace":
        signature = next((tuple(feed) for feed in getattr(source, "calls", {}).values()), None)
    if hasattr(source, "trace"):
        return PlainRuns(cast("Any", source), signature)
    return PlainRuns(Replayed(source), signature)
