"""`layerdiff repro`: the smallest part of a package that shows the error of a stage, for an issue."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from layerdiff.cli.app import Debug, Quiet, app
from layerdiff.cli.ends import end, progress_bar, tolerant_of_closed_pipe


@app.command()
def repro(
    context: typer.Context,
    run_dir: Annotated[str, typer.Argument(metavar="RUN_DIR", help="What `layerdiff run` wrote: outputs.dir.")],
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of it, mostly the first divergence.")],
    candidate: Annotated[str | None, typer.Option("--candidate", metavar="NAME", help="Of which candidate.")] = None,
    dir: Annotated[
        str | None, typer.Option("--dir", metavar="FOLDER", help="The bundle; RUN_DIR/repro-STAGE without it.")
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a bundle that shows a fault to somebody who has only coremltools and numpy."""

    def action() -> int:
        from layerdiff import quiet as noise
        from layerdiff.report import complete

        report = complete.load(run_dir)
        with noise.third_party():
            from layerdiff.report import reproduction
            from layerdiff.repro import reproduce

            target = Path(dir) if dir is not None else Path(run_dir) / f"repro-{_file_name(stage)}"
            bundle = reproduce(report, stage, candidate=candidate, target=target, progress=progress_bar(quiet=quiet))
        with tolerant_of_closed_pipe():
            print("\n".join(reproduction.render(bundle)[:1] if quiet else reproduction.render(bundle)))
            sys.stdout.flush()
        return 0

    end(action, debug=debug or bool(context.obj))


def _file_name(stage: str) -> str:
    """The stage's name as a part of a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in stage)
