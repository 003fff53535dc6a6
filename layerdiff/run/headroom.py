"""What float16 would do to the reference's own tensors: how far they are from its largest number, how much of them lies
below its smallest normal one, and which ops lose what they compute. Needs no conversion; predicts where one will fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from layerdiff.float16 import LARGEST, Extent, Headroom, risks_of
from layerdiff.run.aligned import feeds
from layerdiff.run.inputs import Inputs, find_inputs
from layerdiff.run.parts import open_references

if TYPE_CHECKING:
    from layerdiff.config import Config
    from layerdiff.outline import Outline
    from layerdiff.progress import Progress
    from layerdiff.records import Array


@dataclass
class Extents:
    """The extents of a component's tensors, and its structure."""

    outline: Outline | None = None
    known: dict[str, Extent] = field(default_factory=dict)

    def take(self, name: str, value: Array) -> None:
        """Takes in one tensor; integers and masks are no matter."""
        value = np.asarray(value)
        if value.dtype.kind == "f":
            self.known.setdefault(name, Extent()).update(value)


def headroom(config: Config, *, progress: Progress) -> list[Headroom]:
    """Every float tensor of the reference, with what float16 would do to it, in order of execution.

    Args:
        config: names the reference and the inputs; its candidates are left alone.
        progress: told about everything that lasts.

    Raises:
        LayerdiffError: the reference can't be run.
    """
    inputs = find_inputs(config.inputs) if config.inputs.given else Inputs()
    references = open_references(config, progress=progress)
    found: dict[str, Extents] = {}
    with progress.task("measuring the reference", total=len(inputs) or None) as step:
        for component, label, feed in feeds(config, inputs, references):
            source, extents = references.parts[component], found.setdefault(component, Extents())
            extents.outline = extents.outline or source.outline(feed)
            source.stream(feed, extents.take)
            step(int("#" not in label))
    return [entry for component, extents in found.items() for entry in _entries(component, extents)]


def _entries(component: str, extents: Extents) -> Iterator[Headroom]:
    by_name = extents.outline.by_name if extents.outline is not None else {}
    for name, extent in extents.known.items():
        node = by_name.get(name)
        risks = tuple(risks_of(extent, node, extents.known))
        yield Headroom(
            component=component,
            tensor=name,
            kind=node.kind if node is not None else "other",
            absmax=extent.largest,
            headroom=extent.headroom,
            small_share=extent.share(extent.small),
            vanishing_share=extent.share(extent.vanishing),
            overflows=extent.largest > LARGEST,
            risks=risks,
        )
