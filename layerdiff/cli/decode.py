"""`layerdiff decode`: what a conversion does to the transcripts of any number of clips."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from layerdiff.cli.app import Audio, Candidate, Config_, Debug, Dir, Manifest, NoColor, Quiet, Ray, Workers, app
from layerdiff.cli.ends import end, progress_bar, tolerant_of_closed_pipe

if TYPE_CHECKING:
    from pathlib import Path

    from layerdiff.config import Config
    from layerdiff.corpus.shards import Checkpoints
    from layerdiff.decode.result import DecodeReport


@app.command()
def decode(
    context: typer.Context,
    config: Config_,
    candidate: Candidate = None,
    audio: Audio = None,
    manifest: Manifest = None,
    swaps: Annotated[
        bool, typer.Option("--swaps", help="Decode every mixture of components: which of them costs how much.")
    ] = False,
    lengths: Annotated[
        int | None,
        typer.Option("--lengths", metavar="N", help="Present N clips with padding, offsets and cuts too."),
    ] = None,
    ray: Ray = None,
    workers: Workers = None,
    dir: Dir = None,
    no_color: NoColor = False,
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print decode.json instead of tables.")] = False,
    debug: Debug = False,
) -> None:
    """Show what a conversion does to the transcripts."""

    def action() -> int:
        from layerdiff import config as configuration

        resolved = configuration.override(
            configuration.load(config),
            candidates=candidate or (),
            audio=audio or (),
            manifest=manifest,
            dir=dir,
            swaps=swaps,
            lengths=lengths,
            ray=ray,
            workers=workers,
        )
        report, place, files = decode_corpus(resolved, quiet=quiet)
        with tolerant_of_closed_pipe():
            show(report, place, files, color=not no_color, quiet=quiet, as_json=json)
        return report.exit_code

    end(action, debug=debug or bool(context.obj))


def decode_corpus(config: Config, *, quiet: bool) -> tuple[DecodeReport, Checkpoints, tuple[Path, ...]]:
    """Decodes the clips and writes the run directory; whether it can be written is found out first."""
    from layerdiff import quiet as noise
    from layerdiff.report import write

    with write.run_directory(config.outputs.dir), noise.third_party():
        from layerdiff.corpus import decode
        from layerdiff.report.decoding_files import write_decoding

        report, place = decode(config, progress=progress_bar(quiet=quiet))
        files = write_decoding(report, place.rows, config.outputs)
    return report, place, files


def show(
    report: DecodeReport,
    place: Checkpoints,
    files: tuple[Path, ...],
    *,
    color: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Prints the report to stdout in the form that was asked for."""
    from layerdiff.corpus import telling_rows
    from layerdiff.report import decoding, json, terminal, transcripts

    if as_json:
        sys.stdout.write(json.dump(decoding.document(report), ascii_only=not terminal.is_utf(sys.stdout)))
    else:
        console = terminal.console_for(sys.stdout, color=color)
        if quiet:
            transcripts.render_verdict(report, console)
        else:
            transcripts.render(report, console, rows=telling_rows(report, place), piece=report.piece)
            terminal.render_files(files, console)
    sys.stdout.flush()
