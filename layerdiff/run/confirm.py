"""A second opinion on the stages under suspicion: their own error once more, measured one stage at a time.

The comparison finds the own error of all stages in one forced run. Where that says that a stage is at fault, the
program is run again for that stage alone, and given the reference's tensors of the stages before it instead of
computing them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from layerdiff.errors import EngineError, FeedError
from layerdiff.metrics import RelativeL2

if TYPE_CHECKING:
    from layerdiff.records import Array, StageResult
    from layerdiff.run.aligned_stages import AlignedStage
    from layerdiff.run.aligned_trial import AlignedTrial
    from layerdiff.sources import Feed

MOST = 3
"""How many stages of a candidate are confirmed."""


def suspects(rows: Sequence[StageResult]) -> list[str]:
    """The failing stages with an error of their own beyond what they may have in all, the first ones first."""
    found = [row for row in rows if row.status == "fail" and row.own_error is not None]
    return [row.name for row in found if row.total_limit is None or (row.own_error or 0.0) > row.total_limit][:MOST]


def confirmed_own_error(trial: AlignedTrial, stage: str, feed: Feed) -> float | None:
    """The own error of one stage on one feed; None where the reference's tensors can't be given to the program."""
    sides = own_sides(trial, stage, feed)
    if sides is None:
        return None
    error = RelativeL2()
    error.update(reference=sides[0], candidate=sides[1])
    return error.result()


def own_sides(
    trial: AlignedTrial,
    stage: str,
    feed: Feed,
    *,
    precision: str | None = None,
    constants: Mapping[str, Array] | None = None,
) -> tuple[Array, Array] | None:
    """Both sides of a stage where the candidate is given the reference's tensors of the stages before it.

    Args:
        trial: the comparison, done.
        stage: the stage's name.
        feed: what both sides are fed.
        precision: the policy under which the program runs; its own if None.
        constants: values in the place of some of the program's constants.

    Returns:
        The candidate's in the layout of the reference's; None where the program can't be run so.
    """
    meeting = trial.meeting
    model = getattr(trial.runs, "model", None)
    if meeting is None or model is None:
        return None
    model = model if precision is None else model.with_precision(precision)
    model = model.with_constants(constants) if constants else model
    by_name = {aligned.stage.name: aligned for aligned in meeting.stages}
    before = [by_name[name] for name in trial.sources_left(stage)]
    target = by_name[stage]
    truths = reference_tensors(trial, feed, [aligned.stage.reference for aligned in (target, *before)])
    fed, _ = trial.runs.fitted({theirs: feed[ours] for ours, theirs in meeting.inputs.items()})
    try:
        given = given_tensors(trial, before, truths, feed)
        if given is None:
            return None
        value = model.run(fed, [target.stage.candidate], inject=given)[target.stage.candidate]
    except (FeedError, EngineError):  # the comparison itself has run; only this question has no answer
        return None
    expected, moved, _ = trial.sides.agreed(target, truths[target.stage.reference], {"own": value})
    return None if moved is None else (expected, moved["own"])


def reference_tensors(trial: AlignedTrial, feed: Feed, names: Sequence[str]) -> dict[str, Array]:
    """The named tensors of the reference on a feed."""
    found: dict[str, Array] = {}
    trial.reference.stream(feed, lambda name, value: found.update({name: np.array(value)}), names)
    return found


def given_tensors(
    trial: AlignedTrial, stages: Sequence[AlignedStage], truths: Mapping[str, Array], feed: Feed
) -> dict[str, Array] | None:
    """Tensor of the candidate → the reference's, in the candidate's layout; None if one of them can't be given."""
    meeting = trial.meeting
    if meeting is None or not stages:
        return {}
    fed, _ = trial.runs.fitted({theirs: feed[ours] for ours, theirs in meeting.inputs.items()})
    values = {name: np.array(value) for name, value in trial.runs.probe(fed, [s.stage.candidate for s in stages])}
    found = {}
    for aligned in stages:
        name = aligned.stage.candidate
        value = trial.sides.inverted(aligned, truths[aligned.stage.reference], values[name]) if name in values else None
        if value is None:
            return None
        found[name] = value
    return found
