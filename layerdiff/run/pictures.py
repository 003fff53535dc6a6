"""What a report shows beyond its rows: profiles, the graph around the first divergence, waveforms, the weights' audit.

Profiles are taken in while the comparison runs; everything else is made once at its end, of what is open anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff import audio
from layerdiff.align.weights import match_weights
from layerdiff.audit import audit
from layerdiff.metrics.profile import ProfileAccumulator
from layerdiff.pictures import OpNode, Waveform
from layerdiff.sources.checkpoint import weights_in
from layerdiff.sources.coreml_model import PackageSource

if TYPE_CHECKING:
    from layerdiff.audit import WeightAudit
    from layerdiff.compare import StageComparison
    from layerdiff.config import Config
    from layerdiff.outline import Node, Outline
    from layerdiff.records import CandidateResult, Component, Report, StageResult
    from layerdiff.run.aligned_trial import AlignedTrial
    from layerdiff.run.inputs import Inputs
    from layerdiff.run.trial import Trial
    from layerdiff.sources.nemo import NemoSource, Tokenizer

BEFORE, AFTER, OPS = 4, 2, 32
"""How many ops before and after the first divergence its graph reaches, and how many it holds at most."""
CLIPS = 4
"""How many recordings are drawn."""
SAMPLE_RATE_HZ = 16_000
"""Of a drawing, where the reference has no rate of its own."""
PARTS = 400
"""Parts of a waveform."""


@dataclass(frozen=True)
class Subject:
    """One component of a candidate, as far as it is drawn."""

    candidate: str
    component: str
    comparisons: Mapping[str, StageComparison]
    reference: Outline
    """Of which only the weights are looked at."""
    outline: Outline


def request_of(config: Config) -> dict[str, Any]:
    """What was asked for: the file, and what it came to with the options of the command line."""
    return {"path": config.path, "resolved": config.model_dump(mode="json", exclude_none=True)}


def take_profiles(comparisons: Iterable[StageComparison]) -> None:
    """Lets stages that are about to be compared take in how their values are distributed."""
    for comparison in comparisons:
        comparison.profile = ProfileAccumulator()


def of_walks(trials: Sequence[Trial], reference: NemoSource) -> Iterator[Subject]:
    """The components of candidates that were walked."""
    for trial in trials:
        for component, model in trial.source.packages.items():
            known = {name: c for name, c in trial.comparisons.items() if c.stage.component == component}
            outline = PackageSource(model).outline({})
            yield Subject(trial.name, component, known, _weights(reference, component), outline)


def _weights(reference: NemoSource, component: Component) -> Outline:
    prefix = f"{component}."
    state = reference.model.state_dict()
    return weights_in(component, {name: value for name, value in state.items() if name.startswith(prefix)})


def of_alignments(trials: Mapping[str, Sequence[AlignedTrial]]) -> Iterator[Subject]:
    """The components of candidates that were aligned."""
    for name, components in trials.items():
        for trial in components:
            if (meeting := trial.meeting) is not None:
                yield Subject(name, trial.component, trial.comparisons, meeting.reference, meeting.candidate)


def illustrate(
    report: Report, subjects: Iterable[Subject], *, inputs: Inputs | None = None, tokenizer: Tokenizer | None = None
) -> Report:
    """The report with its pictures.

    Args:
        report: what the comparison came to.
        subjects: the components of all candidates.
        inputs: the recordings.
        tokenizer: makes texts of tokens.
    """
    seconds = {clip["name"]: clip["duration_s"] for clip in report.inputs.get("clips", ()) if "duration_s" in clip}
    by_candidate: dict[str, list[Subject]] = {name: [] for name in report.candidates}
    for subject in subjects:
        by_candidate[subject.candidate].append(subject)
    candidates = {name: _illustrated(result, by_candidate[name], seconds) for name, result in report.candidates.items()}
    report = replace(report, candidates=candidates)
    return replace(
        report,
        waveforms=tuple(_waveforms(report, inputs)) if inputs is not None else (),
        pieces=_pieces(report, tokenizer) if tokenizer is not None else {},
    )


def _illustrated(result: CandidateResult, subjects: Sequence[Subject], seconds: dict[str, float]) -> CandidateResult:
    by_component = {subject.component: subject for subject in subjects}

    def drawn(row: StageResult) -> StageResult:
        subject = by_component.get(row.component)
        comparison = subject.comparisons.get(row.name) if subject is not None else None
        if comparison is None or comparison.profile is None:
            return row
        # a prediction network goes from token to token: its steps are no frames
        known = {} if row.component == "decoder" else seconds
        return replace(row, profile=comparison.profile.result(seconds=known))

    stages = tuple(drawn(row) for row in result.stages)
    first = next((row for row in stages if row.status == "fail"), None)
    subject = by_component.get(first.component) if first is not None else None
    graph = _around(first, subject, stages) if first is not None and subject is not None else ()
    return replace(result, stages=stages, graph=tuple(graph), audit=_audits(subjects))


# ------------------------------------------------------------------ the graph


def _around(first: StageResult, subject: Subject, stages: Sequence[StageResult]) -> Iterator[OpNode]:
    """The ops that lead to the first divergence, and those that read it, in order of execution."""
    outline = subject.outline
    comparison = subject.comparisons.get(first.name)
    centre = outline.by_name.get(comparison.stage.candidate) if comparison is not None else None
    if centre is None:
        return
    before = _reached([centre], BEFORE, lambda node: [outline.by_name[n] for n in node.inputs if n in outline.by_name])
    after = _reached([centre], AFTER, lambda node: outline.readers.get(node.name, ()))
    near = list(dict.fromkeys([*before, *after]))[:OPS]
    names = {node.name for node in near}
    compared = {
        outline.by_name[c.stage.candidate].name: name
        for name, c in subject.comparisons.items()
        if c.stage.candidate in outline.by_name and c.stage.parent is None
    }
    statuses = {row.name: row.status for row in stages if row.component == subject.component}
    for node in (*outline.inputs, *outline.nodes):
        if node.name in names:
            stage = compared.get(node.name, "")
            inside = tuple(dict.fromkeys(outline.by_name[n].name for n in node.inputs if n in outline.by_name))
            yield OpNode(
                name=node.name,
                op=node.op,
                inputs=tuple(name for name in inside if name in names),
                dtype=node.dtype,
                shape=node.shape,
                stage=stage,
                status=statuses.get(stage, ""),
            )


def _reached(start: Sequence[Node], steps: int, neighbours: Callable[[Node], Iterable[Node]]) -> list[Node]:
    """The nodes at most so many steps away, the nearest first."""
    found, edge = list(start), list(start)
    for _ in range(steps):
        edge = [node for near in edge for node in neighbours(near) if node not in found]
        found += dict.fromkeys(edge)
    return found


# ------------------------------------------------------------------ weights


def _audits(subjects: Sequence[Subject]) -> Mapping[str, Any] | None:
    """The audits of all components as one; None where neither side's weights are known."""
    found = [
        audit(subject.reference, subject.outline, match_weights(subject.reference, subject.outline))
        for subject in subjects
        if subject.reference.weights and subject.outline.weights
    ]
    if not found:
        return None
    counts: dict[str, int] = {}
    for entry in found:
        for verdict, count in entry.counts.items():
            counts[verdict] = counts.get(verdict, 0) + count
    return {"counts": counts, "weights": [_weight(weight) for entry in found for weight in entry.weights]}


def _weight(weight: WeightAudit) -> dict[str, Any]:
    return {
        "name": weight.name,
        "shape": list(weight.shape),
        "verdict": weight.verdict,
        "reason": weight.reason,
        "constants": list(weight.constants),
        "stored": weight.stored,
        "transform": weight.transform,
        "relative_l2_error": weight.difference.relative_l2_error if weight.difference is not None else None,
    }


# ------------------------------------------------------------------ recordings


def _waveforms(report: Report, inputs: Inputs) -> Iterator[Waveform]:
    """The recordings on which something can be seen, drawn small."""
    names = list(dict.fromkeys(_telling_clips(report)))[:CLIPS]
    recordings = {recording.name: recording for recording in inputs.recordings}
    rate = report.reference.get("sample_rate_hz")
    for name in names:
        if name in recordings:
            clip = audio.read_one(recordings[name], sample_rate_hz=int(rate or SAMPLE_RATE_HZ))
            parts = np.array_split(clip.samples, min(PARTS, len(clip.samples)))
            low, high = ([round(float(end(part)), 4) for part in parts] for end in (np.min, np.max))
            yield Waveform(name, clip.duration_s, tuple(low), tuple(high))


def _telling_clips(report: Report) -> Iterator[str]:
    """Clips with changed decisions or lost signs first, then those whose durations are drawn, then the first."""
    analyses = [result.tdt for result in report.candidates.values() if result.tdt is not None]
    for tdt in analyses:
        if tdt.first_all_negative is not None:
            yield tdt.first_all_negative.clip
        yield from (flip.clip for flip in tdt.flips)
    yield from (drawn.clip for tdt in analyses for drawn in tdt.maps)
    yield from (table["clip"] for tdt in analyses for table in tdt.decisions[:1])


def _pieces(report: Report, tokenizer: Tokenizer) -> dict[int, str]:
    """The texts of all tokens that either side decides for."""
    tables = [table for result in report.candidates.values() if result.tdt for table in result.tdt.decisions]
    sides = [table[f"{side}_token"] for table in tables for side in ("reference", "candidate")]
    tokens = {int(token) for side in sides for token in np.unique(side)}
    return {token: tokenizer.piece(token) for token in sorted(tokens)}
