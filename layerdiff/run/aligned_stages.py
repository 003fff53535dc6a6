"""Stages from an alignment, or from a stage map over models that are not walked component by component."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.align.layouts import Layout, find
from layerdiff.compare import Stage, expected_of
from layerdiff.outline import Outline

if TYPE_CHECKING:
    from layerdiff.align import Alignment, Link
    from layerdiff.compare import Index
    from layerdiff.records import Array

CHANNELS_LAST = frozenset({"linear", "embedding", "lstm", "gru", "rnn", "layer_norm"})
"""Kinds of op whose rows of weights are the last axis of their results; of others it is the second one."""


@dataclass(frozen=True)
class AlignedStage:
    """A stage with how its two sides were brought together."""

    stage: Stage
    link: Link | None = None
    """None for a stage of the user's map."""
    candidate_part: Index | None = None
    """The part of the candidate's tensor that holds the stage; None for all of it."""
    is_returned: bool = False
    """Whether both tensors are what the models return."""

    @property
    def is_whole(self) -> bool:
        """Whether both sides are whole tensors, so that one can take the place of the other."""
        return not self.stage.slices and not self.stage.log_softmax and self.candidate_part is None


def aligned_stages(
    alignment: Alignment, *, component: str, reference: Outline, candidate: Outline
) -> list[AlignedStage]:
    """One stage per pair, named after the reference's tensor."""
    stages = [_stage(link, component, reference, candidate) for link in alignment.pairs]
    counts = Counter(aligned.stage.name for aligned in stages)
    return [_told_apart(aligned) if counts[aligned.stage.name] > 1 else aligned for aligned in stages]


def _told_apart(aligned: AlignedStage) -> AlignedStage:
    """A stage whose reference's tensor has several counterparts, named after both sides."""
    stage = aligned.stage
    return replace(aligned, stage=replace(stage, name=f"{stage.name} = {stage.candidate}"))


def _stage(link: Link, component: str, reference: Outline, candidate: Outline) -> AlignedStage:
    kind = reference.by_name[link.reference].kind
    stage = Stage(link.reference, component, link.reference, link.candidate)  # type: ignore[arg-type]
    if link.reference_rows is not None:
        first, last = link.reference_rows
        name = f"{link.reference}[{first}:{last}]"
        stage = replace(stage, name=name, slices=(_channels(kind, link.reference_rows),))
    part = _channels(kind, link.candidate_rows) if link.candidate_rows is not None else None
    is_returned = link.reference in reference.outputs and link.candidate in candidate.outputs
    return AlignedStage(stage, link, part, is_returned)


def _channels(kind: str, rows: tuple[int, int]) -> Index:
    """The index of some channels of a tensor."""
    part = slice(*rows)
    return (..., part) if kind in CHANNELS_LAST else (slice(None), part)


@dataclass
class Sides:
    """The two sides of one stage, made to agree: which layout is used, and what was said about it."""

    layouts: dict[str, Layout] = field(default_factory=dict)
    """Stage → the layout that its first tensors decided."""

    def agreed(
        self, aligned: AlignedStage, truth: Array, values: Mapping[str, Array], *, padded: bool = False
    ) -> tuple[Array, dict[str, Array] | None, str]:
        """The reference's side, every variant of the candidate's in its layout, and what was done, in words.

        Args:
            aligned: the stage.
            truth: the reference's whole tensor.
            values: variant → the candidate's whole tensor.
            padded: whether the candidate's input was filled up to a longer one.

        Returns:
            None in the second place if no layout brings the two together.
        """
        expected = expected_of(truth, aligned.stage)
        part = aligned.candidate_part
        cut = {name: value if part is None else value[part] for name, value in values.items()}
        shown = next(iter(cut.values()))
        layout = self.layouts.get(aligned.stage.name)
        moved = _applied(layout, expected, cut)
        if moved is None:
            layout = self._found(aligned, expected, cut, padded=padded)
            moved = _applied(layout, expected, cut)
        if layout is None or moved is None:
            return expected, None, f"{list(shown.shape)} against the reference's {list(expected.shape)}"
        if any(is_float(value) != is_float(expected) for value in moved.values()):
            # a converter may compute lengths and masks as floats, or the other way round
            expected = expected.astype(np.float64)
            moved = {name: value.astype(np.float64) for name, value in moved.items()}
        note = layout.describe(reference=expected.shape, candidate=shown.shape)
        return expected, moved, note if part is None else f"{written(part)} of the tensor; {note}".rstrip("; ")

    def _found(
        self, aligned: AlignedStage, expected: Array, values: Mapping[str, Array], *, padded: bool
    ) -> Layout | None:
        """The layout under which the most faithful variant is nearest, kept from now on; None if none fits."""
        for variant in ("own", "float32", "declared"):
            if variant in values:
                found, _ = find(
                    reference=expected, candidate=values[variant], padded=padded, is_returned=aligned.is_returned
                )
                if found is not None:
                    self.layouts[aligned.stage.name] = found
                return found
        return None

    def inverted(self, aligned: AlignedStage, truth: Array, value: Array) -> Array | None:
        """The reference's tensor in the layout and dtype of the candidate's `value`, whose place it can take.

        None if the stage is only a part of the tensor, or no layout brings the two together.
        """
        layout = self.layouts.get(aligned.stage.name)
        if layout is None or not aligned.is_whole or _applied(layout, truth, {"": value}) is None:
            return None
        return layout.invert(truth, value).astype(value.dtype)


def is_float(value: Array) -> bool:
    return value.dtype.kind == "f"


def _applied(layout: Layout | None, reference: Array, values: Mapping[str, Array]) -> dict[str, Array] | None:
    """The variants of a candidate's tensor in the reference's shape; None if lengths or axes do not fit."""
    axes = next(iter(values.values())).ndim
    if layout is None or (len(layout.candidate_axes), len(layout.reference_axes)) != (axes, reference.ndim):
        return None
    try:
        return {name: layout.apply(value, reference.shape) for name, value in values.items()}
    except ValueError:
        return None


def written(index: Any) -> str:
    """An index in NumPy's notation."""
    return ", ".join("..." if i is ... else f"{i.start or ''}:{'' if i.stop is None else i.stop}" for i in index)
