"""What the diagnosis says of the first divergence of an aligned comparison, whose tensors are fetched again for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerdiff.diagnose.rules import Evidence, diagnose
from layerdiff.run.confirm import reference_tensors

if TYPE_CHECKING:
    from layerdiff.records import Finding, StageResult
    from layerdiff.run.aligned_trial import AlignedTrial


def findings(row: StageResult, trials: Sequence[AlignedTrial]) -> tuple[Finding, ...]:
    """The findings about a failing stage, on the first feed of its component; none if its tensors can't be had."""
    trial = next(trial for trial in trials if trial.component == row.component)
    shown, meeting = trial.shown, trial.meeting
    aligned = next((s for s in meeting.stages if s.stage.name == row.name), None) if meeting else None
    if shown is None or meeting is None or aligned is None or aligned.stage.candidate_slices:
        return ()
    truth = reference_tensors(trial, shown.feed, [aligned.stage.reference])[aligned.stage.reference]
    fed, _ = trial.runs.fitted({theirs: shown.feed[ours] for ours, theirs in meeting.inputs.items()})
    cursor = trial.runs.cursors(fed, [aligned.stage.candidate])["declared"]
    value = cursor.take(aligned.stage.candidate)
    expected, moved, _ = trial.sides.agreed(aligned, truth, {} if value is None else {"declared": value})
    if moved is None or value is None:
        return ()
    evidence = Evidence(
        stage=row.name,
        reference=expected,
        candidate=moved["declared"],
        clip=shown.label,
        log_softmax="None",
        conversion_error=row.conversion_error,
        conversion_limit=row.conversion_limit,
        precision_error=row.precision_error,
        runtime_error=row.runtime_error,
        own_output_error=None,
    )
    return tuple(diagnose(evidence))
