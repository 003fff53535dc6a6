"""One model of a candidate under comparison with one model of the reference, stage by stage, in lockstep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from layerdiff.align import Alignment, Signature, align
from layerdiff.align.structure import OTHER_OP
from layerdiff.align.values import signature
from layerdiff.compare import Stage, StageComparison, expected_of, sliced
from layerdiff.errors import EngineError, FeedError, LayerdiffError
from layerdiff.metrics.profile import ProfileAccumulator
from layerdiff.records import StageResult
from layerdiff.run.aligned_decisions import Decisions
from layerdiff.run.aligned_stages import AlignedStage, Sides, aligned_stages
from layerdiff.run.lockstep import Lockstep
from layerdiff.run.meeting import Group, Meeting, Shown, grouped, require_tensors
from layerdiff.run.runs import Runs, paired_inputs
from layerdiff.run.weight_links import weight_links

if TYPE_CHECKING:
    from collections.abc import Collection

    from layerdiff.outline import Outline
    from layerdiff.records import Array
    from layerdiff.sources import Feed, TensorSource
    from layerdiff.sources.coreml_native_model import NativeModel


@dataclass
class AlignedTrial:
    """One component of a candidate: feeds pass through `begin`, `receive`, `end`; `results` sums up."""

    candidate: str
    component: str
    reference: TensorSource
    runs: Runs
    given: Sequence[Stage] | None = None
    """The user's stages; None to align."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    place: str = "the configuration"
    outputs: Sequence[str] | None = None
    """The names by which a contract calls what the reference returns; None where there is no contract."""
    is_drawn: bool = False
    """Whether stages take in how their values are distributed."""
    meeting: Meeting | None = None
    chosen: Collection[str] | None = None
    """The stages that are compared; None for all of them."""
    search: str = ""
    """What a search for the first bad stage says; empty without one."""
    comparisons: dict[str, StageComparison] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Feed that could not be run → why."""
    refusal: LayerdiffError | None = None
    """What the reference itself said to the last feed that it did not take."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Stage that turned out not to be one → why: what was inferred of its pair is not borne out by its values."""
    hidden: list[str] = field(default_factory=list)
    """Stages whose tensors Core ML did not show."""
    sides: Sides = field(default_factory=Sides)
    shown: Shown | None = None
    """The first feed that both sides went through; None if there was none."""
    decisions: Decisions | None = field(init=False)
    """What becomes of the decisions of a CTC head or a joint; None for any other reference."""
    _lockstep: Lockstep | None = None
    _groups_by_reference: dict[str, list[Group]] = field(default_factory=dict)
    """Reference tensor → what it is compared with, of the feed under way."""
    _early: list[Group] = field(default_factory=list)
    """Groups whose reference's tensor waits for the candidate's."""
    _unforced: set[str] = field(default_factory=set)
    """Stages whose reference's tensor could not take the place of the candidate's."""
    _label: str = ""
    _feed: Feed = field(default_factory=dict)
    _note: str = ""

    def __post_init__(self) -> None:
        self.decisions = Decisions.of(self.reference)

    # -------------------------------------------------------------- alignment

    def meet(self, feed: Feed) -> Meeting:
        """What is compared, found out on the first feed.

        Raises:
            ConfigError: a stage of the user names a tensor that one side does not have.
            FeedError: the two sides don't take the same inputs.
        """
        if self.meeting is None:
            inputs = paired_inputs(feed, self.runs, title=f"candidate '{self.candidate}'")
            ours, theirs = self._reference_outline(feed), self.runs.outline(self._fed(feed, inputs)[0])
            if self.given is not None:
                require_tensors(self.given, ours, theirs, title=f"candidate '{self.candidate}'", place=self.place)
                stages = [AlignedStage(stage) for stage in self.given]
                self.meeting = Meeting(ours, theirs, inputs, stages, None)
            else:
                found = self._align(ours, theirs, inputs, feed)
                stages = aligned_stages(found, component=self.component, reference=ours, candidate=theirs)
                self.meeting = Meeting(ours, theirs, inputs, stages, found)
            self.comparisons = {s.stage.name: self._comparison(s.stage) for s in self.meeting.stages}
        return self.meeting

    def _reference_outline(self, feed: Feed) -> Outline:
        """The reference's structure; what it refuses is kept as `refusal`."""
        try:
            return self.reference.outline(feed)
        except (FeedError, EngineError) as error:
            self.refusal = error
            raise

    def _align(self, ours: Outline, theirs: Outline, inputs: Mapping[str, str], feed: Feed) -> Alignment:
        def probe(
            reference: Collection[str], candidate: Collection[str]
        ) -> tuple[dict[str, Signature], dict[str, Signature]]:
            first: dict[str, Signature] = {}
            self.reference.stream(feed, lambda name, value: first.update({name: signature(value)}), reference)
            second = self.runs.probe(self._fed(feed, inputs)[0], candidate)
            return first, {name: signature(value) for name, value in second}

        outputs = None if self.outputs is None else dict(self._outputs(ours, theirs))
        return align(
            ours, theirs, inputs=inputs, weights=weight_links(ours, theirs), outputs=outputs or None, probe=probe
        )

    def _outputs(self, ours: Outline, theirs: Outline) -> Iterator[tuple[str, str]]:
        """The outputs that a contract names, where the candidate has them."""
        for tensor, name in zip(ours.outputs, self.outputs or (), strict=False):
            if name in theirs.outputs:
                yield tensor, name

    def _fed(self, feed: Feed, inputs: Mapping[str, str]) -> tuple[Feed, str]:
        return self.runs.fitted({theirs: feed[ours] for ours, theirs in inputs.items()})

    def _comparison(self, stage: Stage) -> StageComparison:
        variants = getattr(self.runs, "variants", {"declared": None})
        return StageComparison(
            stage,
            self.runs.dtype(stage.candidate),
            is_estimated=len(variants) == 1,
            keeps_witness=False,
            profile=ProfileAccumulator() if self.is_drawn else None,
        )

    @property
    def stages(self) -> list[AlignedStage]:
        """What is compared, in the order of the reference."""
        every = self.meeting.stages if self.meeting else ()
        return [stage for stage in every if self.chosen is None or stage.stage.name in self.chosen]

    # -------------------------------------------------------------- comparison

    def begin(self, feed: Feed, label: str) -> Collection[str]:
        """Starts the candidate's runs on a feed; the reference's tensors that they are compared with."""
        self._lockstep, self._label, self._feed = None, label, feed
        try:
            meeting = self.meet(feed)
            fed, self._note = self._fed(feed, meeting.inputs)
            wanted = [s.stage.candidate for s in self.stages if not s.stage.candidate_slices]
            self._groups_by_reference = grouped(self.stages, meeting)
            self._lockstep = Lockstep(self.runs.cursors(fed, wanted))
        except (FeedError, EngineError) as error:
            self.missing[label] = _in_one_line(error)
            return ()
        return self._groups_by_reference.keys()

    def receive(self, name: str, truth: Array) -> None:
        """Compares one tensor of the reference with its counterparts, or keeps it until the candidate has got there."""
        for group in self._groups_by_reference.get(name, ()):
            if group.waits and self._lockstep is not None:
                self._lockstep.waiting.put(group.key, truth)
                self._early.append(group)
                continue
            self._catch_up(group.place)
            self._compare_group(group, truth)

    def finish(self) -> None:
        """Compares what is still waiting when the reference has ended."""
        self._catch_up(None)
        if self._lockstep is not None and self.shown is None:
            self.shown = Shown(self._label, self._feed)

    def _catch_up(self, place: int | None) -> None:
        """Compares what waits for tensors of the candidate before a place in its order; all of it if None."""
        due = sorted((g for g in self._early if place is None or g.place < place), key=lambda g: g.place)
        for group in due:
            self._early.remove(group)
            truth = self._lockstep.waiting.take(group.key) if self._lockstep is not None else None
            if truth is not None:
                self._compare_group(group, truth)

    def _compare_group(self, group: Group, truth: Array) -> None:
        if self._lockstep is None:
            return
        aligned, *slices = group.stages
        stage = aligned.stage
        try:
            values = self._lockstep.take(stage.candidate)
        except (FeedError, EngineError) as error:
            self._stop(error)
            return
        if self.native is not None and "native" not in values:
            self.hidden += [s.stage.name for s in group.stages]  # the engine's values must not pass for Core ML's
        elif values:
            moved = self._compare(aligned, truth, values)
            self._force(aligned, truth, self._lockstep, values)
            for part in slices:
                self._compare_slice(part.stage, truth, moved)

    def _stop(self, error: LayerdiffError) -> None:
        """Gives up on a feed that the candidate does not take, or on which one of its ops fails."""
        self.missing[self._label] = _in_one_line(error)
        self.end()

    def _compare(self, aligned: AlignedStage, truth: Array, values: Mapping[str, Array]) -> dict[str, Array]:
        comparison = self.comparisons[aligned.stage.name]
        expected, moved, note = self.sides.agreed(aligned, truth, values, padded=bool(self._note))
        if moved is None and aligned.link is not None and aligned.link.composite:
            self.dropped[aligned.stage.name] = (
                f"it seemed to be '{aligned.stage.candidate}', but no layout fits: {note}"
            )
            return {}
        if moved is None:
            why = f"no layout brings the two sides together: {note}"
            comparison.disagree(why, reference=expected, candidate=values.get("native", values["declared"]))
            return {}
        said = "; ".join(filter(None, (note, self._note if "cut off" in note else "")))
        variants = {
            name: value for name, value in moved.items() if name != "own" or self._is_forced(aligned.stage.name)
        }
        if not comparison.is_estimated:
            variants.setdefault("float32", moved["declared"])
        comparison.update(expected, variants, clip=self._label, points=None, layout="")
        comparison.layout = said or comparison.layout
        if self.decisions is not None and aligned.is_returned:
            shown = moved.get("native", moved["declared"])
            self.decisions.take(aligned.stage.name, reference=expected, candidate=shown, clip=self._label)
        return moved

    def _is_forced(self, stage: str) -> bool:
        """Whether the forced run was given the reference's tensors of all that a stage is computed from."""
        missing = self._unforced.intersection(self.sources.get(stage, ()))
        return all(source in self.dropped and self._is_forced(source) for source in missing)

    def _compare_slice(self, stage: Stage, truth: Array, parent: Mapping[str, Array]) -> None:
        """A slice of a stage whose two sides agree already."""
        if not parent:
            return
        cut = {name: sliced(value, stage.slices) for name, value in parent.items()}
        comparison = self.comparisons[stage.name]
        if not comparison.is_estimated:
            cut.setdefault("float32", cut["declared"])
        comparison.update(expected_of(truth, stage), cut, clip=self._label, points=None, layout="")

    def _force(self, aligned: AlignedStage, truth: Array, lockstep: Lockstep, values: Mapping[str, Array]) -> None:
        """Lets the forced run go on with the reference's tensor."""
        value = self.sides.inverted(aligned, truth, values["own"]) if "own" in values else None
        if value is not None:
            lockstep.cursors["own"].replace(aligned.stage.candidate, value)
        elif aligned.is_whole:
            self._unforced.add(aligned.stage.name)

    def end(self) -> None:
        """Ends the candidate's runs on a feed."""
        self._early.clear()
        if self._lockstep is not None:
            self._lockstep.__exit__()
            self._lockstep = None

    @property
    def native(self) -> NativeModel | None:
        """The candidate on Core ML itself, if that is what is compared."""
        return getattr(self.runs, "native", None)

    def close(self) -> None:
        """Ends what Core ML runs in, once nothing more is fed."""
        if self.native is not None:
            self.native.close()

    # -------------------------------------------------------------- results

    def results(self) -> list[StageResult]:
        """The rows of all stages, and of what should have been one, in the order of the reference."""
        if self.meeting is None:
            return [StageResult(self.component, self.component, "unknown", self._why_missing())]
        rows = {aligned.stage.name: self._row(aligned) for aligned in self.stages}
        for aligned in self.stages:
            if self._is_refuted(aligned, rows):
                self.dropped[aligned.stage.name] = (
                    f"it seemed to be '{aligned.stage.candidate}', but their values differ while what is computed "
                    "from them agrees: the two sides compute it in other steps"
                )
        return [row for name, row in rows.items() if name not in self.dropped] + (
            self._unknown() if self.chosen is None else []
        )

    def _is_refuted(self, aligned: AlignedStage, rows: Mapping[str, StageResult]) -> bool:
        """Whether a pair that is not sure fails, while something that is computed from it agrees, or nothing is."""
        row, link = rows[aligned.stage.name], aligned.link
        if link is None or row.status != "fail" or not (link.composite or link.confidence < OTHER_OP):
            return False
        readers = [rows[name] for name, sources in self.sources.items() if row.name in sources and name in rows]
        is_returned = self.meeting is not None and link.candidate in self.meeting.candidate.outputs
        return not is_returned and (not readers or any(reader.status == "pass" for reader in readers))

    def _row(self, aligned: AlignedStage) -> StageResult:
        stage, link = aligned.stage, aligned.link
        comparison = self.comparisons[stage.name]
        if stage.name in self.hidden and self.native is not None:
            comparison.missing = self.native.missing.get(stage.candidate, "Core ML does not show it")
        elif not comparison.is_captured or self.missing:
            comparison.missing = self._why_missing()
        row = comparison.result(
            depth=self.depths.get(stage.candidate, 0),
            parent=self.comparisons[stage.parent] if stage.parent else None,
            thresholds=self.thresholds,
        )
        row = replace(row, placement=getattr(self.runs, "placements", {}).get(stage.candidate, ""))
        if link is None:
            return row
        return replace(row, alignment_method=link.method, alignment_confidence=link.confidence)

    def _why_missing(self) -> str:
        refused = "; ".join(f"{label}: {why}" for label, why in self.missing.items())
        return refused or "; ".join(["nothing was captured", *self._partial()])

    def _partial(self) -> Iterator[str]:
        """Of either side that is a partial trace, how far it goes."""
        for side, model in (("reference", self.reference), ("candidate", self.runs)):
            if "state" in model.description:
                yield f"the {side} is {model.description['state']}"

    def _unknown(self) -> list[StageResult]:
        """Outputs of the reference without a counterpart, and tensors that could be several: never a pass."""
        alignment = self.meeting.alignment if self.meeting else None
        return [
            StageResult(left.tensor, self.component, "unknown", left.reason, alignment_method="none")
            for left in (alignment.unmatched if alignment else ())
            if left.side == "reference" and (left.is_output or len(left.candidates) > 1)
        ]

    @cached_property
    def depths(self) -> Mapping[str, int]:
        """Tensor of the candidate → number of ops on the longest path from an input to it."""
        depths: dict[str, int] = {}
        for node in self.meeting.candidate.nodes if self.meeting else ():
            depths[node.name] = 1 + max((depths.get(name, 0) for name in node.inputs), default=0)
        return depths

    @cached_property
    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """Stage → the stages whose tensors it is computed from directly, with nothing compared in between."""
        return self.meeting.sources if self.meeting is not None else {}

    def sources_left(self, stage: str) -> tuple[str, ...]:
        """The sources of a stage; in the place of one that turned out to be no pair, those that it has itself."""
        found: dict[str, None] = {}
        for name in self.sources.get(stage, ()):
            found |= dict.fromkeys(self.sources_left(name) if name in self.dropped else (name,))
        return tuple(found)


def _in_one_line(error: LayerdiffError) -> str:
    """What was refused and the first line of the detail."""
    detail = (error.detail or "").partition("\n")[0]
    return ": ".join(filter(None, (error.what.removesuffix("."), detail)))
