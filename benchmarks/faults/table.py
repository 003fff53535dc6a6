"""The catalogue's scores as a table, on a terminal and in the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.faults.score import HEALTHY_NAME, Score

CAUSE_TARGET = 0.97
"""Share of the faults whose cause has to be named first."""


def totals(scores: Sequence[Score]) -> tuple[int, int, int, int]:
    """Faults, stages found, causes found, and false alarms."""
    faults = [one for one in scores if one.cause != HEALTHY_NAME]
    alarms = sum(one.tried - one.causes for one in scores if one.cause == HEALTHY_NAME)
    return sum(o.tried for o in faults), sum(o.stages for o in faults), sum(o.causes for o in faults), alarms


def is_reached(scores: Sequence[Score]) -> bool:
    """Whether all stages, nearly all causes and no false alarm were found."""
    tried, stages, causes, alarms = totals(scores)
    return stages == tried and causes >= CAUSE_TARGET * tried and not alarms


def summary(scores: Sequence[Score]) -> str:
    """The totals in a sentence."""
    tried, stages, causes, alarms = totals(scores)
    share = f"{causes / tried:.1%}" if tried else "nothing"
    return f"{tried} faults: first bad stage {stages}, cause named first {causes} ({share}); false alarms: {alarms}"


def table(scores: Sequence[Score]) -> RenderableType:
    """For a terminal, with what was missed."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in ("cause", "tried", "stage found", "cause first", "s"):
        drawn.add_column(header, justify="left" if header == "cause" else "right")
    for one in scores:
        drawn.add_row(one.cause, str(one.tried), str(one.stages), str(one.causes), f"{one.seconds:.2f}")
    missed = [
        f"{one.cause} | {o.network} | {o.words} | first {o.first or 'nothing'} | {', '.join(o.named) or 'nothing'}"
        for one in scores
        for o in one.missed
    ]
    return Group(drawn, Text(), Text(summary(scores)), *(Text(line) for line in missed))


def markdown(scores: Sequence[Score]) -> str:
    """The page of the documentation."""
    return "\n".join(_lines(scores)) + "\n"


def _lines(scores: Sequence[Score]) -> Iterator[str]:
    yield from _INTRODUCTION.splitlines()
    yield ""
    yield "| cause | tried | first bad stage found | cause named first | comparison, median |"
    yield "|---|---|---|---|---|"
    for one in scores:
        name = "healthy (nothing blamed)" if one.cause == HEALTHY_NAME else f"`{one.cause}`"
        yield f"| {name} | {one.tried} | {one.stages} | {one.causes} | {one.seconds:.2f} s |"
    yield ""
    yield f"In all, {summary(scores)}."
    missed = [(one.cause, o) for one in scores for o in one.missed]
    if missed:
        yield from ("", "Missed:", "")
    for cause, o in missed:
        named = ", ".join(o.named) or "nothing"
        yield f"- `{cause}`, {o.network}, {o.words}: first `{o.first or 'nothing'}`, named {named}"


_INTRODUCTION = """\
# The fault catalogue

Faults are put into real networks before they are converted: the bundled joint over the lattice of a clip, a joint of
the size of Parakeet-TDT v3 with random weights, the bundled encoder of three FastConformer layers, the bundled
prediction network, and the mel front-end. The place and the strength of each are drawn at random from a fixed seed.
The package is then compared without any stage map, as `layerdiff.diff` does it, and two things are asked: is the first
bad stage the one that the fault was put into (or, where the other model has no counterpart of it, the first one behind
it), and is the first cause that is named the right one. Healthy conversions of all networks in float32 and float16
must not be blamed for anything but what their precision costs (`precision_only`).

`make faults` wrote this page; it takes a quarter of an hour on two cores. A sample of it runs with the tests."""
