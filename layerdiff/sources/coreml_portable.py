"""Runs Core ML packages on any operating system through the portable MIL engine.

One package per component. Every tensor of a package can be asked for, and any tensor can be given
instead of computed, which is how own error is measured. The source keeps no state between calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from layerdiff.sources.coreml_calls import run_call

if TYPE_CHECKING:
    from layerdiff.mil import Model
    from layerdiff.records import Array, Call, Captured, Component


RENAMES = ("cast", "identity")
"""Ops that give the same values another name or dtype."""


def origin(model: Model, name: str) -> str:
    """The tensor that an output only renames or casts.

    A float16 package computes `linear_0_cast_fp16` and casts it to its output `logits`; what follows in the
    program reads the former, so that is where a value has to be injected.
    """
    op = model.graph.producers.get(name)
    while op is not None and op.type in RENAMES and isinstance(source := op.inputs["x"][0], str):
        name, op = source, model.graph.producers.get(source)
    return name


def declared_dtype(model: Model, name: str) -> str:
    """numpy name of the dtype in which a tensor is computed, a final cast left out."""
    return model.graph.types[origin(model, name)].dtype


@dataclass(frozen=True)
class PortableSource:
    """Core ML packages executed by the portable engine."""

    packages: Mapping[Component, Model]
    """Component → its opened package."""

    @property
    def description(self) -> dict[str, Any]:
        """Engine, declared precision (read from the ops) and path of every package."""
        return {
            "engine": "portable",
            "precision": {name: model.declared_precision for name, model in self.packages.items()},
            "packages": {name: str(model.path) for name, model in self.packages.items()},
        }

    def with_precision(self, precision: str, *, dither_seed: int | None = None) -> PortableSource:
        """The same packages under another precision policy; weights are shared."""
        packages = {
            name: model.with_precision(precision, dither_seed=dither_seed) for name, model in self.packages.items()
        }
        return replace(self, packages=packages)

    def tensor_names(self, component: Component) -> tuple[str, ...]:
        """Outputs first, then every other tensor of the package."""
        model = self.packages[component]
        names = [*model.outputs, *(tensor.name for tensor in model.tensors)]
        return tuple(dict.fromkeys(names))

    def predict(self, component: Component, feed: Mapping[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        """One prediction, fed and answered as the package declares it; only those outputs are computed.

        Raises:
            FeedError: the feed is not what the package declares.
            EngineError: an op failed.
        """
        return self.packages[component].run(feed, fetch=outputs)

    def run(self, call: Call, tensors: Sequence[str], *, inject: Mapping[str, Array] | None = None) -> Captured:
        """Runs one component; `inject` holds tensors by name, in the layout of the call.

        Raises:
            ConfigError: the package is not of this component.
            FeedError: the package takes another shape or a shorter window.
            EngineError: an op failed.
        """
        model = self.packages[call.component]

        def predict(feed: Mapping[str, Array], fetch: Sequence[str], given: Mapping[str, Array]) -> Mapping[str, Array]:
            return model.run(feed, fetch=list(fetch), inject=given)

        return run_call(call, tensors, model=model, predict=predict, inject=inject)
