"""`layerdiff exec`: a script in which coremltools can predict."""

from __future__ import annotations

from typing import Annotated

import typer

from layerdiff.cli.app import Debug, app
from layerdiff.cli.ends import end


@app.command(name="exec", context_settings={"allow_interspersed_args": False})
def execute(
    context: typer.Context,
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="A Python script, as for python SCRIPT.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGUMENT", help="What the script takes.")] = None,
    module: Annotated[bool, typer.Option("-m", help="SCRIPT is the name of a module, as for python -m.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Take the place of Core ML on macOS too.")] = False,
    debug: Debug = False,
) -> None:
    """Run a Python script in which coremltools can predict."""

    def action() -> int:
        from layerdiff.binding.script import run_module, run_script

        return (run_module if module else run_script)(script, arguments or (), force=force)

    end(action, debug=debug or bool(context.obj))
