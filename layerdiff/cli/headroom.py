"""`layerdiff headroom`: what float16 would do to the reference, before anything is converted."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from layerdiff.cli.app import Config_, Debug, NoColor, Quiet, app
from layerdiff.cli.ends import end, progress_bar, tolerant_of_closed_pipe


@app.command()
def headroom(
    context: typer.Context,
    config: Config_,
    audio: Annotated[
        list[str] | None, typer.Option("--audio", metavar="PATH", help="Replaces inputs.audio; may be repeated.")
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Every tensor, not only those at risk.")] = False,
    no_color: NoColor = False,
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    debug: Debug = False,
) -> None:
    """Say what float16 would do to the reference's tensors."""

    def action() -> int:
        from layerdiff import config as configuration
        from layerdiff import quiet as noise

        resolved = configuration.override(configuration.load(config), audio=audio or ())
        with noise.third_party():
            from layerdiff.run.headroom import headroom as measured

            found = measured(resolved, progress=progress_bar(quiet=quiet))
        with tolerant_of_closed_pipe():
            from layerdiff.report import headroom as view
            from layerdiff.report import json as as_json
            from layerdiff.report import terminal

            if json:
                document = view.document(found)
                sys.stdout.write(as_json.dump(document, ascii_only=not terminal.is_utf(sys.stdout)))
            elif quiet:
                print(view.verdict(found))
            else:
                view.render(found, terminal.console_for(sys.stdout, color=not no_color), show_all=show_all)
            sys.stdout.flush()
        return 0

    end(action, debug=debug or bool(context.obj))
