"""The pipeline for models that are compared as a whole, with stages that are found or given.

Feeds come from recordings (through a NeMo model, or an adapter), a tensor file or a trace. On each one the reference
runs once, with every candidate beside it in lockstep; nothing of a feed outlives it but counts, sums and the layouts
found.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from layerdiff import audio
from layerdiff.allocator import HEAP_TENSOR_BYTES, return_freed
from layerdiff.environment import environment
from layerdiff.errors import ConfigError, LayerdiffError
from layerdiff.records import (
    AlignmentSummary,
    CandidateResult,
    Check,
    Coverage,
    Missing,
    Report,
    StageResult,
    Unpaired,
    worst_status,
)
from layerdiff.run.adapters import adapter_of
from layerdiff.run.aligned_trial import AlignedTrial
from layerdiff.run.checks import known_hazards
from layerdiff.run.confirm import confirmed_own_error, suspects
from layerdiff.run.findings import findings
from layerdiff.run.inputs import Inputs, described, find_inputs, read_tensors
from layerdiff.run.parts import References, open_references, open_runs
from layerdiff.run.pictures import illustrate, of_alignments, request_of
from layerdiff.run.runs import PackageRuns
from layerdiff.run.search import Search
from layerdiff.run.stages import resolve

if TYPE_CHECKING:
    from layerdiff.config import Config
    from layerdiff.progress import Progress
    from layerdiff.records import Array
    from layerdiff.sources import Feed

CONTRACT_OUTPUTS = {
    "preprocessor": ("mel", "mel_length"),
    "encoder": ("encoder", "encoder_length"),
    "decoder": ("decoder", "", "h_out", "c_out"),
    "joint": ("logits",),
}
"""Component of a NeMo model → the names in its packages of what its module returns, in order; empty for none."""

Fed = tuple[str, str, "Feed"]
"""Component, label, feed."""


def execute_aligned(config: Config, *, progress: Progress, pictures: bool = False) -> Report:
    """Compares every candidate of the configuration with the reference; see `run.execute`."""
    inputs = find_inputs(config.inputs) if config.inputs.given else Inputs()
    references = open_references(config, progress=progress)
    given = None
    if config.stages:
        given = resolve(config.stages, component=config.reference.component, parts=tuple(references.parts))
    trials: dict[str, list[AlignedTrial]] = {}
    for name, entry in config.candidates.items():
        runs = open_runs(name, entry, config, references, progress=progress)
        trials[name] = [
            AlignedTrial(
                name,
                part,
                references.parts[part],
                model,
                given=None if given is None else [stage for stage in given if stage.component == part],
                thresholds=config.thresholds,
                place=config.path or "the configuration",
                outputs=CONTRACT_OUTPUTS.get(part) if config.reference.nemo is not None else None,
                is_drawn=pictures,
            )
            for part, model in runs.items()
        ]
    walk = feeds(config, inputs, references)
    parts = tuple(references.parts)
    results = compare_feeds(trials, walk, parts=parts, total=len(inputs), progress=progress, search=config.search)
    report = Report(
        status=worst_status([result.status for result in results.values()]),
        environment=environment(),
        reference=references.description,
        inputs=inputs.summary(),
        candidates=results,
        request=request_of(config),
    )
    if not pictures:
        return report
    return illustrate(report, of_alignments(trials), inputs=inputs, tokenizer=references.tokenizer)


def compare_feeds(
    trials: Mapping[str, Sequence[AlignedTrial]],
    walk: Iterator[Fed],
    *,
    parts: Collection[str],
    total: int,
    progress: Progress,
    search: bool = False,
) -> dict[str, CandidateResult]:
    """Every feed through the reference and all candidates of its component, and what that adds up to.

    Args:
        trials: candidate → its components.
        walk: what is fed.
        parts: the components of the reference.
        total: number of inputs, 0 if it is not known.
        progress: told about every input.
        search: whether to look for the first bad stage on the first feed of each component, instead of comparing all.

    Raises:
        ConfigError: there is no feed.
        FeedError, EngineError: the reference takes none of them.
    """
    every = [trial for found in trials.values() for trial in found]
    searched: set[str] = set()
    seen = None
    with ExitStack() as engines, progress.task("comparing", total=total or None) as step:
        for trial in every:
            engines.callback(trial.close)
        for component, label, feed in walk:
            met = [trial for trial in every if trial.component == component]
            if not search:
                compare_feed(met, feed, label)
            elif component not in searched:
                searched.add(component)
                for trial in met:
                    trial.search = Search(trial, feed, label).run()
            step(int(label.partition("#")[0] != seen))
            seen = label.partition("#")[0]
        if seen is None:
            raise ConfigError("there is nothing to feed: no input reached the models.", where="inputs")
        if every and all(trial.meeting is None and trial.refusal is not None for trial in every):
            raise cast("LayerdiffError", every[0].refusal)
        return {name: result_of(name, found, parts=parts) for name, found in trials.items()}


def compare_feed(trials: Sequence[AlignedTrial], feed: Feed, label: str) -> None:
    """One feed through the reference of a component and, beside it, through its candidates."""
    wanted = set(chain.from_iterable(trial.begin(feed, label) for trial in trials))
    if not wanted:
        return

    is_returned = False

    def sink(name: str, value: Array) -> None:
        nonlocal is_returned
        if value.nbytes >= HEAP_TENSOR_BYTES and not is_returned:  # the candidate is about to make one too
            return_freed()
            is_returned = True
        for trial in trials:
            trial.receive(name, value)

    try:
        trials[0].reference.stream(feed, sink, wanted)
        for trial in trials:
            trial.finish()
    finally:
        for trial in trials:
            trial.end()


# ------------------------------------------------------------------ feeds


def feeds(config: Config, inputs: Inputs, references: References) -> Iterator[Fed]:
    """Everything that is fed, component by component within a clip.

    Raises:
        ConfigError: the reference takes no audio and there is no adapter, or it is a trace and there is nothing in it.
    """
    parts = references.parts
    recorded = next((source for source in parts.values() if hasattr(source, "feeds")), None)
    if not config.inputs.given and recorded is not None:
        inputs.seen += [{"name": label} for label in getattr(recorded, "calls", ())]
        for label, feed in recorded.feeds():
            yield from ((part, label, feed) for part in parts)
        return
    if inputs.tensors is not None:
        inputs.seen.append({"name": inputs.tensors.name})
        feed = read_tensors(inputs.tensors)
        yield from ((part, inputs.tensors.name, feed) for part in parts)
        return
    yield from _spoken(config, inputs, references)


def _spoken(config: Config, inputs: Inputs, references: References) -> Iterator[Fed]:
    """The feeds that are made of recordings."""
    first = next(iter(references.parts.values()))
    adapter = None if config.inputs.adapter is None else adapter_of(config.inputs.adapter)
    if adapter is None and references.nemo is None:
        raise ConfigError(
            "the reference is no NeMo model, so nothing says what it is fed of an audio file.",
            where=f"{config.path or 'the configuration'}, inputs",
            detail="expected inputs.adapter, or inputs.tensors",
            action="Name a function 'package.module:function' that makes its inputs of samples and a sample rate.",
        )
    rate = config.inputs.sample_rate_hz if adapter else int(first.sample_rate_hz)  # type: ignore[attr-defined]
    for clip in audio.read(inputs.recordings, sample_rate_hz=rate):
        inputs.seen.append(described(clip))
        if adapter is not None:
            feed = adapter(clip.samples, clip.sample_rate_hz)
            yield from ((part, clip.name, feed) for part in references.parts)
            continue
        for part, source in references.parts.items():
            yield from ((part, label, feed) for label, feed in source.feeds(clip))  # type: ignore[attr-defined]


# ------------------------------------------------------------------ results


def result_of(name: str, trials: Sequence[AlignedTrial], *, parts: Collection[str]) -> CandidateResult:
    """The rows, verdict, coverage, findings and alignment of one candidate over all its components."""
    rows: list[StageResult] = []
    for trial in trials:
        rows += _confirmed(trial, with_gain(trial, trial.results()))
    compared = {trial.component for trial in trials}
    rows += [
        StageResult(part, part, "unknown", f"the candidate has no {part}") for part in parts if part not in compared
    ]
    missing = tuple(Missing(row.name, row.reason) for row in rows if row.status in ("unknown", "skipped"))
    first = next((row for row in rows if row.status == "fail"), None)
    captured = sum(comparison.is_captured for trial in trials for comparison in trial.comparisons.values())
    return CandidateResult(
        name=name,
        status=worst_status([row.status for row in rows]) if rows else "unknown",
        first_divergence=first.name if first else None,
        coverage=Coverage(len(rows), captured, len(rows) - len(missing), missing),
        stages=tuple(rows),
        findings=findings(first, trials) if first else (),
        tdt=next((found for t in trials if t.decisions and (found := t.decisions.result())), None),
        alignment=summary(trials),
        description=_description(trials),
        checks=tuple(check for trial in trials for check in _checks(trial)),
    )


def _checks(trial: AlignedTrial) -> Iterator[Check]:
    """What a package is known for before it runs."""
    if isinstance(trial.runs, PackageRuns):
        yield from known_hazards(trial.runs.model)


def _description(trials: Sequence[AlignedTrial]) -> dict[str, Any]:
    """Engine, precision and path; of several components each one's."""
    described = {trial.component: dict(trial.runs.description) for trial in trials}
    packages = {name: entry["package"] for name, entry in described.items() if "package" in entry}
    for entry in described.values() if packages else ():
        entry.pop("package", None)
    shared = next(iter(described.values()), {}) if len(described) == 1 else {"parts": described}
    searched = [f"{trial.component}: {trial.search}" for trial in trials if trial.search]
    return {**shared, **({"packages": packages} if packages else {}), **({"search": searched} if searched else {})}


def with_gain(trial: AlignedTrial, rows: Sequence[StageResult]) -> list[StageResult]:
    """The rows with how much larger each one's error is than the largest that it is computed from."""
    errors = {row.name: row.metrics.get("relative_l2_error") for row in rows}
    found = []
    for row in rows:
        before = [errors.get(name) or 0.0 for name in trial.sources.get(row.name, ())]
        size, error = max(before, default=0.0), errors[row.name]
        found.append(replace(row, error_gain=error / size if size and error is not None else None))
    return found


def _confirmed(trial: AlignedTrial, rows: Sequence[StageResult]) -> list[StageResult]:
    if trial.shown is None:
        return list(rows)
    doubted = {name: confirmed_own_error(trial, name, trial.shown.feed) for name in suspects(rows)}
    return [replace(row, confirmed_own_error=doubted.get(row.name)) for row in rows]


def summary(trials: Sequence[AlignedTrial]) -> AlignmentSummary | None:
    """How the stages were found; None if they were given."""
    found = [trial.meeting.alignment for trial in trials if trial.meeting and trial.meeting.alignment]
    if not found:
        return None
    methods: dict[str, int] = {}
    for alignment in found:
        for method, count in alignment.methods.items():
            methods[method] = methods.get(method, 0) + count
    unmatched = [Unpaired(u.side, u.tensor, u.op, u.reason) for alignment in found for u in alignment.unmatched]
    unmatched += [left for trial in trials for left in _dropped(trial)]
    counts = {side: sum(left.side == side for left in unmatched) for side in ("reference", "candidate")}
    reference = sum(alignment.reference_tensors for alignment in found)
    candidate = sum(alignment.candidate_tensors for alignment in found)
    return AlignmentSummary(
        methods=methods,
        reference_tensors=reference,
        reference_paired=reference - counts["reference"],
        candidate_tensors=candidate,
        candidate_paired=candidate - counts["candidate"],
        unpaired=tuple(unmatched),
    )


def _dropped(trial: AlignedTrial) -> Iterator[Unpaired]:
    """Both sides of the pairs that turned out not to be any."""
    meeting = trial.meeting
    for aligned in meeting.stages if meeting else ():
        reason = trial.dropped.get(aligned.stage.name)
        if reason is not None and meeting is not None:
            sides = {"reference": meeting.reference, "candidate": meeting.candidate}
            for side, outline in sides.items():
                tensor = getattr(aligned.stage, side)
                yield Unpaired(side, tensor, outline.by_name[tensor].op, reason)
