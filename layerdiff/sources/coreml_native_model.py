"""A Core ML package as a whole on Apple's own runtime (macOS only): every tensor in order of execution.

Its own outputs come from the untouched package, all others from temporary copies that return them too. That Core ML
plans around more outputs, and so may fuse and place ops otherwise, is measured: the outputs of each copy are held
against those of the untouched package (the observer effect).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from layerdiff.metrics import RelativeL2
from layerdiff.metrics.definitions import max_abs_error
from layerdiff.mil.exposure import CHUNK
from layerdiff.mil.feed import checked
from layerdiff.sources.coreml_native_probe import Group, Probe
from layerdiff.sources.coreml_native_process import (
    ANSWER_WITHIN_S,
    Child,
    Load,
    Place,
    Placement,
    load_core_ml,
    place_core_ml,
)
from layerdiff.sources.coreml_outline import outline_of

if TYPE_CHECKING:
    from layerdiff.mil import Model
    from layerdiff.outline import Outline
    from layerdiff.records import Array
    from layerdiff.sources import Feed, Sink


@dataclass(frozen=True)
class ObserverEffect:
    """How far an output of the package with more outputs is from that of the untouched one."""

    relative_l2_error: float | None
    """0.0 if all bits are equal; None if an element is not finite."""
    max_abs_error: float
    """In the unit of the output; nan if an element is not finite."""


NO_EFFECT = ObserverEffect(0.0, 0.0)


@dataclass
class NativeModel:
    """One program on Core ML; see `TraceSource`. Names are those of its tensors; an input can be asked for too."""

    model: Model
    """The opened package, for what it declares."""
    compute_unit: str = "ALL"
    """Member of coremltools' `ComputeUnit`; each of them can be a candidate of its own."""
    load: Load = load_core_ml
    """Loads a package in the child."""
    place: Place = place_core_ml
    """Asks for the placements of a package in the child."""
    chunk: int = CHUNK
    """Most inner tensors that are asked for at a time."""
    answer_within_s: float = ANSWER_WITHIN_S
    missing: dict[str, str] = field(default_factory=dict, init=False)
    """Of the last trace: tensors that were asked for and not shown → why."""
    observed: dict[str, ObserverEffect] = field(default_factory=dict, init=False)
    """Of the last trace: output → the largest observer effect of any temporary package."""

    def __post_init__(self) -> None:
        self._probe = Probe(self.model, self.compute_unit, self.load, self.chunk, self.answer_within_s)

    @property
    def description(self) -> dict[str, Any]:
        """Engine, compute unit, declared precision (read from the ops) and path."""
        return {
            "engine": "native",
            "compute_unit": self.compute_unit,
            "precision": self.model.declared_precision,
            "opset": self.model.opset,
            "package": str(self.model.path),
        }

    @cached_property
    def _outline(self) -> Outline:
        return outline_of(self.model)

    def outline(self, feed: Feed) -> Outline:
        """The program's outline, whatever is fed: shapes are as declared."""
        return self._outline

    # -------------------------------------------------------------- running

    def trace(self, feed: Feed, wanted: Collection[str] | None = None) -> Iterator[tuple[str, Array]]:
        """The tensors one by one; those that Core ML does not show are left out and named in `missing`.

        A state of the model starts at zeros with every call, and is dropped after it.

        Raises:
            FeedError: the feed does not match the model's inputs, or there is no tensor of a wanted name.
            EngineError: Core ML cannot run the untouched package.
        """
        model, where = self.model, self.model.graph.where
        model.graph.require(name for name in wanted or () if name not in model.graph.nested)
        fed = checked(feed, model.inputs, list(model.inputs), where=where)
        self.missing, self.observed = {}, {}
        yield from ((name, feed[name]) for name in feed if wanted is None or name in wanted)
        names = self._computed(wanted)
        if not names:
            return
        plain = self._probe.declared(self._probe.plain.predict(fed))
        yield from self._in_order(names, fed, plain)
        shown = set(plain)
        for name in names:
            if name in model.outputs and name not in shown:
                self.missing[name] = f"Core ML returns '{name}' as something else than a tensor"
            elif name not in model.outputs and (reason := self._probe.why_not(name)):
                self.missing[name] = reason

    def _computed(self, wanted: Collection[str] | None) -> list[str]:
        """The wanted tensors that the program computes, in its order; wanted ones inside of blocks are among them."""
        graph = self.model.graph
        known = dict.fromkeys([*graph.producers, *self.model.outputs])
        if wanted is None:
            return list(known)
        inside = [name for name in wanted if name in graph.nested and name not in graph.types]
        return [*(name for name in known if name in wanted), *inside]

    def _in_order(
        self, names: list[str], feed: Mapping[str, Array], plain: Mapping[str, Array]
    ) -> Iterator[tuple[str, Array]]:
        """The tensors in order: outputs of the untouched package, the others of one temporary package at a time."""

        def use(child: Child, group: Group) -> dict[str, Array]:
            return self._probe.declared(child.predict(feed), group)

        place = 0
        for group, found in self._probe.each([name for name in names if name not in plain], use):
            self._observe(found, plain)
            end = names.index(group[-1]) + 1
            values = {**found, **plain}
            yield from ((name, values[name]) for name in names[place:end] if name in values)
            place = end
        yield from ((name, plain[name]) for name in names[place:] if name in plain)

    def stream(self, feed: Feed, sink: Sink, wanted: Collection[str] | None = None) -> None:
        """Every tensor to `sink`; see `TensorSource`."""
        for name, value in self.trace(feed, wanted):
            sink(name, value)

    # -------------------------------------------------------------- what Core ML does

    def observer_effect(self, feed: Feed, wanted: Collection[str] | None = None) -> dict[str, ObserverEffect]:
        """Output → the largest deviation of any temporary package that a trace of `wanted` needs.

        Empty if it needs none, because only outputs are wanted. Time and errors are those of `trace`; nothing is kept.
        """
        for _ in self.trace(feed, wanted):
            pass
        return dict(self.observed)

    def _observe(self, found: Mapping[str, Array], plain: Mapping[str, Array]) -> None:
        for name, value in plain.items():
            if name in found:
                effect = effect_between(reference=value, candidate=found[name])
                self.observed[name] = max(self.observed.get(name, NO_EFFECT), effect, key=_severity)

    @cached_property
    def placement(self) -> Mapping[str, str]:
        """Tensor → where Core ML means to run the op that makes it, in words: `Neural Engine (also CPU, GPU)`.

        Raises:
            EngineError: Core ML has no compute plan of the package.
        """
        return {name: str(placement) for name, placement in self.placements().items()}

    def placements(self) -> Mapping[str, Placement]:
        """As `placement`, as records."""
        return self._probe.placements(self.place)

    def close(self) -> None:
        """Ends the children and removes the temporary packages."""
        self._probe.close()


def effect_between(*, reference: Array, candidate: Array) -> ObserverEffect:
    """The deviation of one output; none if all bits are equal, NaN included."""
    if reference.shape == candidate.shape and reference.tobytes() == candidate.tobytes():
        return NO_EFFECT
    if reference.shape != candidate.shape:
        return ObserverEffect(None, math.nan)
    error = RelativeL2()
    error.update(reference=reference, candidate=candidate)
    return ObserverEffect(error.result(), max_abs_error(reference=reference, candidate=candidate))


def _severity(effect: ObserverEffect) -> tuple[float, float]:
    """Larger is worse; what is not finite is the worst."""
    error = math.inf if effect.relative_l2_error is None else effect.relative_l2_error
    return error, math.inf if math.isnan(effect.max_abs_error) else effect.max_abs_error
