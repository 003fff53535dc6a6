"""`layerdiff init` and `layerdiff schema`: a configuration to begin with, and what editors know of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from layerdiff.cli.app import Adapter, Audio, Component, Debug, Manifest, Quiet, Tensors, app
from layerdiff.cli.ends import end, progress_bar, tolerant_of_closed_pipe


@app.command()
def init(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The reference: a .nemo file, torch, ONNX, a trace.")],
    packages: Annotated[
        list[str] | None, typer.Argument(metavar="[PACKAGE]...", help="Core ML packages that were made of it.")
    ] = None,
    component: Component = None,
    audio: Audio = None,
    manifest: Manifest = None,
    tensors: Tensors = None,
    adapter: Adapter = None,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="FILE", help="The file; PACKAGE.yaml without it, - for stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a commented configuration; its stages are found by alignment."""

    def action() -> int:
        from layerdiff import quiet as noise
        from layerdiff import store

        name = Path(packages[0] if packages else model).stem
        path = Path(out or f"{name}.yaml")
        if out != "-":
            require_new(path, force=force)
        with noise.third_party():
            from layerdiff.proposal import Given, propose
            from layerdiff.proposal.rendering import render
            from layerdiff.proposal.stages import with_stages

            given = Given(model, tuple(packages or ()), component, tuple(audio or ()), manifest, tensors, adapter)
            proposal = with_stages(propose(given), progress=progress_bar(quiet=quiet))
        text = render(proposal, path.as_posix())
        with tolerant_of_closed_pipe():
            if out == "-":
                sys.stdout.write(text)
            else:
                store.write_atomically(path, text)
                print(f"{path}: {len(proposal.stages)} stages; next: layerdiff run {path}")
            sys.stdout.flush()
        return 0

    end(action, debug=debug or bool(context.obj))


def require_new(path: Path, *, force: bool) -> None:
    """Raises OutputError if there is a file that must not be replaced."""
    from layerdiff.errors import OutputError

    if path.exists() and not force:
        raise OutputError(f"'{path}' exists.", action="name another file with --out, or replace it with --force")


@app.command()
def schema(debug: Debug = False) -> None:
    """Print the JSON schema of a configuration, for editors."""

    def action() -> int:
        from layerdiff.config.schema import render

        with tolerant_of_closed_pipe():
            sys.stdout.write(render())
            sys.stdout.flush()
        return 0

    end(action, debug=debug)
