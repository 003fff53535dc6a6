"""`layerdiff sweep`: many variants of a package, built, decoded and compared by size."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from layerdiff.cli.app import Audio, Config_, Debug, Dir, Manifest, NoColor, Quiet, Ray, Workers, app
from layerdiff.cli.ends import end, progress_bar, tolerant_of_closed_pipe

if TYPE_CHECKING:
    from pathlib import Path

    from layerdiff.config import Config
    from layerdiff.decode.variants import SweepReport


@app.command()
def sweep(
    context: typer.Context,
    config: Config_,
    audio: Audio = None,
    manifest: Manifest = None,
    ray: Ray = None,
    workers: Workers = None,
    dir: Dir = None,
    no_color: NoColor = False,
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print sweep.json instead of the table.")] = False,
    debug: Debug = False,
) -> None:
    """Show what smaller variants of a package cost."""

    def action() -> int:
        from layerdiff import config as configuration
        from layerdiff.sweep import required

        resolved = configuration.override(
            configuration.load(config), audio=audio or (), manifest=manifest, dir=dir, ray=ray, workers=workers
        )
        required(resolved)
        report, files = sweep_variants(resolved, quiet=quiet)
        with tolerant_of_closed_pipe():
            show(report, files, color=not no_color, quiet=quiet, as_json=json)
        return report.exit_code

    end(action, debug=debug or bool(context.obj))


def sweep_variants(config: Config, *, quiet: bool) -> tuple[SweepReport, tuple[Path, ...]]:
    """Builds and decodes the variants and writes the run directory."""
    from layerdiff import quiet as noise
    from layerdiff.report import write

    with write.run_directory(config.outputs.dir), noise.third_party():
        from layerdiff.report.decoding_files import write_decoding
        from layerdiff.report.sweep import write_sweep
        from layerdiff.sweep import execute

        report, place = execute(config, progress=progress_bar(quiet=quiet))
        files = write_sweep(report, config.outputs)
        if report.decoding is not None and place is not None:
            files += write_decoding(report.decoding, place.rows, config.outputs)
    return report, files


def show(report: SweepReport, files: tuple[Path, ...], *, color: bool, quiet: bool, as_json: bool) -> None:
    """Prints the report to stdout in the form that was asked for."""
    from layerdiff.report import json, sweep, terminal

    if as_json:
        sys.stdout.write(json.dump(sweep.document(report), ascii_only=not terminal.is_utf(sys.stdout)))
    else:
        console = terminal.console_for(sys.stdout, color=color)
        sweep.render(report, console)
        if files and not quiet:
            terminal.render_files(files, console)
    sys.stdout.flush()
