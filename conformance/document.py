"""The table of the documentation, written from records.

python -m conformance report outputs/conformance --write docs/conformance.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from conformance.excused import KINDS, Excuse
from conformance.report import COLUMNS, Result, rows

OPENING = """# Conformance

coremltools ships its own tests in its wheel. `make conformance` runs them on the portable engine, through
`layerdiff.enable_predict()`, without a Mac; `make conformance-sample` runs a fixed sample of them in a few minutes, and
`make test` a smaller one. This file is what `python -m conformance report` writes; it is not edited by hand.

- **predicted**: tests that called `predict`; the others say nothing about an engine, and are counted only if they fail.
- **passed**: of these, every assertion held. coremltools compares float16 at 0.5 absolute and 5 % relative; here at
  {strict} each.
- **toothless**: passed, but would have passed with every value wrong.
- **{kinds}**: failed for a reason outside of the engine; `conformance/excused.toml` names each with its reason.
- **failed**: everything else that failed. An op that the engine does not execute fails.
"""

CLOSING = """
## What is excused

{excuses}
"""


def document(result: Result, *, settings: Mapping[str, Any], excuses: Sequence[Excuse]) -> str:
    """The whole file: what the columns mean, versions, one row per suite and file, and what is excused."""
    versions = ", ".join(f"{name} {settings[name]}" for name in ("coremltools", "torch", "numpy") if name in settings)
    lines = [
        OPENING.format(strict=settings.get("strict", "as given"), kinds="**, **".join(KINDS)),
        f"Measured with {versions}: {result.ran} tests ran.\n",
        row("tests", *COLUMNS),
        row("---", *("---:" for _ in COLUMNS)),
        *(row(name(line[0]), *line[1:]) for line in rows(result)),
        CLOSING.format(excuses="\n".join(f"- `{e.tests}` ({e.kind}): {e.why}" for e in excuses) or "Nothing."),
    ]
    return "\n".join(lines)


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def name(cell: str) -> str:
    """Suites and the whole sum in bold, files as code."""
    return f"`{cell.strip()}`" if cell.startswith(" ") else f"**{cell}**"
