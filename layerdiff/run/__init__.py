"""The pipeline, on one screen: configuration in, report out.

Everything that can be refused is refused before anything heavy runs: the audio files first, then the
checkpoint, the packages and the stage map. Clips then stream through the reference and all candidates;
nothing of a clip outlives it but counts, sums and one witness per stage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerdiff.records import COMPONENTS, Component, Report, worst_status
from layerdiff.run.candidates import Candidate, open_candidate
from layerdiff.run.environment import environment
from layerdiff.run.inputs import find_inputs
from layerdiff.run.stages import last_component, require_tensors, stage_map, tensors_by_component
from layerdiff.run.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerdiff.compare import Stage
    from layerdiff.config import Config
    from layerdiff.progress import Progress
    from layerdiff.sources.nemo import NemoSource


def execute(config: Config, *, progress: Progress, reference: NemoSource | None = None) -> Report:
    """Compares every candidate of the configuration with the reference.

    Args:
        config: what to compare.
        progress: told about everything that lasts.
        reference: used instead of restoring the configuration's checkpoint.

    Raises:
        LayerdiffError: the request can't be carried out; a failed comparison is a `Report`, not an error.
    """
    from layerdiff.sources.nemo import NemoSource

    inputs = find_inputs(config.inputs)
    reference = reference or NemoSource.open(config.reference.nemo, progress=progress)
    stages = stage_map(config, reference)
    require_tensors(stages, reference, side="reference", title="the reference", components=COMPONENTS)
    components = components_of(config, stages)
    candidates = [
        open_candidate(name, entry, reference=reference, components=components, progress=progress)
        for name, entry in config.candidates.items()
    ]
    for candidate in candidates:
        require_tensors(
            stages,
            candidate.portable,
            side="candidate",
            title=f"candidate '{candidate.name}'",
            components=candidate.portable.packages,
        )
    trials = [open_trial(config, stages, candidate, reference) for candidate in candidates]
    tensors, until = tensors_by_component(stages), last_component(stages)
    with progress.task("comparing clips", total=len(inputs)) as step:
        for clip, calls in inputs.walk(reference, tensors=tensors, until=until):
            for call, captured in calls:
                for trial in trials:
                    trial.compare(call, captured, clip=clip)
            step(1)
    results = {trial.name: trial.result() for trial in trials}
    return Report(
        status=worst_status([result.status for result in results.values()]),
        environment=environment(),
        reference=reference.description,
        inputs=inputs.summary(),
        candidates=results,
    )


def components_of(config: Config, stages: Sequence[Stage]) -> tuple[Component, ...]:
    """The components that a candidate runs: the one that is compared, or all up to the last stage's."""
    last = COMPONENTS.index(last_component(stages))
    if config.reference.component == "whole":
        return COMPONENTS[: last + 1]
    return (config.reference.component,)


def open_trial(config: Config, stages: Sequence[Stage], candidate: Candidate, reference: NemoSource) -> Trial:
    """A candidate made ready for comparison with the reference."""
    return Trial(
        name=candidate.name,
        stages=stages,
        source=candidate.portable,
        native=candidate.native,
        durations=reference.durations,
        blank=reference.blank,
        thresholds=config.thresholds,
        description=candidate.description,
        log_softmax=str(reference.description.get("log_softmax")),
    )
