"""Compares what the two sides captured, stage by stage, in one streaming pass.

Each stage of a candidate has one `StageComparison`. It is handed the reference's tensor and the
candidate's under several precision policies (`Variant`), updates its accumulators and lets go of the
arrays, except for the clip with the largest error, which the diagnosis looks at. Nothing is reshaped
without saying so, and nothing here runs a model, prints or opens a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.metrics import Accumulator, RelativeL2, Summary
from layerdiff.records import StageResult, TensorSummary
from layerdiff.thresholds import Limits, estimated, judge, limits

if TYPE_CHECKING:
    from layerdiff.metrics.profile import ProfileAccumulator
    from layerdiff.records import Array, Component, Points

DITHER_SEEDS = (0, 1, 2)
"""Seeds of the runs that measure what float16 must cost; their errors are averaged in power."""

Index = tuple[Any, ...]
"""A slice, as NumPy takes it."""

Variants = Mapping[str, "Array"]
"""Precision policy → the candidate's tensor: `declared`, `float32`, `float64`, `own`, `native`, and, where the
program holds float16, `weights/SEED` and `cost/SEED`."""


@dataclass(frozen=True)
class Stage:
    """A named point of comparison with everything that the configuration says about it."""

    name: str
    component: Component
    reference: str
    """Tensor of the reference; of the parent stage where this one is a slice."""
    candidate: str
    """Tensor of the candidate; of the parent stage where a slice has none of its own."""
    parent: str | None = None
    """The stage that this one is a slice of."""
    slices: tuple[Index, ...] = ()
    """From the reference's tensor to this stage, each one of what the one before it leaves."""
    candidate_slices: tuple[Index, ...] = ()
    """The last ones of `slices`: those that the candidate's tensor does not hold already."""
    log_softmax: bool = False
    """Whether the candidate's are log-probabilities, which the reference's become before they are compared."""
    some_positive: bool = False
    """Whether the candidate must have a positive value where the reference has one."""


@dataclass(frozen=True)
class Witness:
    """The clip on which a stage was furthest off, kept for the diagnosis."""

    clip: str
    relative_l2_error: float
    reference: Array
    candidate: Array
    points: Points | None


@dataclass
class StageComparison:
    """One stage of one candidate: accumulators, and the reasons why something could not be compared."""

    stage: Stage
    candidate_dtype: str = "float32"
    is_estimated: bool = False
    """Whether limits go by the depth instead of measurements, so that nothing but the total error is judged."""
    total: Accumulator = field(init=False)
    """Reference against what is shown, with all metrics and both sides' summaries."""
    splits: dict[str, RelativeL2] = field(default_factory=dict)
    """What is measured between two variants, see `SPLITS`."""
    shapes: tuple[tuple[int | None, ...], tuple[int | None, ...]] | None = None
    layout: str = ""
    disagreement: str = ""
    """Why the two sides' shapes don't agree; empty if they do."""
    apart: tuple[TensorSummary, TensorSummary] | None = None
    """Both sides where their shapes first disagreed."""
    missing: str = ""
    """Why there was nothing to compare, at least on one clip; empty if there was."""
    rows_expected_positive: int = 0
    rows_not_positive: int = 0
    """Of the rows in which the reference has a positive value, those in which the candidate has none."""
    keeps_witness: bool = True
    """Whether the tensors of the worst clip are kept; of thousands of stages they would fill the memory."""
    witness: Witness | None = None
    profile: ProfileAccumulator | None = None
    """Takes in how values and errors are distributed, if somebody wants to see it."""

    def __post_init__(self) -> None:
        self.total = Accumulator(dtype="float16" if self.candidate_dtype == "float16" else "float32")

    def update(self, reference: Array, variants: Variants, *, clip: str, points: Points | None, layout: str) -> None:
        """Takes in one call's tensors; arrays are not kept unless this is the worst clip so far."""
        shown = variants.get("native", variants["declared"])
        reference = as_kind_of(reference, shown)
        agreed, note = agree(reference, shown, padded=layout)
        if agreed is None:
            self.disagree(note, reference=reference, candidate=shown)
            return
        self.layout = note or self.layout
        self._note_shapes(reference, shown)
        self.total.update(reference=compact(reference), candidate=compact(agreed), label=clip)
        if len(variants) > 1:
            self._update_splits(reference, variants, padded=layout)
        if self.profile is not None:
            self.profile.update(reference=reference, candidate=agreed, clip=clip, points=points)
        if self.keeps_witness:
            self._keep_worst(reference, agreed, clip=clip, points=points)
        if self.stage.some_positive:
            expected = reference.max(axis=-1) > 0
            self.rows_expected_positive += int(expected.sum())
            self.rows_not_positive += int((expected & ~(agreed.max(axis=-1) > 0)).sum())

    def disagree(self, why: str, *, reference: Array, candidate: Array) -> None:
        """Takes in two tensors that can't be compared, for their shapes differ."""
        self.disagreement = why
        if self.apart is None:
            stage, dtype = self.stage, self.candidate_dtype
            self.apart = (
                summarise(summary_of(reference), stage.reference, "float32", reference.shape),
                summarise(summary_of(candidate), stage.candidate, dtype, candidate.shape),
            )

    def _note_shapes(self, reference: Array, candidate: Array) -> None:
        seen = (reference.shape, candidate.shape)
        if self.shapes == seen:
            return
        known = self.shapes or seen
        self.shapes = (merge_shapes(known[0], seen[0]), merge_shapes(known[1], seen[1]))

    def _update_splits(self, reference: Array, variants: Variants, *, padded: str) -> None:
        sides: dict[str, Array] = {"reference": reference}
        for name, value in variants.items():
            agreed, _ = agree(reference, value, padded=padded)
            if agreed is not None:
                sides[name] = agreed
        for split, (first, second) in splits_of(variants).items():
            if first in sides and second in sides:
                if split not in self.splits:
                    self.splits[split] = RelativeL2()
                self.splits[split].update(reference=compact(sides[first]), candidate=compact(sides[second]))

    def _keep_worst(self, reference: Array, candidate: Array, *, clip: str, points: Points | None) -> None:
        error = RelativeL2()
        error.update(reference=compact(reference), candidate=compact(candidate))
        size = error.result()
        size = float("inf") if size is None else size
        if self.witness is None or size > self.witness.relative_l2_error:
            self.witness = Witness(clip, size, reference.copy(), candidate.copy(), points)

    @property
    def is_captured(self) -> bool:
        """Whether both sides produced the tensor, be it in shapes that disagree."""
        return self.shapes is not None or bool(self.disagreement)

    def split(self, name: str) -> float | None:
        """One of `SPLITS`, or the mean in power over the seeds of one that is measured several times."""
        values = [s.result() for key, s in self.splits.items() if key == name or key.startswith(f"{name}/")]
        known = [value for value in values if value is not None]
        return sqrt(sum(value * value for value in known) / len(known)) if known else None

    def limits(self, *, depth: int, parent: StageComparison | None) -> Limits:
        """What this stage may be off by; a slice is measured against its parent's noise where that is larger."""
        if self.is_estimated:
            return estimated(depth=depth, dtype=self.candidate_dtype)
        costs = {name: self.split(name) for name in ("rounding", "weights", "cost")}
        if parent is not None:
            costs = {name: larger(value, parent.split(name)) for name, value in costs.items()}
        return limits(
            rounding_level=costs["rounding"], weight_cost=costs["weights"], precision_cost=costs["cost"], depth=depth
        )

    def result(self, *, depth: int, parent: StageComparison | None, thresholds: Mapping[str, float]) -> StageResult:
        """The stage's row: metrics, splits and the verdict."""
        stage = self.stage
        nothing = StageResult(stage.name, stage.component, "unknown", self.missing or "nothing was captured")
        if self.disagreement:
            reference, candidate = self.apart or (None, None)
            return replace(nothing, status="fail", reason=self.disagreement, reference=reference, candidate=candidate)
        if self.shapes is None:
            return nothing
        bounds = self.limits(depth=depth, parent=parent).replaced(thresholds)
        metrics = self.total.result()
        conversion = 0.0 if self.is_estimated else self.split("conversion")  # the total error is all there is to judge
        status, reason = judge(
            metrics=metrics,
            conversion_error=conversion,
            limits=bounds,
            reference_nonfinite=self.total.reference.nan_count + self.total.reference.inf_count,
            candidate_nonfinite=self.total.candidate.nan_count + self.total.candidate.inf_count,
            unmatched_nonfinite=self.total.unmatched_count,
            thresholds=thresholds,
            broken_expectation=self._broken_expectation(),
        )
        if self.missing and status == "pass":
            status, reason = "unknown", self.missing
        return StageResult(
            name=stage.name,
            component=stage.component,
            status=status,
            reason=reason,
            reference=summarise(self.total.reference, stage.reference, "float32", self.shapes[0]),
            candidate=summarise(self.total.candidate, stage.candidate, self.candidate_dtype, self.shapes[1]),
            metrics=metrics,
            own_error=self.split("own"),
            inherited_error=self.split("inherited"),
            conversion_error=self.split("conversion"),
            precision_error=self.split("precision"),
            runtime_error=self.split("runtime"),
            conversion_limit=bounds.conversion,
            total_limit=bounds.total,
            layout=self.layout,
            worst=self._worst(),
        )

    def _broken_expectation(self) -> str:
        """What `expect` found, in words; empty if it holds."""
        if not self.rows_not_positive:
            return ""
        return (
            f"no positive value in {self.rows_not_positive} of {self.rows_expected_positive} rows "
            "where the reference has one"
        )

    def _worst(self) -> Mapping[str, Any] | None:
        """The row of the witness with the largest error, and where in the audio it lies."""
        if self.witness is None:
            worst = self.total.worst_row
            return worst and {
                "clip": worst.label,
                "row": worst.row_in_label,
                "relative_l2_error": worst.relative_l2 if np.isfinite(worst.relative_l2) else None,
            }
        row, error = worst_row(self.witness)
        place: dict[str, Any] = {"clip": self.witness.clip, "row": row, "relative_l2_error": error}
        points = self.witness.points
        if points is not None and self.stage.component == "joint" and row < len(points):
            frame = int(points.frames[row])
            place |= {"frame": frame, "time_s": frame * points.frame_s, "step": int(points.steps[row])}
        return place


SPLITS: Mapping[str, tuple[str, str]] = {
    "conversion": ("reference", "float32"),
    "precision": ("float32", "declared"),
    "own": ("reference", "own"),
    "inherited": ("own", "declared"),
    "runtime": ("declared", "native"),
    "rounding": ("float64", "float32"),
}
"""What is measured → the two variants between which it is, the first one as reference."""

SEEDED_SPLITS = ("weights", "cost")
"""What is measured against the float32 program once per dither seed."""


def splits_of(variants: Variants) -> dict[str, tuple[str, str]]:
    """The splits that the given variants allow."""
    seeded = {name: ("float32", name) for name in variants if name.partition("/")[0] in SEEDED_SPLITS}
    return {**SPLITS, **seeded}


def agree(reference: Array, candidate: Array, *, padded: str = "") -> tuple[Array | None, str]:
    """The candidate's tensor in the reference's shape, and what was done to it, in words.

    Single axes may be added or dropped, and the surplus of a padded input is cut off. Everything else
    is a disagreement: None, and the two shapes in words.
    """
    if reference.shape == candidate.shape:
        return candidate, ""
    if squeezed(reference.shape) == squeezed(candidate.shape):
        return candidate.reshape(reference.shape), f"{written(candidate)} read as {written(reference)}"
    if padded and reference.ndim == candidate.ndim:
        pairs = list(zip(reference.shape, candidate.shape, strict=True))
        if all(small <= large for small, large in pairs):
            cut = candidate[tuple(slice(small) for small, _ in pairs)]
            return cut, f"{padded}; compared as {written(reference)}"
    return None, f"shape {written(candidate)} against the reference's {written(reference)}"


def as_kind_of(reference: Array, candidate: Array) -> Array:
    """The reference's whole numbers as integers where the candidate's are: hooks capture lengths as float32."""
    if candidate.dtype.kind in "iu" and reference.dtype.kind == "f" and (reference == np.rint(reference)).all():
        return reference.astype(candidate.dtype)
    return reference


def sliced(value: Array, slices: Sequence[Index]) -> Array:
    """A tensor after one slice after the other; of rank 1 at least.

    Raises:
        IndexError: a slice lies outside of the tensor, or has more axes.
    """
    for index in slices:
        require_within(value.shape, index)
        value = value[index]
    return np.atleast_1d(value)


def expected_of(truth: Array, stage: Stage) -> Array:
    """The reference's side of a stage: its tensor or the slice of it, normalised if the candidate's is.

    Raises:
        IndexError: a slice lies outside of the tensor, or has more axes.
    """
    value = sliced(truth, stage.slices) if stage.slices else truth
    return log_softmax(value).astype(value.dtype) if stage.log_softmax else value


def log_softmax(logits: Array) -> Array:
    """float*[..., W] → float64[..., W]; log-probabilities along the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def require_within(shape: Sequence[int], index: Index) -> None:
    """Refuses a slice that reaches beyond its axis, where NumPy would silently give what is there.

    Raises:
        IndexError: `-200:` of an axis of 102, say: the width was mistaken.
    """
    dots = index.index(...) if ... in index else len(index)
    axes = [*range(dots), *range(len(shape) - (len(index) - dots - 1), len(shape))]
    items = [item for item in index if item is not ...]
    for axis, item in zip(axes, items, strict=False):
        ends = [end for end in (item.start, item.stop) if end is not None] if isinstance(item, slice) else []
        for end in ends:
            if axis < len(shape) and not -shape[axis] <= end <= shape[axis]:
                raise IndexError(f"{end} lies outside of axis {axis}, which has {shape[axis]} elements")


def compact(value: Array) -> Array:
    """A tensor without single axes at its end, so that its rows are as long as they can be: sums go row by row."""
    shape = value.shape
    if shape[-1:] != (1,):
        return value
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return value.reshape(shape)


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without its single axes."""
    return tuple(length for length in shape if length != 1)


def written(value: Array) -> str:
    """An array's dtype and shape in the house notation."""
    return f"{value.dtype}[{', '.join(map(str, value.shape))}]"


def merge_shapes(known: Sequence[int | None], seen: Sequence[int | None]) -> tuple[int | None, ...]:
    """Two shapes as one, None where they differ."""
    return tuple(a if a == b else None for a, b in zip(known, seen, strict=True))


def larger(first: float | None, second: float | None) -> float | None:
    """The larger of two measurements that may be absent."""
    known = [value for value in (first, second) if value is not None]
    return max(known) if known else None


def summary_of(value: Array) -> Summary:
    """Range and mean of one tensor."""
    summary = Summary()
    summary.update(value)
    return summary


def summarise(summary: Summary, tensor: str, dtype: str, shape: tuple[int | None, ...]) -> TensorSummary:
    """One side of a stage as its record."""
    return TensorSummary(tensor=tensor, dtype=dtype, shape=shape, min=summary.min, max=summary.max, mean=summary.mean)


def worst_row(witness: Witness) -> tuple[int, float | None]:
    """Index and relative L2 error of the row that is furthest off; rows lie along the last axis, as in the metrics."""
    width = witness.reference.shape[-1] if witness.reference.ndim else 1
    reference = witness.reference.astype(np.float64).reshape(-1, width)
    difference = witness.candidate.astype(np.float64).reshape(-1, width) - reference
    error = np.sqrt((difference**2).sum(axis=-1))
    size = np.sqrt((reference**2).sum(axis=-1))
    relative = np.divide(error, size, out=np.where(error > 0, np.inf, 0.0), where=size > 0)
    row = int(np.argmax(relative))
    return row, float(relative[row]) if np.isfinite(relative[row]) else None
