"""What the diagnosis says of the first divergence of an aligned comparison, whose tensors are fetched again for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.align.graph import Graph
from layerdiff.diagnose.evidence import Evidence
from layerdiff.diagnose.rules import diagnose
from layerdiff.run.confirm import own_sides, reference_tensors
from layerdiff.run.held_weights import HeldWeight, held_between, held_weights

if TYPE_CHECKING:
    from layerdiff.outline import Node
    from layerdiff.records import Array, Finding, StageResult
    from layerdiff.run.aligned_stages import AlignedStage
    from layerdiff.run.aligned_trial import AlignedTrial
    from layerdiff.run.meeting import Meeting, Shown

WEIGHTED_SECOND = frozenset({"conv", "conv_transpose", "batch_norm", "group_norm"})
"""Kinds of op whose channels are the second axis."""


def findings(row: StageResult, trials: Sequence[AlignedTrial]) -> tuple[Finding, ...]:
    """The findings about a failing stage, on the first feed of its component; none if its tensors can't be had."""
    trial = next(trial for trial in trials if trial.component == row.component)
    shown, meeting = trial.shown, trial.meeting
    aligned = next((s for s in meeting.stages if s.stage.name == row.name), None) if meeting else None
    if shown is None or meeting is None or aligned is None or aligned.stage.candidate_slices:
        return ()
    sides = _sides(row, aligned, trial, meeting, shown)
    if sides is None:
        return ()
    node = meeting.reference.by_name[aligned.stage.reference]
    evidence = Evidence(
        stage=row.name,
        reference=sides[0],
        candidate=sides[1],
        clip=shown.label,
        log_softmax="None",
        conversion_error=row.conversion_error,
        conversion_limit=row.conversion_limit,
        precision_error=row.precision_error,
        runtime_error=row.runtime_error,
        kind=node.kind,
        states=_states(meeting, shown),
        with_zeros=partial(_with_zeros, trial, aligned, shown),
        **_of_the_op(node, aligned, trial, meeting, shown),
    )
    return tuple(diagnose(evidence))


def _sides(
    row: StageResult, aligned: AlignedStage, trial: AlignedTrial, meeting: Meeting, shown: Shown
) -> tuple[Array, Array] | None:
    """Both sides of the stage.

    A fault of the conversion shows most clearly in float32, with nothing inherited; what only precision or Core ML
    brings about shows in the program as declared.
    """
    error, limit = row.conversion_error, row.conversion_limit
    if error is not None and limit is not None and error > limit:
        own = own_sides(trial, row.name, shown.feed, precision="float32")
        if own is not None and (own[0] != own[1]).any():
            return own
    truth = reference_tensors(trial, shown.feed, [aligned.stage.reference])[aligned.stage.reference]
    given, _ = trial.runs.fitted({theirs: shown.feed[ours] for ours, theirs in meeting.inputs.items()})
    value = trial.runs.cursors(given, [aligned.stage.candidate])["declared"].take(aligned.stage.candidate)
    if value is None:
        return None
    expected, moved, _ = trial.sides.agreed(aligned, truth, {"declared": value})
    return (truth, value) if moved is None else (expected, moved["declared"])


def _states(meeting: Meeting, shown: Shown) -> tuple[str, ...]:
    """The inputs of which the model returns the next value: float tensors of an output's shape, beside other inputs."""
    returned = {meeting.reference.by_name[name].shape for name in meeting.reference.outputs}
    found = [
        name
        for name, value in shown.feed.items()
        if np.asarray(value).dtype.kind == "f" and np.ndim(value) > 1 and tuple(np.shape(value)) in returned
    ]
    return tuple(found) if len(found) < len(shown.feed) else ()


def _with_zeros(trial: AlignedTrial, aligned: AlignedStage, shown: Shown, states: Collection[str]) -> Array | None:
    """The reference's side of the stage where some of the inputs are zero."""
    feed = {name: np.zeros_like(value) if name in states else value for name, value in shown.feed.items()}
    return reference_tensors(trial, feed, [aligned.stage.reference]).get(aligned.stage.reference)


def _held(aligned: AlignedStage, trial: AlignedTrial, meeting: Meeting) -> list[HeldWeight]:
    """The weights of the op, behind what only moves its result, and of those before it that are not compared."""
    ours, theirs = (
        outline.by_name.get(Graph(outline).root(name))
        for outline, name in (
            (meeting.reference, aligned.stage.reference),
            (meeting.candidate, aligned.stage.candidate),
        )
    )
    own = [] if ours is None or theirs is None else held_weights(meeting.reference, meeting.candidate, ours, theirs)
    stages = {stage.stage.name: stage.stage.candidate for stage in meeting.stages}
    before = [stages[name] for name in trial.sources_left(aligned.stage.name) if name in stages]
    known = {weight.constant for weight in own}
    between = held_between(meeting.reference, meeting.candidate, aligned.stage.candidate, before)
    return own + [weight for weight in between if weight.constant not in known]


def _rerun(
    trial: AlignedTrial, stage: str, shown: Shown, held: Mapping[str, HeldWeight], weights: Mapping[str, Array]
) -> Array | None:
    """The stage in float32 with other weights, given the reference's tensors before it."""
    constants = {held[role].constant: held[role].as_constant(value) for role, value in weights.items()}
    sides = own_sides(trial, stage, shown.feed, precision="float32", constants=constants)
    return None if sides is None else sides[1]


def _of_the_op(
    node: Node, aligned: AlignedStage, trial: AlignedTrial, meeting: Meeting, shown: Shown
) -> dict[str, Any]:
    """What is known of the reference's op, if the stage is all of its result."""
    if aligned.stage.slices:
        return {}
    known = meeting.reference.weights
    weights = {role: known[name] for role, name in node.weights.items() if name in known}
    names = [name for name in node.inputs if name in meeting.reference.by_name]
    stages = {stage.stage.name: stage.stage.reference for stage in meeting.stages if stage.is_whole}
    before = [stages[name] for name in trial.sources_left(aligned.stage.name) if name in stages]
    operands = reference_tensors(trial, shown.feed, [*names, *before])
    held = _held(aligned, trial, meeting)
    return {
        "held": {weight.role: (weight.expected, weight.held) for weight in held},
        "rerun": partial(_rerun, trial, aligned.stage.name, shown, {weight.role: weight for weight in held}),
        "channel_axis": 1 if node.kind in WEIGHTED_SECOND else -1,
        "operands": tuple(operands[name] for name in names if name in operands),
        "sources": tuple(operands[name] for name in before if name in operands),
        "weights": {role: weight.read() for role, weight in weights.items() if weight.read is not None},
    }
