"""`layerdiff run` and `layerdiff convert`: what a configuration asks for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, cast

import typer

from layerdiff.cli.app import All, Audio, Candidate, Config_, Debug, Dir, Failed, NoColor, Quiet, Top, app
from layerdiff.cli.ends import end, progress_bar, tolerant_of_closed_pipe

if TYPE_CHECKING:
    from pathlib import Path

    from layerdiff.config import Config
    from layerdiff.records import Component, Report
    from layerdiff.report.selection import Choice


@app.command()
def run(
    context: typer.Context,
    config: Config_,
    candidate: Candidate = None,
    audio: Audio = None,
    points: Annotated[
        str | None,
        typer.Option("--points", metavar="path|lattice", help="Compare the joint on the greedy path or everywhere."),
    ] = None,
    dir: Dir = None,
    search: Annotated[
        bool, typer.Option("--search", help="Find the first bad op of a large model without comparing all of it.")
    ] = False,
    limits: Annotated[
        str | None,
        typer.Option(
            "--limits", metavar="measured|estimated", help="Of aligned stages: estimated runs each side once."
        ),
    ] = None,
    top: Top = None,
    failed: Failed = False,
    all: All = False,
    no_color: NoColor = False,
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print report.json instead of tables.")] = False,
    debug: Debug = False,
) -> None:
    """Compare every stage of a model with its conversions."""

    def action() -> int:
        from layerdiff import config as configuration
        from layerdiff.report.selection import Choice

        resolved = configuration.override(
            configuration.load(config),
            candidates=candidate or (),
            audio=audio or (),
            points=points,
            dir=dir,
            search=search,
            limits=limits,
        )
        report, files = compare(resolved, quiet=quiet)
        with tolerant_of_closed_pipe():
            choice = Choice(top, failed, all)
            show(report, files, color=not no_color, quiet=quiet, as_json=json, choice=choice)
        return report.exit_code

    end(action, debug=debug or bool(context.obj))


@app.command()
def convert(context: typer.Context, config: Config_, candidate: Candidate = None, debug: Debug = False) -> None:
    """Build the packages that a configuration converts."""

    def action() -> int:
        from layerdiff import config as configuration

        resolved = configuration.override(configuration.load(config), candidates=candidate or ())
        built = build_packages(resolved)
        with tolerant_of_closed_pipe():
            for name, component, path in built:
                print(f"{name}\t{component}\t{path}")
            sys.stdout.flush()
        return 0

    end(action, debug=debug or bool(context.obj))


def compare(config: Config, *, quiet: bool) -> tuple[Report, tuple[Path, ...]]:
    """Runs the comparison and writes the run directory; whether it can be written is found out first."""
    from layerdiff import quiet as noise
    from layerdiff.report import write

    with write.run_directory(config.outputs.dir), noise.third_party():
        from layerdiff.compare import DITHER_SEEDS
        from layerdiff.report.manifest import manifest
        from layerdiff.run import execute
        from layerdiff.run.inputs import find_inputs

        report = execute(config, progress=progress_bar(quiet=quiet), pictures=config.outputs.html)
        hashes = find_inputs(config.inputs).hashes() if config.inputs.given else {}
        read = manifest(report, config, inputs=hashes, seeds={"dither": DITHER_SEEDS})
        files = write.write_run(report, config.outputs, manifest=read)
    return report, files


def build_packages(config: Config) -> list[tuple[str, str, Path]]:
    """Candidate, component and path of every package that the configuration asks to be built."""
    from layerdiff import quiet as noise
    from layerdiff.errors import ConfigError
    from layerdiff.records import COMPONENTS

    wanted = {name: entry.convert for name, entry in config.candidates.items() if entry.convert is not None}
    if not wanted:
        raise ConfigError(
            "No candidate of the configuration is to be converted.",
            where=config.path,
            detail="candidates: " + ", ".join(config.candidates),
            action="Give one of them 'convert: {}' instead of 'coreml'.",
        )
    with noise.third_party():
        from layerdiff.convert import build
        from layerdiff.sources.nemo import NemoSource

        progress = progress_bar(quiet=False)
        reference = NemoSource.open(config.reference.nemo or "", progress=progress)
        whole = config.reference.component == "whole"
        components = COMPONENTS if whole else (cast("Component", config.reference.component),)
        return [
            (name, component, build(reference, component, entry, progress=progress))
            for name, entry in wanted.items()
            for component in components
        ]


def show(
    report: Report, files: Sequence[Path], *, color: bool, quiet: bool, as_json: bool, choice: Choice | None = None
) -> None:
    """Prints the report to stdout in the form that was asked for."""
    from layerdiff.report import json, terminal

    if as_json:
        sys.stdout.write(json.render(report, ascii_only=not terminal.is_utf(sys.stdout)))
    else:
        console = terminal.console_for(sys.stdout, color=color)
        if quiet:
            terminal.render_verdict(report, console)
        else:
            terminal.render(report, console, choice=choice)
        if files and not quiet:
            terminal.render_files(files, console)
    sys.stdout.flush()
