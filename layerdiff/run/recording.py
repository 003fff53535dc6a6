"""Records one side of a configuration as a trace, to be compared on another machine.

A GPU server records the reference, a Mac what Core ML computes; the machine that compares needs neither. What is fed
is recorded too, so both sides are recorded on the same inputs: those of the configuration, as the side takes them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from layerdiff.errors import ConfigError, known_names
from layerdiff.run.aligned import feeds
from layerdiff.run.inputs import Inputs, find_inputs
from layerdiff.run.parts import References, open_references, open_runs
from layerdiff.run.runs import PackageRuns, PlainRuns, paired_inputs
from layerdiff.sources.recorded_writer import record

if TYPE_CHECKING:
    from pathlib import Path

    from layerdiff.config import Config
    from layerdiff.outline import Outline
    from layerdiff.progress import Progress
    from layerdiff.sources import Feed, TensorSource

REFERENCE = "reference"


def record_side(
    config: Config,
    path: str | Path,
    *,
    side: str,
    progress: Progress,
    component: str | None = None,
    tensors: Collection[str] | None = None,
) -> Path:
    """Runs one side on every input and writes its tensors.

    Args:
        config: names the models and the inputs.
        path: where the trace is put.
        side: `reference`, or the name of a candidate.
        progress: told about everything that lasts.
        component: which model, where the configuration compares several.
        tensors: the tensors to record; None for all.

    Returns:
        Where the trace is.

    Raises:
        ConfigError: there is no such side, component or tensor.
        LayerdiffError: a model can't be run, or the trace not be written. A note says where a partial trace is.
    """
    if side != REFERENCE and side not in config.candidates:
        known = known_names("known sides", side, [REFERENCE, *config.candidates])
        raise ConfigError(f"there is no side '{side}'.", where=config.path, detail=known)
    inputs = find_inputs(config.inputs) if config.inputs.given else Inputs()
    references = open_references(config, progress=progress)
    part = _one_component(references, component, place=config.path)
    with progress.task(f"recording {side}", total=len(inputs) or None) as step:
        fed = _counted(feeds(config, inputs, references), part, step)
        source: TensorSource = references.parts[part]
        if side != REFERENCE:
            source, fed = _candidate(config, side, part, references, fed, progress=progress)
        fed = _checked(fed, source, tensors or (), title=f"the {side}" if side == REFERENCE else f"candidate '{side}'")
        return record(source, fed, path, names=tensors, extra={"side": side, "component": part})


def _one_component(references: References, component: str | None, *, place: str | None) -> str:
    """The component that is recorded: the named one, or the only one."""
    known = list(references.parts)
    if component is None and len(known) == 1:
        return known[0]
    if component in known:
        return str(component)
    what = "several models are compared" if component is None else f"there is no component '{component}'"
    raise ConfigError(
        f"{what}, and a trace holds one.",
        where=place,
        detail=known_names("components", component or "", known),
        action=f"give --component {known[0]}",
    )


def _counted(walk: Iterator[tuple[str, str, Feed]], part: str, step: Any) -> Iterator[tuple[str, Feed]]:
    for component, label, feed in walk:
        if component == part:
            yield label, feed
            step(int("#" not in label))


def _checked(
    walk: Iterator[tuple[str, Feed]], source: TensorSource, tensors: Collection[str], *, title: str
) -> Iterator[tuple[str, Feed]]:
    """The feeds, unless on the first one there is no tensor of a name that is to be recorded."""
    for place, (label, feed) in enumerate(walk):
        if tensors and place == 0:
            _require_tensors(tensors, source.outline(feed), title=title)
        yield label, feed


def _require_tensors(tensors: Collection[str], outline: Outline, *, title: str) -> None:
    for name in tensors:
        if name not in outline.by_name:
            raise ConfigError(
                f"{title} has no tensor '{name}' to record.",
                where="--tensors",
                detail=known_names("known tensors", name, outline.names()),
            )


def _candidate(
    config: Config,
    side: str,
    part: str,
    references: References,
    walk: Iterator[tuple[str, Feed]],
    *,
    progress: Progress,
) -> tuple[TensorSource, Iterator[tuple[str, Feed]]]:
    """A candidate's model, and the reference's feeds as it takes them."""
    runs = open_runs(side, config.candidates[side], config, references, progress=progress).get(part)
    if runs is None:
        raise ConfigError(f"candidate '{side}' has no {part}.", where=config.path)

    def adapted() -> Iterator[tuple[str, Feed]]:
        for label, feed in walk:
            inputs = paired_inputs(feed, runs, title=f"candidate '{side}'")
            yield label, runs.fitted({theirs: feed[ours] for ours, theirs in inputs.items()})[0]

    if isinstance(runs, PackageRuns):
        return runs.native or runs.variants["declared"], adapted()
    assert isinstance(runs, PlainRuns)
    return runs.source, adapted()
