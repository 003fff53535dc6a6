"""`layerdiff expose`: a package that returns more of its tensors."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from layerdiff.cli.app import Debug, Quiet, app
from layerdiff.cli.ends import end, tolerant_of_closed_pipe

if TYPE_CHECKING:
    from layerdiff.mil import Exposed


@app.command(context_settings={"allow_extra_args": True})
def expose(
    context: typer.Context,
    package: Annotated[str, typer.Argument(metavar="PACKAGE", help="An .mlpackage with an ML Program.")],
    tensors: Annotated[
        list[str] | None,
        typer.Option("--tensors", metavar="NAME ...", help="These tensors, separated by spaces or commas."),
    ] = None,
    stages: Annotated[
        str | None, typer.Option("--stages", metavar="CONFIG", help="The tensors that a configuration's stages name.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every tensor that can be an output.")] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "-o", "--out", metavar="OUT", help="NAME.mlpackage, or a folder of packages; beside PACKAGE without it."
        ),
    ] = None,
    chunk: Annotated[
        int | None, typer.Option("--chunk", metavar="N", min=1, help="Most outputs that one package gets more (50).")
    ] = None,
    function: Annotated[
        str | None, typer.Option("--function", metavar="NAME", help="Of a package with several functions, which one.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another package at OUT.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a package that also returns tensors from inside of it."""
    names = [name for given in [*(tensors or ()), *context.args] for name in given.split(",") if name]
    _require_one_choice(tensors, stages, every, extra=context.args)

    def action() -> int:
        from layerdiff.mil import exposure

        wanted = None if every else names or _named_by(stages or "", package, function)
        written = exposure.expose(package, wanted, out, function=function, chunk=chunk or exposure.CHUNK, force=force)
        with tolerant_of_closed_pipe():
            _show(written, quiet=quiet)
        return 0

    end(action, debug=debug or bool(context.obj))


def _require_one_choice(tensors: list[str] | None, stages: str | None, every: bool, *, extra: list[str]) -> None:
    if extra and not tensors:
        raise typer.BadParameter(f"got unexpected extra arguments ({' '.join(extra)})")
    given = [bool(tensors), stages is not None, every]
    if sum(given) != 1:
        raise typer.BadParameter("give exactly one of --tensors NAME ..., --stages CONFIG and --all")


def _named_by(config: str, package: str, function: str | None) -> tuple[str, ...]:
    """The tensors that the stages of a configuration name."""
    from layerdiff import config as configuration
    from layerdiff.expose import stage_tensors
    from layerdiff.mil.exposure import opened

    resolved = configuration.load(config)
    _, graph = opened(package, function)
    return stage_tensors(resolved, package, {*graph.types, *graph.nested})


def _show(written: Exposed, *, quiet: bool) -> None:
    """One line per package, its new outputs below it, and what was left out."""
    for part in written.packages:
        print(f"{part.path}: {len(part.exposures)} more outputs")
        for exposure in () if quiet else part.exposures:
            cast = f" as {exposure.output}, {exposure.returned}" if exposure.output != exposure.tensor else ""
            print(f"  {exposure.tensor}{cast}")
    if written.already and not quiet:
        print(f"outputs already: {', '.join(written.already)}")
    if written.left_out:
        print(f"left out: {len(written.left_out)}")
        for name, reason in {} if quiet else written.left_out.items():
            print(f"  {name} {reason}")
    sys.stdout.flush()
