"""What runs a model and yields its tensors: the reference and every candidate look the same from outside."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from layerdiff.outline import Outline
    from layerdiff.records import Array, Call, Captured, Component

Feed = Mapping[str, "Array"]
"""Input name → value."""

Sink = Callable[[str, "Array"], None]
"""Takes a tensor as it is computed: its name, and its value, which is only lent: what is to be kept is copied."""


class TensorSource(Protocol):
    """Any model that runs as a whole on one feed and shows the tensors inside it, in order of execution."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What the model is and the state it was put in, as plain JSON values for the report's header."""

    def outline(self, feed: Feed) -> Outline:
        """Its structure on this feed; tensor names are those that `stream` gives."""

    def stream(self, feed: Feed, sink: Sink, wanted: Collection[str] | None = None) -> None:
        """Runs it once and hands every tensor, or those of `wanted`, to `sink` as soon as it is computed.

        Nothing is kept here. A name of `wanted` may be an alias; the sink is then given that alias. The model's own
        results are bitwise what they are without a sink.

        Raises:
            FeedError: the feed does not fit the model.
            EngineError: the model could not be run.
        """


class TraceSource(TensorSource, Protocol):
    """A source that can also be asked for its tensors one by one, so that several run side by side."""

    def trace(self, feed: Feed, wanted: Collection[str] | None = None) -> Iterator[tuple[str, Array]]:
        """The tensors of `stream` as an iterator; each value belongs to the caller."""


class Source(Protocol):
    """A model, component by component, that can be asked for the tensors inside it."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What the model is and the state it was put in, as plain JSON values for the report's header."""

    def tensor_names(self, component: Component) -> tuple[str, ...]:
        """The tensors that a stage of this component may name."""

    def run(self, call: Call, tensors: Sequence[str], *, inject: Mapping[str, Array] | None = None) -> Captured:
        """Runs one component once; `inject` holds tensors that are given instead of computed."""
