"""A Core ML package as a whole, run by the portable engine on one feed: every tensor in order of execution."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from layerdiff.sources.coreml_outline import outline_of

if TYPE_CHECKING:
    from layerdiff.mil import Model
    from layerdiff.outline import Outline
    from layerdiff.records import Array
    from layerdiff.sources import Feed, Sink


@dataclass(frozen=True, eq=False)
class PackageSource:
    """One program; see `TraceSource`. Names are those of its tensors; an input can be asked for too."""

    model: Model

    @property
    def description(self) -> dict[str, Any]:
        """Engine, precision policy, declared precision (read from the ops) and path."""
        return {
            "engine": "portable",
            "policy": self.model.precision.policy,
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

    def trace(
        self,
        feed: Feed,
        wanted: Collection[str] | None = None,
        *,
        overrides: MutableMapping[str, Array] | None = None,
        lend: bool = False,
    ) -> Iterator[tuple[str, Array]]:
        """The tensors one by one; `overrides` and `lend` as in `Model.trace`.

        A state of the model starts at zeros with every call, and is dropped after it.

        Raises:
            FeedError: the feed does not match the model's inputs, or there is no tensor of a wanted name.
            EngineError: an op failed.
        """
        given = [name for name in feed if wanted is None or name in wanted]
        yield from ((name, feed[name]) for name in given)
        state = self.model.make_state() if self.model.states else None
        computed = None if wanted is None else [name for name in wanted if name not in self.model.inputs]
        if computed is not None and not computed:
            return
        for tensor in self.model.trace(feed, state=state, wanted=computed, overrides=overrides, lend=lend):
            if isinstance(tensor.value, Mapping | str | int):
                continue  # what a classifier says is no tensor
            yield tensor.name, tensor.value

    def stream(self, feed: Feed, sink: Sink, wanted: Collection[str] | None = None) -> None:
        """Every tensor to `sink`; see `TensorSource`."""
        for name, value in self.trace(feed, wanted, lend=True):
            sink(name, value)
