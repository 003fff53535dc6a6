"""The command line of the fault catalogue."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.faults import score
from benchmarks.faults.faults import REGISTRY
from benchmarks.faults.score import HEALTHY_NAME, Score
from benchmarks.faults.table import is_reached, markdown, table


def chosen(causes: list[str] | None) -> list[str]:
    """What was asked for, everything without a name; an unknown one is refused with the known ones."""
    known = [*REGISTRY, HEALTHY_NAME]
    for cause in causes or []:
        if cause not in known:
            raise typer.BadParameter(f"'{cause}' has no faults; known: {', '.join(known)}")
    return list(causes or known)


def main(
    causes: Annotated[list[str] | None, typer.Argument(help="causes, or `healthy`; all by default")] = None,
    times: Annotated[int, typer.Option(help="how often each cause is tried")] = score.TIMES,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write every outcome there")] = None,
    page: Annotated[Path | None, typer.Option("--markdown", help="also write the table there")] = None,
) -> None:
    """Puts faults into networks and scores what is said of them; exit code 1 if a target is missed."""
    progress = Console(stderr=True)
    scores: list[Score] = []
    for cause in chosen(causes):
        found = []
        with progress.status(cause) as status:
            for outcome in score.healthy() if cause == HEALTHY_NAME else score.faulty(cause, times):
                found.append(outcome)
                status.update(f"{cause}: {len(found)}")
        scores.append(Score.of(cause, found))
    Console().print(table(scores))
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(one) for one in scores], indent=2) + "\n")
    if page is not None:
        page.write_text(markdown(scores))
    raise typer.Exit(not is_reached(scores))


if __name__ == "__main__":
    typer.run(main)
