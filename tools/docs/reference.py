"""Writes the reference pages of the documentation from the code: `python -m tools.docs.reference`.

A test holds what is committed against what this gives.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from click import Context
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from layerdiff.cli import app
from layerdiff.cli.app import ORDER
from layerdiff.config import Config

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


def pages() -> dict[str, str]:
    """File name → text of every generated page."""
    return {"command-line.md": command_line(), "configuration.md": configuration()}


# ------------------------------------------------------------------ command line


def command_line() -> str:
    """A section per command: what it does, how it is called, its options."""
    group: Any = typer.main.get_command(app)
    lines = ["# Command line", "", group.help, "", str(group.epilog), ""]
    lines += ["Shell completion: `layerdiff --install-completion`. Versions: `layerdiff --version`.", ""]
    for name in ORDER:
        lines += command(name, group.commands[name])
    return "\n".join(lines).rstrip() + "\n"


def command(name: str, entry: Any) -> Iterator[str]:
    """One command."""
    context = Context(entry, info_name=f"layerdiff {name}")
    arguments = [part for parameter in entry.params for part in parameter.get_usage_pieces(context)]
    yield from (f"## {name}", "", *inspect.cleandoc(entry.help or "").splitlines(), "")
    yield from ("```text", " ".join(["layerdiff", name, "[OPTIONS]", *arguments]), "```", "")
    yield from ("| option | meaning |", "|---|---|")
    for parameter in entry.params:
        record = parameter.get_help_record(context)
        if record is not None:
            written, meaning = (re.sub(r" <.*?>|  \[required\]", "", part).replace("|", "\\|") for part in record)
            yield f"| `{written}` | {meaning} |"
    yield ""


# ------------------------------------------------------------------ configuration


def configuration() -> str:
    """A section per section of the configuration: key, kind, default, meaning."""
    lines = [
        "# Configuration",
        "",
        "A YAML file. Unknown keys are refused with the nearest known one; a key without a value counts as absent;",
        "paths are relative to the working directory. An option of the command line has the name of its key. Editors",
        "that know JSON schemas take `layerdiff schema > layerdiff.schema.json`, and the line",
        "`# yaml-language-server: $schema=layerdiff.schema.json` at the top of the file.",
        "",
    ]
    for title, section in sections("", Config):
        lines += [f"## {title}" if title else "## The file", "", one_paragraph(section.__doc__), ""]
        lines += ["| key | value | default | meaning |", "|---|---|---|---|", *rows(section), ""]
    return "\n".join(lines).rstrip() + "\n"


def sections(title: str, section: Any) -> Iterator[tuple[str, Any]]:
    """A section and all that are in it, each once."""
    yield title, section
    for name, field in section.model_fields.items():
        for inner in models_in(field.annotation):
            key = f"{title}.{name}" if title else name
            is_mapping = "dict" in str(field.annotation)
            yield from sections(f"{key}.NAME" if is_mapping else key, inner)


def models_in(annotation: Any) -> Iterator[Any]:
    """The sections that a key may hold."""
    if hasattr(annotation, "model_fields"):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from models_in(part)


def rows(section: Any) -> Iterator[str]:
    """A line per key."""
    for name, field in section.model_fields.items():
        meaning = one_paragraph(field.description or next(models_in(field.annotation)).__doc__)
        yield f"| `{name}` | {kind(field.annotation)} | {default(field)} | {meaning} |".replace("\n", " ")


def kind(annotation: Any) -> str:
    """What a key takes, in words."""
    if any(True for _ in models_in(annotation)):
        return "names → sections" if "dict" in str(annotation) else "section"
    if type(annotation).__name__ == "_AnnotatedAlias":
        return kind(annotation.__origin__)
    names = {str: "text", int: "whole number", float: "number", bool: "true, false"}
    if annotation in names:
        return names[annotation]
    parts = [part for part in getattr(annotation, "__args__", ()) if part is not type(None)]
    origin = str(getattr(annotation, "__origin__", ""))
    if "Literal" in str(annotation)[:20] or "Literal" in origin:
        return ", ".join(f"`{part}`" for part in parts)
    if "list" in origin:
        return f"list of {kind(parts[0])}"
    if "dict" in origin:
        return f"text → {kind(parts[1])}"
    return " or ".join(dict.fromkeys(kind(part) for part in parts))


def default(field: Any) -> str:
    """The default as YAML writes it; nothing where there is none."""
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None or isinstance(value, BaseModel):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def one_paragraph(text: str | None) -> str:
    """A docstring on one line."""
    return " ".join(inspect.cleandoc(text or "").split()).replace("|", "\\|")


def main() -> None:
    """Writes the pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
