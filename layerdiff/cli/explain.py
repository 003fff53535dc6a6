"""`layerdiff explain`: what a pasted table of ranges is consistent with; no model is needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layerdiff.cli.app import Debug, NoColor, app
from layerdiff.cli.ends import end, tolerant_of_closed_pipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerdiff.diagnose.ranges import Ranges
    from layerdiff.records import Finding

NUMBER = r"[-+−]?(?:inf|nan|(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)"
COLUMNS = ("stage", "reference_min", "reference_max", "candidate_min", "candidate_max")


@app.command()
def explain(
    context: typer.Context,
    table: Annotated[
        Path | None, typer.Argument(metavar="[STAGES.CSV]", help="A stages.csv, or any CSV with its range columns.")
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            metavar="TEXT",
            help="'STAGE: [min, max] [min, max]', the reference's range first; may be repeated.",
        ),
    ] = None,
    no_color: NoColor = False,
    debug: Debug = False,
) -> None:
    """Say what recorded ranges are consistent with, from numbers alone."""

    def action() -> int:
        from layerdiff.diagnose.ranges import explain as explanations

        stages = [*(read(table) if table is not None else ()), *map(parsed, ranges or ())]
        require(stages)
        with tolerant_of_closed_pipe():
            show(explanations(stages), color=not no_color)
        return 0

    end(action, debug=debug or bool(context.obj))


def show(findings: Sequence[Finding], *, color: bool) -> None:
    """Prints what the ranges are consistent with, the likeliest first."""
    import sys

    from layerdiff.report import sections, terminal

    console = terminal.console_for(sys.stdout, color=color)
    for number, finding in enumerate(findings, 1):
        console.print(f"{number}. {finding.cause}  {finding.stage}  ({finding.confidence:.0%})", style="bold")
        console.print(sections.paragraph(f"  {finding.summary}", width=console.width, style=""))
        console.print(sections.paragraph(f"  → {finding.advice}", width=console.width, style=""))
    if not findings:
        console.print("nothing: no range differs, or none of the known causes changes a range like this")
    console.print("\nRanges prove nothing: `layerdiff run` compares the tensors themselves.")


def require(stages: list[Ranges]) -> None:
    """Refuses to explain nothing."""
    from layerdiff.errors import ConfigError

    if not stages:
        raise ConfigError(
            "there are no ranges to explain.",
            action="Give a stages.csv, or --range 'durations: [-9.8, 7.4] [-11.3, -1.0]'.",
        )


def parsed(text: str) -> Ranges:
    """A stage and its four numbers.

    Raises:
        ConfigError: the text holds anything else.
    """
    from layerdiff.diagnose.ranges import Ranges
    from layerdiff.errors import ConfigError

    name, _, rest = text.rpartition(":")
    numbers = [float(number.replace("−", "-")) for number in re.findall(NUMBER, rest, re.IGNORECASE)]
    if not name.strip() or len(numbers) != 4:
        raise ConfigError(
            f"'{text}' does not hold a stage and two ranges.",
            where="--range",
            detail="expected 'STAGE: [min, max] [min, max]', the reference's first",
        )
    return Ranges(name.strip(), (numbers[0], numbers[1]), (numbers[2], numbers[3]))


def read(path: Path) -> list[Ranges]:
    """The ranges of a table; rows without numbers are left out.

    Raises:
        ConfigError: there is no such file, or it lacks a column, or a cell is no number.
    """
    import csv

    from layerdiff.diagnose.ranges import Ranges
    from layerdiff.errors import ConfigError

    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise ConfigError(
                    f"'{path}' has no column '{missing[0]}'.", where=str(path), detail=f"expected {', '.join(COLUMNS)}"
                )
            rows = [row for row in reader if all(row[column] for column in COLUMNS)]
            return [
                Ranges(
                    row["stage"],
                    (float(row["reference_min"]), float(row["reference_max"])),
                    (float(row["candidate_min"]), float(row["candidate_max"])),
                    row.get("candidate") or "",
                )
                for row in rows
            ]
    except OSError as error:
        raise ConfigError(f"'{path}' could not be read: {error.strerror}.", where=str(path)) from error
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ConfigError(f"'{path}' is no table of ranges: {error}.", where=str(path)) from error
