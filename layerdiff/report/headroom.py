"""What float16 would do to a reference, on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from layerdiff.float16 import Headroom
from layerdiff.report import cells, sections
from layerdiff.report.json import plain
from layerdiff.report.tables import flow

SHOWN = 40
"""Rows of a list; the rest is in the JSON."""


def document(found: Sequence[Headroom]) -> dict[str, Any]:
    """Everything as plain JSON values."""
    return {"schema": 1, "tensors": [plain(entry) for entry in found], "keep_in_float32": keep_in_float32(found)}


def keep_in_float32(found: Sequence[Headroom]) -> list[str]:
    """The tensors whose ops should stay float32, in order."""
    return [entry.tensor for entry in found if entry.risks]


def render(found: Sequence[Headroom], console: Console, *, show_all: bool) -> None:
    """Prints it."""
    console.print(view(found, width=console.width, show_all=show_all))


def view(found: Sequence[Headroom], *, width: int, show_all: bool) -> Group:
    """The tensors at risk with what may happen to them, or all of them, then what to keep in float32."""
    chosen = list(found) if show_all else [entry for entry in found if entry.risks]
    parts: list[RenderableType] = [_entry(entry, width=width) for entry in chosen[: None if show_all else SHOWN]]
    if len(chosen) > len(parts):
        more = f"… and {len(chosen) - len(parts)} more; --all or --json lists them"
        parts.append(sections.paragraph(more, width=width, style="dim"))
    return Group(*parts, Text(), sections.paragraph(verdict(found), width=width, style="bold"))


def verdict(found: Sequence[Headroom]) -> str:
    """One line: how many tensors are at risk, and which one has least headroom."""
    if not found:
        return "no float tensor was seen"
    risky, overflowing = sum(bool(entry.risks) for entry in found), sum(entry.overflows for entry in found)
    least = min(found, key=lambda entry: entry.headroom)
    counts = f"{cells.plural(len(found), 'tensor')}: {overflowing} overflow float16, {risky} at risk in all"
    return f"{counts}; least headroom {cells.number(least.headroom)} at {cells.clean(least.tensor)}"


def _entry(entry: Headroom, *, width: int) -> RenderableType:
    """Name and numbers on one line, the risks below."""
    facts = [f"{cells.clean(entry.tensor)} ({entry.kind})", f"max {cells.number(entry.absmax)}"]
    facts += [f"headroom {cells.number(entry.headroom)}"]
    facts += [f"small {entry.small_share:.0%}"] if entry.small_share else []
    style = "bold red" if entry.overflows else "yellow" if entry.risks else ""
    lines = [Text(line, style=style) for line in flow(facts, width=width)]
    return Group(*lines, *(sections.paragraph(f"  {risk}", width=width, style="") for risk in entry.risks))
