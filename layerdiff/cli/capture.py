"""`layerdiff capture`: the tensors of one side, recorded to be compared on another machine."""

from __future__ import annotations

from typing import Annotated

import typer

from layerdiff.cli.app import Config_, Debug, Quiet, app
from layerdiff.cli.ends import end, progress_bar, tolerant_of_closed_pipe


@app.command()
def capture(
    context: typer.Context,
    config: Config_,
    side: Annotated[
        str, typer.Option("--side", metavar="SIDE", help="`reference`, or the name of a candidate.")
    ] = "reference",
    out: Annotated[str | None, typer.Option("-o", "--out", metavar="X.trace", help="Where the trace is put.")] = None,
    component: Annotated[
        str | None, typer.Option("--component", metavar="NAME", help="Which model, where several are compared.")
    ] = None,
    tensors: Annotated[
        list[str] | None, typer.Option("--tensors", metavar="NAME", help="Only this tensor; may be repeated.")
    ] = None,
    audio: Annotated[
        list[str] | None, typer.Option("--audio", metavar="PATH", help="Replaces inputs.audio; may be repeated.")
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Record one side's tensors, to be compared elsewhere."""

    def action() -> int:
        from pathlib import Path

        from layerdiff import config as configuration
        from layerdiff import quiet as noise

        resolved = configuration.override(configuration.load(config), audio=audio or ())
        target = Path(out or f"{side}.trace")
        with noise.third_party():
            from layerdiff.run.recording import record_side

            path = record_side(
                resolved,
                target,
                side=side,
                progress=progress_bar(quiet=quiet),
                component=component,
                tensors=tensors or None,
            )
        with tolerant_of_closed_pipe():
            print(path, flush=True)
        return 0

    end(action, debug=debug or bool(context.obj))
