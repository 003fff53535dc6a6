"""`layerdiff inspect`: what a model holds, and whether it holds a checkpoint's weights; nothing is run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layerdiff.cli.app import Debug, NoColor, app
from layerdiff.cli.ends import end, tolerant_of_closed_pipe

if TYPE_CHECKING:
    from layerdiff.audit import Audit
    from layerdiff.inspection import Inspection
    from layerdiff.outline import Outline


@app.command()
def inspect(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A package, a checkpoint (.nemo, .pt, .safetensors), .onnx or .trace."),
    ],
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="CHECKPOINT", help="Audit MODEL's weights against these."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    all: Annotated[bool, typer.Option("--all", help="List every tensor and every weight.")] = False,
    no_color: NoColor = False,
    debug: Debug = False,
) -> None:
    """Show what a model holds; audit its weights."""

    def action() -> int:
        from layerdiff import quiet as noise

        with noise.third_party():
            found, outline = inspected(model)
            audit = audited(outline, weights) if weights is not None else None
        with tolerant_of_closed_pipe():
            show(found, audit, as_json=json, color=not no_color, show_all=all)
        return 0 if audit is None else audit.exit_code

    end(action, debug=debug or bool(context.obj))


def inspected(name: str) -> tuple[Inspection, Outline]:
    """What a file holds, and its weights as an outline."""
    from layerdiff.inspection import inspect_outline
    from layerdiff.sources.checkpoint import PACKAGES, outline_of_file

    path = Path(name).expanduser()
    if path.suffix.lower() in PACKAGES:
        return inspected_package(path)
    outline = outline_of_file(name)
    kind = {".onnx": "ONNX model", ".trace": "recorded trace"}.get(path.suffix.lower(), "checkpoint")
    facts = recording(path) if kind == "recorded trace" else {}
    return inspect_outline(outline, kind=kind, path=str(path if path.exists() else name), facts=facts), outline


def recording(path: Path) -> dict[str, Any]:
    """How far a trace goes, and on what it was recorded."""
    from layerdiff.sources.recorded import RecordedSource

    source = RecordedSource.open(path)
    return {"state": source.state, "calls": len(source.calls)}


def inspected_package(path: Path) -> tuple[Inspection, Outline]:
    """All functions of a package, or all models of a pipeline; an audit is of all of them."""
    from layerdiff.inspection import inspect_package
    from layerdiff.mil import Model, load
    from layerdiff.sources.checkpoint import joined
    from layerdiff.sources.coreml_outline import outline_of

    opened = load(path)
    if isinstance(opened, Model):
        functions = opened.package.program.functions
        models = {name: opened if name == opened.function else load(path, function=name) for name in functions}
    else:
        models = dict(opened.members)
    loaded = {name: model for name, model in models.items() if isinstance(model, Model)}
    outlines = {name: outline_of(model) for name, model in loaded.items()}
    kind = "Core ML package" if isinstance(opened, Model) else "pipeline"
    whole = next(iter(outlines.values())) if len(outlines) == 1 else joined(path.name, outlines)
    return inspect_package(loaded, outlines, kind=kind), whole


def audited(candidate: Outline, weights: str) -> Audit:
    """The audit of a model's weights against a checkpoint."""
    from layerdiff.align.weights import match_weights
    from layerdiff.audit import audit
    from layerdiff.sources.checkpoint import outline_of_file

    reference = outline_of_file(weights)
    return audit(reference, candidate, match_weights(reference, candidate))


def document(inspection: Inspection, audit: Audit | None) -> dict[str, Any]:
    """Everything as plain JSON values."""
    from layerdiff.report.json import plain

    found: dict[str, Any] = {"schema": 1, **plain(inspection), "audit": None}
    if audit is not None:
        found["audit"] = {**plain(audit), "counts": plain(audit.counts), "exit_code": audit.exit_code}
    return found


def show(inspection: Inspection, audit: Audit | None, *, as_json: bool, color: bool, show_all: bool) -> None:
    """Prints it to stdout in the form that was asked for."""
    from layerdiff.report import inspection as view
    from layerdiff.report import json, terminal

    if as_json:
        sys.stdout.write(json.dump(document(inspection, audit), ascii_only=not terminal.is_utf(sys.stdout)))
    else:
        view.render(inspection, audit, terminal.console_for(sys.stdout, color=color), show_all=show_all)
    sys.stdout.flush()
