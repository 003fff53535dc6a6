"""Core ML packages on Apple's own runtime (macOS only), component by component.

What a package declares is read by `layerdiff.mil`, so that feeds are laid out as for the portable engine. Outputs come
from the untouched package, inner tensors from temporary copies of it that return them (`coreml_native_probe`); nothing
can be given instead of computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from layerdiff.mil.exposure import CHUNK
from layerdiff.records import Captured
from layerdiff.sources.coreml_calls import run_call
from layerdiff.sources.coreml_native_probe import Probe
from layerdiff.sources.coreml_native_process import (
    ANSWER_WITHIN_S,
    Child,
    Load,
    core_ml_available,
    load_core_ml,
    require_compute_unit,
)

if TYPE_CHECKING:
    from layerdiff.mil import Model
    from layerdiff.records import Array, Call, Component

__all__ = ["NativeSource", "core_ml_available"]


@dataclass
class NativeSource:
    """Core ML packages executed by Core ML."""

    packages: Mapping[Component, Model]
    """Component → its package, opened for what it declares."""
    compute_unit: str = "ALL"
    """Member of coremltools' `ComputeUnit`."""
    load: Load = load_core_ml
    """Loads a package in the child."""
    chunk: int = CHUNK
    """Most inner tensors that are asked for at a time."""
    answer_within_s: float = ANSWER_WITHIN_S
    _probes: dict[str, Probe] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        require_compute_unit(self.compute_unit)

    @property
    def description(self) -> dict[str, Any]:
        """Engine, compute unit, declared precision and path of every package."""
        return {
            "engine": "native",
            "compute_unit": self.compute_unit,
            "precision": {name: model.declared_precision for name, model in self.packages.items()},
            "packages": {name: str(model.path) for name, model in self.packages.items()},
        }

    def tensor_names(self, component: Component) -> tuple[str, ...]:
        """Outputs first, then every inner tensor that can be shown."""
        return tuple(dict.fromkeys([*self.packages[component].outputs, *self.probe(component).exposures]))

    def why_missing(self, component: Component, tensor: str) -> str:
        """Why a tensor was not captured, as a sentence without its end; empty if nothing is known against it."""
        return self.probe(component).why_not(tensor)

    def predict(self, component: Component, feed: Mapping[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        """One prediction, fed and answered as the package declares it.

        Raises:
            EngineError: the child crashed, hung, or Core ML refused the package.
        """
        probe = self.probe(component)
        found = probe.declared(probe.plain.predict(feed))
        return {name: found[name] for name in outputs}

    def run(self, call: Call, tensors: Sequence[str], *, inject: Mapping[str, Array] | None = None) -> Captured:
        """Runs one component in its child; a tensor that Core ML does not show is absent from what is captured.

        Raises:
            ValueError: tensors are injected, which Core ML can't do.
            EngineError: the child crashed, hung, or Core ML refused the untouched package.
        """
        if inject:
            raise ValueError("Core ML computes every tensor itself; inject tensors with the portable engine")
        model, probe = self.packages[call.component], self.probe(call.component)

        def captured(child: Child, group: Sequence[str]) -> Captured:
            def predict(feed: Mapping[str, Array], fetch: Sequence[str], _: Mapping[str, Array]) -> Mapping[str, Array]:
                found = probe.declared(child.predict(feed), tuple(name for name in group if name in probe.exposures))
                return {name: found[name] for name in fetch if name in found}

            return run_call(call, group, model=model, predict=predict)

        whole = captured(probe.plain, [name for name in tensors if name in model.outputs])
        found, layouts = dict(whole.tensors), dict(whole.layouts)
        inner = [name for name in tensors if name not in model.outputs]
        for _, part in probe.each(inner, captured):
            found |= part.tensors
            layouts |= part.layouts
        ordered = {name: found[name] for name in tensors if name in found}
        return Captured(outputs=whole.outputs, tensors=ordered, layouts=layouts)

    def probe(self, component: Component) -> Probe:
        """What runs one of the packages."""
        if component not in self._probes:
            self._probes[component] = Probe(
                self.packages[component], self.compute_unit, self.load, self.chunk, self.answer_within_s
            )
        return self._probes[component]

    def close(self) -> None:
        """Ends all children and removes their temporary packages."""
        for probe in self._probes.values():
            probe.close()
        self._probes.clear()
