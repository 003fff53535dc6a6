"""`layerdiff report`: a result rendered again, or held against another one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from layerdiff.cli.app import All, Debug, Dir, Failed, NoColor, Quiet, Top, app
from layerdiff.cli.check import show as show_check
from layerdiff.cli.ends import end, tolerant_of_closed_pipe
from layerdiff.cli.run import show

if TYPE_CHECKING:
    from pathlib import Path

    from layerdiff.records import Report


@app.command()
def report(
    context: typer.Context,
    run_dir: Annotated[str, typer.Argument(metavar="RUN_DIR", help="What `layerdiff run` wrote: outputs.dir.")],
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="A later result, to be compared with the first.")
    ] = None,
    dir: Dir = None,
    top: Top = None,
    failed: Failed = False,
    all: All = False,
    no_color: NoColor = False,
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    debug: Debug = False,
) -> None:
    """Render a result again, or say what is worse and what is better in another one."""

    def action() -> int:
        from layerdiff.report import complete
        from layerdiff.report.selection import Choice

        found = complete.load(run_dir)
        if other is not None:
            return compare(found, complete.load(other), color=not no_color, quiet=quiet, as_json=json)
        files = write_again(found, run_dir, to=dir)
        with tolerant_of_closed_pipe():
            choice = Choice(top, failed, all)
            show(found, files, color=not no_color, quiet=quiet, as_json=json, choice=choice)
        return found.exit_code

    end(action, debug=debug or bool(context.obj))


def write_again(found: Report, run_dir: str, *, to: str | None) -> tuple[Path, ...]:
    """Writes the files of a run anew, with the manifest that it had."""
    from layerdiff.config import OutputsConfig
    from layerdiff.report import write

    asked = found.request.get("resolved", {}).get("outputs", {})
    outputs = OutputsConfig.model_validate({**asked, "dir": to or run_dir})
    return write.write_run(found, outputs, manifest=write.read_manifest(run_dir))


def compare(before: Report, after: Report, *, color: bool, quiet: bool, as_json: bool) -> int:
    """Prints what became of every stage and decision."""
    from layerdiff.check import of_report
    from layerdiff.config import CheckConfig
    from layerdiff.regressions import compared
    from layerdiff.report import sections

    found = compared(of_report(before), of_report(after), CheckConfig())
    with tolerant_of_closed_pipe():
        if not as_json and not quiet:
            for name in dict.fromkeys([*before.candidates, *after.candidates]):
                sides = [side.candidates.get(name) for side in (before, after)]
                said = ["not there" if side is None else sections.verdict_of(side) for side in sides]
                print(said[0] if said[0] == said[1] else " → ".join(said))
            sys.stdout.flush()
        show_check(found, color=color, as_json=as_json, quiet=quiet)
    return found.exit_code
