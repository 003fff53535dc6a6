"""The report on a terminal or in a pipe: readable from 60 columns on, in any encoding, with or without colour."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from layerdiff.records import CandidateResult, Report
from layerdiff.report import cells, sections
from layerdiff.report.rows import candidate_rows
from layerdiff.report.selection import Choice, chosen
from layerdiff.report.tables import STYLES, stage_table

PIPE_WIDTH = 100
"""Columns where nobody says how wide the output is."""

_ASCII = str.maketrans("✓✗▶–—−·…→×─≤≥▁▂▃▄▅▆▇█", "+x>---.~>x-<>12345678")
"""One character for one, so that columns stay aligned."""


class PlainWriter:
    """A stream that replaces what its encoding lacks, one character for one."""

    encoding = "utf-8"
    """What rich is told, so that it leaves the replacing to this class."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        encoding = self._stream.encoding
        return self._stream.write(text.translate(_ASCII).encode(encoding, errors="replace").decode(encoding))

    def flush(self) -> None:
        self._stream.flush()


class PipedConsole(Console):
    """A rich console that lets its caller see that the reader of a pipe has left, instead of exiting."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def is_utf(stream: TextIO) -> bool:
    """Whether a stream can show every character."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def console_for(stream: TextIO, *, color: bool = True, width: int | None = None) -> Console:
    """A rich console that prints to `stream` as it is.

    Args:
        stream: where to; in a pipe or a file the width is `PIPE_WIDTH` and no control character is written.
        color: False, or NO_COLOR in the environment, leaves every control character out.
        width: overrides the width.
    """
    is_terminal = stream.isatty() if hasattr(stream, "isatty") else False
    is_colored = color and not os.environ.get("NO_COLOR") and (is_terminal or bool(os.environ.get("FORCE_COLOR")))
    return PipedConsole(
        file=stream if is_utf(stream) else cast("IO[str]", PlainWriter(stream)),
        width=width or (None if is_terminal else PIPE_WIDTH),
        force_terminal=is_colored,
        color_system="auto" if is_colored else None,
        no_color=not is_colored,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )


def render(report: Report, console: Console, *, choice: Choice | None = None) -> None:
    """Prints the whole report, with the stages that are chosen."""
    console.print(view(report, width=console.width, choice=choice))


def render_verdict(report: Report, console: Console) -> None:
    """Prints only the last line of the report."""
    console.print(sections.verdict(report, width=console.width))


def render_files(files: Sequence[Path], console: Console) -> None:
    """Prints where the files of a run are."""
    names = [f"files in {cells.clean(files[0].parent)}:", *(path.name for path in files)]
    console.print(sections.paragraph(" ".join(names), width=console.width, style="dim"))


def view(report: Report, *, width: int, choice: Choice | None = None) -> Group:
    """The whole report for a console of `width` columns."""
    return Group(
        sections.header(report, width=width),
        *(
            part
            for candidate in report.candidates.values()
            for part in candidate_view(candidate, choice or Choice(), width=width)
        ),
        Text(),
        Rule(style="dim"),
        sections.verdict(report, width=width),
    )


def candidate_view(candidate: CandidateResult, choice: Choice, *, width: int) -> Iterator[RenderableType]:
    """One candidate: heading, coverage, table, and what was found out about it."""
    rows = candidate_rows(candidate)
    title = Text(f"{cells.clean(candidate.name)}  {cells.status(candidate.status)}", style=STYLES[candidate.status])
    yield from (Text(), Rule(title, align="left", style="dim"))
    yield sections.labelled("candidate", sections.candidate_facts(candidate.description), width=width)
    yield sections.coverage(candidate.coverage, width=width)
    if candidate.alignment is not None:
        yield from sections.alignment(candidate.alignment, rows, width=width)
    if candidate.checks:
        yield sections.checks(candidate.checks, width=width)
    yield from sections.errors(rows, width=width)
    yield Text()
    places = chosen(rows, choice)
    yield stage_table(rows, places, width=width)
    if len(places) < len(rows):
        left = (
            f"{len(rows) - len(places)} of {len(rows)} stages are not shown: --all shows them, --top N the N worst, "
            "--failed what does not pass; stages.csv has all"
        )
        yield sections.paragraph(left, width=width, style="dim")
    yield sections.paragraph(sections.LEGEND, width=width, style="dim")
    yield from spaced(sections.reasons(rows, width=width))
    if candidate.tdt is not None:
        yield from (Text(), sections.durations(candidate.tdt, width=width))
    for entry in candidate.findings:
        yield from (Text(), sections.finding(entry, width=width))


def spaced(parts: Iterable[RenderableType]) -> Iterator[RenderableType]:
    """The parts after an empty line; nothing if there are none."""
    for position, part in enumerate(parts):
        yield from (Text(), part) if position == 0 else (part,)
