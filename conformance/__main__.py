"""The command line: `run` tests, `report` what was recorded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.markup import escape

from conformance import excused, records, report, sampling
from conformance.records import FAILING, PASSED, Record
from conformance.suites import SUITES

app = typer.Typer(add_completion=False, no_args_is_help=True, help="coremltools' own tests on the portable engine.")
STANDARD_FOLDER = Path("outputs/conformance")
EVERY = 100
"""Tests between two lines of progress."""
INTERRUPTED = 130

Suites = Annotated[list[str] | None, typer.Argument(help=f"any of {', '.join(SUITES)}; all by default")]


@app.command()
def run(
    names: Suites = None,
    k: Annotated[int, typer.Option("-k", min=0, help="parametrisations of each test function; 0 for all")] = 0,
    share: Annotated[float, typer.Option(help="share of the test functions")] = 1.0,
    seed: Annotated[int, typer.Option(help="another one draws another sample")] = 0,
    jobs: Annotated[int, typer.Option("-j", min=1, help="processes")] = os.cpu_count() or 1,
    limit: Annotated[float | None, typer.Option(help="stop after so many seconds")] = None,
    timeout: Annotated[float, typer.Option(help="seconds for one test")] = 300.0,
    out: Annotated[Path, typer.Option(help="records; what is in them is not run again")] = STANDARD_FOLDER,
    again: Annotated[bool, typer.Option(help="run once more what failed")] = False,
    strict: Annotated[float, typer.Option(help="cap of coremltools' float16 tolerances")] = 0.01,
    spoil: Annotated[bool, typer.Option(help="make every prediction wrong, to see which tests notice")] = False,
) -> None:
    """Runs coremltools' tests; exit code 1 if one fails that is not excused, 2 if nothing was predicted."""
    from conformance.plugin import Request
    from conformance.run import settings, start

    suites = chosen(names)
    excused.excuses()  # refused before anything runs if it is malformed
    problem = records.conflict(out, settings(seed=seed, strict=strict, spoiled=spoil))
    if problem:
        raise typer.BadParameter(f"'{out}' holds records of other settings: {problem}", param_hint="--out")
    found = records.read([out])
    done = frozenset(test for test, record in found.items() if not (again and record.outcome in FAILING))
    sample = sampling.Sample(k, share, seed)
    request = Request(out, sample, done, jobs, timeout, limit, strict, spoil)
    finished = start(suites, request, progress)
    code = show([out], suites, complete=finished and limit is None and not k and share == 1)
    raise typer.Exit(code if finished else INTERRUPTED)


@app.command("report")
def report_command(
    folders: Annotated[list[Path], typer.Argument(help="folders of records, added up; the last word counts")],
    write: Annotated[Path | None, typer.Option(help="also write the table there, as Markdown")] = None,
) -> None:
    """Shows what was recorded; exit code 1 if a test failed that is not excused, 2 if nothing was predicted."""
    code = show(folders, list(SUITES), complete=True)
    if write is not None:
        from conformance.document import document

        result = judged(folders, list(SUITES))
        write.parent.mkdir(parents=True, exist_ok=True)
        write.write_text(
            document(result, settings=records.settings_of(folders[-1]), excuses=excused.excuses()), encoding="utf-8"
        )
    raise typer.Exit(code)


@app.command("toothless")
def toothless_command(folder: Annotated[Path, typer.Argument(help="records of a run with --spoil")]) -> None:
    """Prints the test functions that passed though every prediction was wrong, as they stand in toothless.txt."""
    if not records.settings_of(folder).get("spoiled"):
        raise typer.BadParameter(f"'{folder}' holds no records of a run with --spoil")
    passed = {record.test for record in records.read([folder]).values() if record.outcome == PASSED}
    print("\n".join(sorted({sampling.function_of(test) for test in passed})))


def chosen(names: list[str] | None) -> list[str]:
    """The suites asked for, all without a name; an unknown name is refused with the known ones."""
    for name in names or []:
        if name not in SUITES:
            raise typer.BadParameter(f"'{name}' is not a suite; known: {', '.join(SUITES)}")
    return list(names or SUITES)


def progress(terminal: TextIO, record: Record, done: int, total: int) -> None:
    """A line for each failure that nothing excuses, and one now and then for how far the run is."""
    console = Console(file=terminal, soft_wrap=True)
    if record.outcome in FAILING and excused.excuse_of(record, excused.excuses()) is None:
        console.print(f"[red]{record.outcome}[/] {escape(record.test)}\n  {escape(first_line(record.error))}")
    if done % EVERY == 0 or done == total:
        console.print(f"{done} of {total} tests")


def judged(folders: list[Path], suites: list[str]) -> report.Result:
    """The records of some folders that are of some suites."""
    found = records.read(folders).values()
    return report.judged(report.of_suites(found, suites), excused.excuses(), excused.toothless())


def show(folders: list[Path], suites: list[str], *, complete: bool) -> int:
    """Prints tables, failures and, of complete records, entries of the list that excuse nothing; the exit code."""
    console = terminal_or_wide()
    result = judged(folders, suites)
    console.print(report.table(result))
    for record in result.failures:
        console.print(f"{record.outcome}: {record.test}\n  {first_line(record.error)}", soft_wrap=True, markup=False)
    for excuse in excused.needless(records.read(folders).values(), excused.excuses()) if complete else []:
        console.print(
            f"not needed in {excused.LIST.name}: {excuse.tests} ({excuse.kind})", soft_wrap=True, markup=False
        )
    if not result.total.counts["predicted"]:
        console.print("nothing was predicted, so nothing is known")
        return 2
    return 1 if result.failures else 0


def terminal_or_wide() -> Console:
    """The terminal in its width; a file or a pipe takes the whole table."""
    console = Console()
    return console if console.is_terminal else Console(width=132)


def first_line(text: str) -> str:
    """The first line that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


if __name__ == "__main__":
    app()
