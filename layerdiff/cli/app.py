"""The application that every command belongs to, and the options that several of them have."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.core import TyperGroup

ORDER = (
    "run",
    "init",
    "inspect",
    "capture",
    "convert",
    "expose",
    "explain",
    "headroom",
    "fix",
    "decode",
    "check",
    "sweep",
    "report",
    "repro",
    "exec",
    "schema",
)
"""The commands as the help lists them: what most people look for first."""


class InOrder(TyperGroup):
    """Lists the commands in `ORDER`, not as their modules happen to be imported."""

    def list_commands(self, ctx: object) -> list[str]:
        return sorted(self.commands, key=ORDER.index)


app = typer.Typer(
    cls=InOrder,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Compares a PyTorch or NeMo model with its Core ML conversion, tensor by tensor, on any machine.",
    epilog="Exit codes: 0 pass, 1 a stage fails, 2 refused, 3 something could not be compared, 130 interrupted.",
)

Config_ = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, e.g. configs/joint.yaml.")]
Candidate = Annotated[
    list[str] | None, typer.Option("--candidate", metavar="NAME", help="Only this candidate; may be repeated.")
]
Audio = Annotated[
    list[str] | None,
    typer.Option("--audio", metavar="PATH", help="Replaces inputs.audio; a file or pattern; may be repeated."),
]
Manifest = Annotated[str | None, typer.Option("--manifest", metavar="FILE", help="Replaces inputs by a NeMo manifest.")]
Tensors = Annotated[
    str | None, typer.Option("--tensors", metavar="FILE", help="Replaces inputs by a safetensors file.")
]
Adapter = Annotated[
    str | None, typer.Option("--adapter", metavar="PACKAGE.MODULE:FUNCTION", help="Makes a model's inputs of audio.")
]
Component = Annotated[str | None, typer.Option("--component", metavar="NAME", help="Of a NeMo model what is compared.")]
Ray = Annotated[str | None, typer.Option("--ray", metavar="auto|ADDRESS", help="Decode on a Ray cluster.")]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Processes of the cluster.")]
Dir = Annotated[str | None, typer.Option("--dir", metavar="FOLDER", help="The run directory.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and what other libraries print.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours; so does NO_COLOR.")]
Top = Annotated[
    int | None, typer.Option("--top", metavar="N", min=1, help="Show only the N stages with the largest errors.")
]
Failed = Annotated[bool, typer.Option("--failed", help="Show only the stages that do not pass.")]
All = Annotated[bool, typer.Option("--all", help="Show every stage, however many there are.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the verdict.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from layerdiff.environment import environment

        for name, version in environment().items():
            typer.echo(f"{name} {version or '– not installed'}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the versions that matter.")
]


@app.callback()
def options(
    context: typer.Context,
    debug: Debug = False,
    version: Version = False,
) -> None:
    context.obj = debug
