"""`layerdiff run` and `layerdiff convert`: what a configuration asks for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from layerdiff.cli.app import (
    Adapter,
    All,
    Audio,
    Candidate,
    Component,
    Config_,
    Debug,
    Dir,
    Failed,
    Manifest,
    NoColor,
    Quiet,
    Tensors,
    Top,
    app,
)
from layerdiff.cli.ends import end, progress_bar, tolerant_of_closed_pipe

if TYPE_CHECKING:
    from layerdiff.config import Config
    from layerdiff.records import Component as ComponentName
    from layerdiff.records import Report
    from layerdiff.report.selection import Choice


RECORDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus")
"""Endings of what a shell makes of a pattern that is not quoted."""


@app.command()
def run(
    context: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(metavar="CONFIG | REFERENCE [PACKAGE]...", help="A YAML file; or a model and packages of it."),
    ],
    candidate: Candidate = None,
    component: Component = None,
    audio: Audio = None,
    manifest: Manifest = None,
    tensors: Tensors = None,
    adapter: Adapter = None,
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
    """Compare every stage of a model with its conversions.

    With a configuration, or without one: layerdiff run parakeet.nemo Joint.mlpackage --audio a.wav
    """

    def action() -> int:
        from layerdiff import config as configuration
        from layerdiff.report.selection import Choice

        given = {"component": component, "manifest": manifest, "tensors": tensors, "adapter": adapter}
        resolved = configuration.override(
            asked(targets, audio=audio or (), **given),
            candidates=candidate or (),
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


def asked(targets: Sequence[str], *, audio: Sequence[str], **given: Any) -> Config:
    """The configuration that is named, or the one that is made of a reference and packages.

    Raises:
        LayerdiffError: it breaks a rule, or it can't be told what is to be compared.
    """
    from layerdiff import config as configuration
    from layerdiff import quiet as noise
    from layerdiff.errors import ConfigError
    from layerdiff.proposal import CONFIGURATIONS, Given, is_model, propose

    first, *packages = targets
    if packages and Path(first).suffix.lower() in CONFIGURATIONS:
        raise ConfigError(f"'{packages[0]}' stands beside a configuration.", action="give the configuration alone")
    if not packages and not is_model(first):
        return configuration.override(configuration.load(first), audio=audio, **given)
    for package in packages:
        if Path(package).suffix.lower() in RECORDINGS:
            action = "quote the pattern, so that the shell leaves it alone: --audio 'recordings/*.wav'"
            raise ConfigError(f"'{package}' is a recording, not a package.", action=action)
    with noise.third_party():
        proposal = propose(Given(first, tuple(packages), audio=tuple(audio), **given))
    return configuration.from_mapping(proposal.values, place="the command line")


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
        components = COMPONENTS if whole else (cast("ComponentName", config.reference.component),)
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
