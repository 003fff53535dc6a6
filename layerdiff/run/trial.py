"""One candidate under comparison: its walks through the clips, its stages, and what they add up to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.capture import CandidateWalk, Pair, own_values
from layerdiff.compare import DITHER_SEEDS, Stage, StageComparison, agree, expected_of, sliced, written
from layerdiff.diagnose.decisions import DecisionLens
from layerdiff.diagnose.evidence import Evidence
from layerdiff.diagnose.rules import diagnose
from layerdiff.errors import ConfigError, FeedError
from layerdiff.metrics import RelativeL2
from layerdiff.records import (
    CandidateResult,
    Check,
    Coverage,
    DurationAnalysis,
    Finding,
    Missing,
    StageResult,
    worst_status,
)
from layerdiff.run.checks import joint_checks, known_hazards
from layerdiff.run.logit_error import largest_logit_error
from layerdiff.run.stages import JOINT_OUTPUT, module_path
from layerdiff.run.walked_weights import Kept, weights_finding
from layerdiff.sources.coreml_portable import PortableSource, declared_dtype

if TYPE_CHECKING:
    from layerdiff.records import Array, Call, Captured
    from layerdiff.sources.coreml_native import NativeSource


@dataclass
class Trial:
    """One candidate: every clip passes through `compare`, `result` sums up."""

    name: str
    stages: Sequence[Stage]
    source: PortableSource
    native: NativeSource | None = None
    durations: tuple[int, ...] = ()
    """Frames of each duration of the reference; empty if it is not a token-and-duration transducer."""
    blank: int = 0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    description: Mapping[str, Any] = field(default_factory=dict)
    log_softmax: str = "None"
    module: Callable[[str], Any] | None = None
    """The reference's module by its path."""
    kept: dict[str, Kept] = field(default_factory=dict)
    """Stage of the joint → the call on which it was furthest off."""
    walks: dict[str, CandidateWalk] = field(init=False)
    comparisons: dict[str, StageComparison] = field(init=False)
    own_output: dict[str, RelativeL2] = field(default_factory=dict)
    """Stage → error against the reference joint's own output, which is normalised if `log_softmax` says so."""
    checks: tuple[Check, ...] = field(init=False)
    lens: DecisionLens | None = field(init=False)
    """What happens to decisions."""

    def __post_init__(self) -> None:
        self.walks = {name: CandidateWalk(source) for name, source in variants(self.source).items()}
        if self.native is not None:
            self.walks["native"] = CandidateWalk(self.native)
        self.comparisons = {stage.name: StageComparison(stage, self._declared_dtype(stage)) for stage in self.stages}
        self.checks = tuple(self._checks())
        self.lens = DecisionLens(self.durations, self.blank) if self.blank else None

    def compare(self, call: Call, reference: Captured, *, clip: str) -> None:
        """Runs the candidate on one of the reference's calls and compares every stage of its component."""
        if call.component not in self.source.packages:
            return
        stages = [stage for stage in self.stages if stage.component == call.component]
        wanted = list(dict.fromkeys(stage.candidate for stage in stages))
        try:
            captured = {name: walk.run(call, wanted) for name, walk in self.walks.items()}
        except FeedError as error:
            for stage in stages:
                self.comparisons[stage.name].missing = f"{clip}: {error.what.removesuffix('.')}"
            return
        captured.setdefault("float32", captured["declared"])
        own = own_values(self.source, call, [pair_of(stage) for stage in stages], reference)
        for stage in stages:
            self._compare_stage(stage, call, reference, captured, own, clip)
        self._decide(call, reference, captured["native" if self.native else "declared"], clip)

    def _compare_stage(
        self,
        stage: Stage,
        call: Call,
        reference: Captured,
        captured: Mapping[str, Captured],
        own: Mapping[str, Array],
        clip: str,
    ) -> None:
        comparison = self.comparisons[stage.name]
        values = {name: side.tensors.get(stage.candidate) for name, side in captured.items()}
        values["own"] = own.get(stage.candidate)
        truth = reference.tensors.get(stage.reference)
        shown = values["native"] if self.native is not None else values["declared"]
        if truth is None or shown is None:
            side, tensor = ("reference", stage.reference) if truth is None else ("candidate", stage.candidate)
            comparison.missing = f"the {side} did not produce '{tensor}'"
            return
        if stage.parent is not None and self.comparisons[stage.parent].disagreement:
            comparison.missing = f"the shapes of '{stage.parent}' disagree"
            return
        self._compare_own_output(stage, shown, reference)
        layout = captured["declared"].layouts.get(stage.candidate, "")
        expected = reference_of(truth, stage)
        try:
            found = {
                name: candidate_of(value, stage, truth=truth, padded=layout)
                for name, value in values.items()
                if value is not None
            }
        except IndexError as error:
            why = f"the slice does not fit the candidate's {written(shown)}: {error}"
            comparison.disagree(why, reference=expected, candidate=shown)
            return
        before = comparison.witness
        comparison.update(expected, found, clip=clip, points=call.points, layout=layout)
        if comparison.witness is not before and stage.component == "joint":
            self.kept[stage.name] = Kept(call, reference)

    def _compare_own_output(self, stage: Stage, candidate: Array, reference: Captured) -> None:
        """Is a stage with the raw logits as its reference the joint's own output instead?"""
        output = reference.tensors.get(JOINT_OUTPUT)
        if stage.parent is None and output is not None and output.shape == candidate.shape:
            error = self.own_output.setdefault(stage.name, RelativeL2())
            error.update(reference=output, candidate=candidate)

    def _decide(self, call: Call, reference: Captured, candidate: Captured, clip: str) -> None:
        if self.lens is None or call.component != "joint" or call.points is None:
            return
        logits, durations = decision_stages(self.stages, self.lens)
        if logits is None or durations is None:
            return
        truth, offered = reference.tensors.get(logits.reference), candidate.tensors.get(logits.candidate)
        chosen = candidate.tensors.get(durations.candidate)
        width = self.lens.blank + 1 + len(self.lens.frames)
        if truth is None or offered is None or chosen is None or truth.shape[-1] != width:
            return
        agreed, _ = agree(truth, offered)
        expected = expected_of(truth, durations) if self.lens.frames else truth[..., :0]
        chosen = candidate_of(chosen, durations, truth=truth) if self.lens.frames else expected
        agreed_durations, _ = agree(expected, chosen)
        if agreed is not None and agreed_durations is not None:
            self.lens.update(
                reference=truth, candidate=agreed, candidate_durations=agreed_durations, points=call.points, clip=clip
            )

    def close(self) -> None:
        """Ends what the native engine started."""
        if self.native is not None:
            self.native.close()

    def result(self) -> CandidateResult:
        """The candidate's rows, verdict, coverage, findings and decisions."""
        rows = tuple(self._row(stage) for stage in self.stages)
        missing = tuple(Missing(row.name, row.reason) for row in rows if row.status in ("unknown", "skipped"))
        first = next((row for row in rows if row.status == "fail"), None)
        return CandidateResult(
            name=self.name,
            status=worst_status([row.status for row in rows]),
            first_divergence=first.name if first else None,
            coverage=Coverage(
                asked=len(rows),
                captured=sum(comparison.is_captured for comparison in self.comparisons.values()),
                compared=len(rows) - len(missing),
                missing=missing,
            ),
            stages=rows,
            findings=tuple(self._findings(first)) if first else (),
            tdt=self._durations(),
            description=self.description,
            checks=self.checks,
        )

    def _checks(self) -> Iterator[Check]:
        for component, model in self.source.packages.items():
            yield from known_hazards(model)
            if component == "joint" and self.module is not None:
                yield from joint_checks(model, self.module("joint"))

    def _row(self, stage: Stage) -> StageResult:
        model = self.source.packages.get(stage.component)
        if model is None:
            reason = f"the candidate has no {stage.component}"
            return StageResult(stage.name, stage.component, "unknown", reason)
        parent = self.comparisons[stage.parent] if stage.parent else None
        return self.comparisons[stage.name].result(
            depth=model.depth(stage.candidate), parent=parent, thresholds=self.thresholds
        )

    def _findings(self, row: StageResult) -> list[Finding]:
        witness = self.comparisons[row.name].witness
        if witness is None:
            return []
        own_output = self.own_output.get(row.name)
        evidence = Evidence(
            stage=row.name,
            reference=witness.reference,
            candidate=witness.candidate,
            clip=witness.clip,
            log_softmax=self.log_softmax,
            conversion_error=row.conversion_error,
            conversion_limit=row.conversion_limit,
            precision_error=row.precision_error,
            runtime_error=row.runtime_error,
            own_output_error=own_output.result() if own_output else None,
        )
        weights = self._of_the_weights(row, evidence)
        found = [weights] if weights is not None else diagnose(evidence)
        return [self._with_logit_error(found[0], row), *found[1:]]

    def _with_logit_error(self, finding: Finding, row: StageResult) -> Finding:
        """The finding with what the largest error of a logit consists of, if the stage holds logits."""
        kept, stage = self.kept.get(row.name), self.comparisons[row.name].stage
        if kept is None or self.module is None:
            return finding
        error = largest_logit_error(stage, kept, joint=self.module("joint"), source=self.source, blank=self.blank)
        return (
            finding if error is None else replace(finding, evidence={**finding.evidence, "largest_logit_error": error})
        )

    def _of_the_weights(self, row: StageResult, evidence: Evidence) -> Finding | None:
        """Whether the op of a stage of the joint holds other weights, if the conversion is at fault."""
        kept, stage = self.kept.get(row.name), self.comparisons[row.name].stage
        is_converted_wrong = (row.conversion_error or 0.0) > (row.conversion_limit or np.inf)
        if kept is None or self.module is None or not is_converted_wrong:
            return None
        try:
            module = self.module(module_path(stage.reference))
        except AttributeError:
            return None
        pairs = [pair_of(other) for other in self.stages if other.component == stage.component]
        return weights_finding(evidence, stage, kept, module=module, source=self.source, pairs=pairs)

    def _durations(self) -> DurationAnalysis | None:
        if self.lens is None or not self.lens.points:
            return None
        logits, durations = decision_stages(self.stages, self.lens)
        if logits is None or durations is None:
            return None
        return self.lens.result(durations.name, parent=logits.name)

    def _declared_dtype(self, stage: Stage) -> str:
        model = self.source.packages.get(stage.component)
        return declared_dtype(model, stage.candidate) if model is not None else "float32"


def variants(source: PortableSource) -> dict[str, PortableSource]:
    """The candidate under every precision policy that the comparison needs."""
    sides = {"declared": source, "float64": source.with_precision("float64", dither_seed=DITHER_SEEDS[0])}
    if all(model.declared_precision == "float32" for model in source.packages.values()):
        return sides
    sides["float32"] = source.with_precision("float32")
    for seed in DITHER_SEEDS:
        sides[f"weights/{seed}"] = source.with_precision("float32", dither_seed=seed)
        sides[f"cost/{seed}"] = source.with_precision("float16_unbounded", dither_seed=seed)
    return sides


def pair_of(stage: Stage) -> Pair:
    """A stage's tensors as the walk takes them."""
    is_same = stage.parent is None and not stage.log_softmax
    return Pair(stage.name, stage.reference if is_same else None, stage.candidate)


def reference_of(truth: Array, stage: Stage) -> Array:
    """The reference's side of a stage: its tensor, or the slice of it.

    Raises:
        ConfigError: the slice lies outside of the tensor, or holds nothing.
    """
    try:
        expected = expected_of(truth, stage)
        problem = "it holds nothing" if truth.size and not expected.size else ""
    except IndexError as error:
        problem = str(error)
    if problem:
        raise ConfigError(
            f"the slice of the stage '{stage.name}' does not fit the tensor '{stage.reference}'.",
            where=f"stages.{stage.name}.slice",
            detail=f"the tensor is {written(truth)}: {problem}",
        )
    return expected


def candidate_of(value: Array, stage: Stage, *, truth: Array, padded: str = "") -> Array:
    """The candidate's side of a stage: its tensor, or the slice of it, in the axes of the reference's.

    Raises:
        IndexError: the slice lies outside of the tensor.
    """
    count = len(stage.candidate_slices)
    if not count:
        return value
    agreed, _ = agree(sliced(truth, stage.slices[:-count]), value, padded=padded)
    return sliced(value if agreed is None else agreed, stage.candidate_slices)


def decision_stages(stages: Sequence[Stage], lens: DecisionLens) -> tuple[Stage | None, Stage | None]:
    """The stage that holds all logits of the joint and the one that holds its durations, however it is cut.

    Of a transducer without durations both are the last stage that is no slice.
    """
    if not lens.frames:
        whole = [stage for stage in stages if stage.component == "joint" and not stage.slices]
        return (whole[-1], whole[-1]) if whole else (None, None)
    for stage in stages:
        if stage.component == "joint" and len(stage.slices) == 1 and holds_durations(stage, lens):
            return next(parent for parent in stages if parent.name == stage.parent), stage
    return None, None


def holds_durations(stage: Stage, lens: DecisionLens) -> bool:
    """Whether a stage's slice of the logits [N, 1, 1, V + 1 + D] is exactly the D durations."""
    width = lens.blank + 1 + len(lens.frames)
    columns = np.arange(width).reshape(1, 1, 1, width)
    try:
        return sliced(columns, stage.slices).ravel().tolist() == list(range(lens.blank + 1, width))
    except IndexError:
        return False
