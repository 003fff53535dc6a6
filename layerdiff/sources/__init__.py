"""What runs a model and yields its tensors: the reference and every candidate look the same from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from layerdiff.records import Array, Call, Captured, Component


class Source(Protocol):
    """A model, component by component, that can be asked for the tensors inside it."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What the model is and the state it was put in, as plain JSON values for the report's header."""

    def tensor_names(self, component: Component) -> tuple[str, ...]:
        """The tensors that a stage of this component may name."""

    def run(self, call: Call, tensors: Sequence[str], *, inject: Mapping[str, Array] | None = None) -> Captured:
        """Runs one component once; `inject` holds tensors that are given instead of computed."""
