"""The command line: options in, an exit code out; everything else is a call of the library.

Exit codes: 0 everything asked for was compared and is within its thresholds, 1 a stage fails, 2 the request
could not be carried out, 3 something asked for could not be compared, 130 interrupted. Nothing heavy is
imported before a command runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from layerdiff.errors import LayerdiffError

if TYPE_CHECKING:
    from pathlib import Path

    from layerdiff.config import Config
    from layerdiff.progress import Progress
    from layerdiff.records import Report

REFUSED, INTERRUPTED = 2, 130

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Compares a NeMo speech model with its Core ML conversion, tensor by tensor, on any machine.",
    epilog="Exit codes: 0 pass, 1 a stage fails, 2 refused, 3 something could not be compared, 130 interrupted.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="layerdiff")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


# ------------------------------------------------------------------ options

Config_ = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, e.g. configs/joint.yaml.")]
Candidate = Annotated[
    list[str] | None, typer.Option("--candidate", metavar="NAME", help="Only this candidate; may be repeated.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and what other libraries print.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from layerdiff import __version__

        typer.echo(f"layerdiff {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    context.obj = debug


# ------------------------------------------------------------------ commands


@app.command()
def run(
    context: typer.Context,
    config: Config_,
    candidate: Candidate = None,
    audio: Annotated[
        list[str] | None,
        typer.Option("--audio", metavar="PATH", help="Replaces inputs.audio; a file or pattern; may be repeated."),
    ] = None,
    points: Annotated[
        str | None,
        typer.Option("--points", metavar="path|lattice", help="Compare the joint on the greedy path or everywhere."),
    ] = None,
    dir: Annotated[str | None, typer.Option("--dir", metavar="FOLDER", help="The run directory.")] = None,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours; so does NO_COLOR.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the verdict.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print report.json instead of tables.")] = False,
    debug: Debug = False,
) -> None:
    """Compare every stage of a model with its conversions."""

    def action() -> int:
        from layerdiff import config as configuration

        resolved = configuration.override(
            configuration.load(config), candidates=candidate or (), audio=audio or (), points=points, dir=dir
        )
        report, files = compare(resolved, quiet=quiet)
        with tolerant_of_closed_pipe():
            show(report, files, color=not no_color, quiet=quiet, as_json=json)
        return report.exit_code

    _end(action, debug=debug or bool(context.obj))


@app.command()
def convert(context: typer.Context, config: Config_, candidate: Candidate = None, debug: Debug = False) -> None:
    """Build the packages of a configuration's `convert:` candidates and print where they are."""

    def action() -> int:
        from layerdiff import config as configuration

        resolved = configuration.override(configuration.load(config), candidates=candidate or ())
        built = build_packages(resolved)
        with tolerant_of_closed_pipe():
            for name, component, path in built:
                print(f"{name}\t{component}\t{path}")
            sys.stdout.flush()
        return 0

    _end(action, debug=debug or bool(context.obj))


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

    _end(action, debug=debug or bool(context.obj))


def compare(config: Config, *, quiet: bool) -> tuple[Report, tuple[Path, ...]]:
    """Runs the comparison and writes the run directory; whether it can be written is found out first."""
    from layerdiff import quiet as noise
    from layerdiff.report import write

    with write.run_directory(config.outputs.dir), noise.third_party():
        from layerdiff.compare import DITHER_SEEDS
        from layerdiff.report.manifest import manifest
        from layerdiff.run import execute
        from layerdiff.run.inputs import find_inputs

        report = execute(config, progress=_progress(quiet=quiet))
        hashes = find_inputs(config.inputs).hashes()
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

        progress = _progress(quiet=False)
        reference = NemoSource.open(config.reference.nemo, progress=progress)
        whole = config.reference.component == "whole"
        components = COMPONENTS if whole else (config.reference.component,)
        return [
            (name, component, build(reference, component, entry, progress=progress))
            for name, entry in wanted.items()
            for component in components
        ]


def show(report: Report, files: Sequence[Path], *, color: bool, quiet: bool, as_json: bool) -> None:
    """Prints the report to stdout in the form that was asked for."""
    from layerdiff.report import json, terminal

    if as_json:
        sys.stdout.write(json.render(report, ascii_only=not terminal.is_utf(sys.stdout)))
    else:
        console = terminal.console_for(sys.stdout, color=color)
        (terminal.render_verdict if quiet else terminal.render)(report, console)
        if files and not quiet:
            terminal.render_files(files, console)
    sys.stdout.flush()


def _progress(*, quiet: bool) -> Progress:
    from layerdiff import progress
    from layerdiff import quiet as noise

    return progress.for_stream(noise.user_stderr(), quiet=quiet)


# ------------------------------------------------------------------ ends


def _end(action: Callable[[], int], *, debug: bool) -> NoReturn:
    with _third_party_shown() if debug else nullcontext():
        code = exit_code(action, debug=debug)
    raise typer.Exit(code)


def exit_code(action: Callable[[], int], *, debug: bool = False) -> int:
    """What `action` returns, or the code of what it raises; the one place that turns errors into messages."""
    try:
        return action()
    except KeyboardInterrupt:
        return _say("Interrupted; converted packages and the files of earlier runs are kept.", INTERRUPTED, debug=debug)
    except LayerdiffError as error:
        return _say(f"{type(error).__name__}: {error}", REFUSED, debug=debug)
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "please report it" if debug else "please report it with the output of --debug"
        return _say(f"InternalError: layerdiff itself failed ({cause}); {hint}.", REFUSED, debug=debug)


def _say(message: str, code: int, *, debug: bool) -> int:
    """Prints a message to stderr without control characters, under the traceback if that is wanted."""
    with tolerant_of_closed_pipe():
        if debug:
            import traceback

            traceback.print_exc()
        print("".join(c for c in message if c.isprintable() or c == "\n"), file=sys.stderr, flush=True)
    return code


@contextmanager
def tolerant_of_closed_pipe() -> Iterator[None]:
    """Lets `| head` end the output without a word; the exit code stays what it would have been."""
    try:
        yield
    except BrokenPipeError:
        # what is still buffered would raise again when the interpreter ends
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
                continue
            os.dup2(nowhere, stream.fileno())


@contextmanager
def _third_party_shown() -> Iterator[None]:
    """Sends what other libraries print to the user's stderr, through the logger that collects it."""
    import logging

    from layerdiff import quiet as noise

    handler = logging.StreamHandler(noise.user_stderr())
    handler.setFormatter(logging.Formatter("[%(name)s] %(message)s"))
    before = noise.LOGGER.level, noise.LOGGER.propagate
    noise.LOGGER.addHandler(handler)
    noise.LOGGER.setLevel(logging.DEBUG)
    noise.LOGGER.propagate = False
    try:
        yield
    finally:
        noise.LOGGER.removeHandler(handler)
        noise.LOGGER.level, noise.LOGGER.propagate = before


if __name__ == "__main__":
    sys.exit(main())
