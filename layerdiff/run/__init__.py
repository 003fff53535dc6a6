"""The pipeline, on one screen: configuration in, report out.

Everything that can be refused is refused before anything heavy runs: the audio files first, then the
checkpoint, the packages and the stage map. Clips then stream through the reference and all candidates;
nothing of a clip outlives it but counts, sums and one witness per stage.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

from layerdiff.config import require_candidates
from layerdiff.environment import environment
from layerdiff.records import COMPONENTS, Component, Report, worst_status
from layerdiff.run.candidates import Candidate, open_candidate, open_given
from layerdiff.run.inputs import Inputs, find_inputs
from layerdiff.run.pictures import illustrate, of_walks, request_of, take_profiles
from layerdiff.run.stages import last_component, require_tensors, stage_map, tensors_by_component
from layerdiff.run.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerdiff.compare import Stage
    from layerdiff.config import Config
    from layerdiff.progress import Progress
    from layerdiff.sources.nemo import NemoSource


def execute(
    config: Config, *, progress: Progress, reference: NemoSource | None = None, pictures: bool = False
) -> Report:
    """Compares every candidate of the configuration with the reference.

    The components of a NeMo transducer with a stage map, the user's or that of the recipes, are walked along the
    greedy path, with all that belongs to it: each component fed by the candidate's own, decisions, durations.
    Everything else is compared as a whole, with stages that are found by alignment unless they are given.

    Args:
        config: what to compare.
        progress: told about everything that lasts.
        reference: used instead of restoring the configuration's checkpoint.
        pictures: whether to make what the page shows beside the rows; most of its time goes into the weights' audit.

    Raises:
        LayerdiffError: the request can't be carried out; a failed comparison is a `Report`, not an error.
    """
    require_candidates(config)
    if reference is None and not is_walked(config):
        from layerdiff.run.aligned import execute_aligned

        return execute_aligned(config, progress=progress, pictures=pictures)
    return execute_walk(config, progress=progress, reference=reference, pictures=pictures)


def is_walked(config: Config) -> bool:
    """Whether the reference is walked component by component, along its greedy path."""
    kinds = {entry.kind for entry in config.candidates.values()}
    mapped = bool(config.stages) or kinds == {"convert"}
    known = config.reference.component in (*COMPONENTS, "whole")
    return config.reference.nemo is not None and known and mapped and kinds <= {"coreml", "convert"}


def execute_walk(
    config: Config, *, progress: Progress, reference: NemoSource | None = None, pictures: bool = False
) -> Report:
    """Walks the clips through a transducer and its conversions; see `execute`."""
    from layerdiff.sources.nemo import NemoSource

    inputs = find_inputs(config.inputs)
    given = {name: open_given(entry, component=config.reference.component) for name, entry in config.candidates.items()}
    reference = reference or NemoSource.open(config.reference.nemo or "", progress=progress)
    stages = stage_map(config, reference)
    require_tensors(stages, reference, side="reference", title="the reference", place=config.path)
    components = components_of(config, stages)
    trials = [
        open_trial(
            config,
            stages,
            open_candidate(
                name, entry, given=given[name], reference=reference, components=components, progress=progress
            ),
            reference,
        )
        for name, entry in config.candidates.items()
    ]
    for trial in trials if pictures else ():
        take_profiles(trial.comparisons.values())
    compare_clips(trials, reference, stages, inputs, progress=progress)
    results = {trial.name: trial.result() for trial in trials}
    report = Report(
        status=worst_status([result.status for result in results.values()]),
        environment=environment(),
        reference=reference.description,
        inputs=inputs.summary(),
        candidates=results,
        request=request_of(config),
    )
    if not pictures:
        return report
    return illustrate(report, of_walks(trials, reference), inputs=inputs, tokenizer=reference.tokenizer)


def compare_clips(
    trials: Sequence[Trial], reference: NemoSource, stages: Sequence[Stage], inputs: Inputs, *, progress: Progress
) -> None:
    """Every clip through the reference and, call by call, through every candidate."""
    tensors, until = tensors_by_component(stages), last_component(stages)
    with ExitStack() as engines, progress.task("comparing clips", total=len(inputs)) as step:
        for trial in trials:
            engines.callback(trial.close)
        for clip, calls in inputs.walk(reference, tensors=tensors, until=until):
            for call, captured in calls:
                for trial in trials:
                    trial.compare(call, captured, clip=clip)
            step(1)


def components_of(config: Config, stages: Sequence[Stage]) -> tuple[Component, ...]:
    """The components that a candidate runs: the one that is compared, or all up to the last stage's."""
    last = COMPONENTS.index(last_component(stages))
    if config.reference.component == "whole":
        return COMPONENTS[: last + 1]
    return (cast("Component", config.reference.component),)


def open_trial(config: Config, stages: Sequence[Stage], candidate: Candidate, reference: NemoSource) -> Trial:
    """A candidate made ready for comparison with the reference.

    Raises:
        ConfigError: a stage names a tensor that its packages don't have.
    """
    require_tensors(
        stages,
        candidate.portable,
        side="candidate",
        title=f"candidate '{candidate.name}'",
        place=config.path,
        components=candidate.portable.packages,
    )
    return Trial(
        name=candidate.name,
        stages=stages,
        source=candidate.portable,
        native=candidate.native,
        durations=reference.durations,
        blank=reference.blank,
        thresholds=config.thresholds,
        description=candidate.description,
        module=reference.model.get_submodule,
        log_softmax=str(reference.description.get("log_softmax")),
    )
