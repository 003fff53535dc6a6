"""One line of JSON per finished test: written while a run goes on, read when it continues, is merged or is reported."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RECORDS, SETTINGS = "records.jsonl", "settings.json"

PASSED = "passed"
"""Predicted at least once, and every assertion held."""
FAILED = "failed"
"""Failed after the engine had loaded a model to predict with, or refused to."""
CRASHED = "crashed"
"""The process died, or ran past the time limit."""
UNCONVERTED = "unconverted"
"""Failed before the engine was asked for anything: none could have helped."""
UNCOLLECTED = "uncollected"
"""The file could not be imported."""
XPASSED = "xpassed"
"""Passed where coremltools expects Core ML itself to fail."""
UNPREDICTED = "unpredicted"
"""Passed without a prediction: says nothing about the engine."""
SKIPPED = "skipped"
"""Skipped, or expected to fail and failing, by coremltools' own choice; or of a model that is no ML Program."""

FAILING = frozenset({FAILED, CRASHED, UNCONVERTED, UNCOLLECTED, XPASSED})
"""What must be excused by name."""


@dataclass(frozen=True)
class Record:
    """How one test ended."""

    test: str
    """Its id below the package `coremltools`: `converters/mil/…/test_linear.py::TestLinear::test_x[…]`."""
    outcome: str
    error: str = ""
    """Type and beginning of the message of what ended it."""
    place: str = ""
    """File, line and function that raised it."""
    predictions: int = 0
    comparisons: int = 0
    """Numeric comparisons made after the first prediction."""
    loosened: int = 0
    """How many of them were tighter than float16 can be."""
    seconds: float = 0.0
    """Processor time."""
    engine_seconds: float = 0.0
    """The part of it that predictions took."""


def append(folder: Path, record: Record) -> None:
    """Adds one line; what is in the file is never rewritten, so an interruption costs at most the line under way."""
    with (folder / RECORDS).open("ab+") as file:
        file.seek(-min(1, file.tell()), os.SEEK_END)
        cut_off = file.read(1) not in (b"", b"\n")
        line = json.dumps(asdict(record), ensure_ascii=False) + "\n"
        file.write((b"\n" if cut_off else b"") + line.encode())


def read(folders: Iterable[Path]) -> dict[str, Record]:
    """Test → its latest record; an unfinished last line is left out."""
    found: dict[str, Record] = {}
    for folder in folders:
        path = folder / RECORDS
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for line in lines:
            try:
                record = Record(**json.loads(line))
            except json.JSONDecodeError:
                continue
            found.pop(record.test.partition("::")[0], None)  # the file could be imported after all
            found[record.test] = record
    return found


def conflict(folder: Path, settings: dict[str, Any]) -> str | None:
    """Why the records of a folder cannot be continued under these settings, or None; a new folder takes them."""
    path = folder / SETTINGS
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return None
    made_with = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key in settings if made_with.get(key) != settings[key]]
    return "; ".join(f"{key} {made_with.get(key)!r}, not {settings[key]!r}" for key in changed) or None


def settings_of(folder: Path) -> dict[str, Any]:
    """What the records of a folder were made with; empty if it holds none."""
    path = folder / SETTINGS
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
