"""`stages.csv`: one row per candidate and stage, with stable column names and numbers in full."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from layerdiff.records import Report
from layerdiff.report.rows import COLUMNS, stage_rows

_FORMULA_STARTS = ("=", "+", "-", "@", "|", "%")


def render(report: Report) -> str:
    """The file's text: UTF-8, commas, quotes where they are needed, an empty cell for no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in COLUMNS)
    for row in stage_rows(report):
        writer.writerow(_cell(row[column.name]) for column in COLUMNS)
    return text.getvalue()


def render_decisions(report: Report) -> str:
    """`decisions.csv`: one row per candidate and point; empty if no candidate makes decisions."""
    tables = [
        (candidate.name, table)
        for candidate in report.candidates.values()
        if candidate.tdt is not None
        for table in candidate.tdt.decisions
    ]
    if not tables:
        return ""
    columns = list(dict.fromkeys(name for _, table in tables for name in table))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["candidate", *columns])
    for candidate, table in tables:
        values = {
            name: [value] * len(table["frame"]) if isinstance(value, str) else value.tolist()
            for name, value in table.items()
        }
        for row in zip(*(values.get(name, [None] * len(table["frame"])) for name in columns), strict=True):
            writer.writerow(_cell(value) for value in (candidate, *row))
    return text.getvalue()


def lines(rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Rows of values as lines of a file, one after the other."""
    for row in rows:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(_cell(value) for value in row)
        yield text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # a spreadsheet would compute a text that begins like a formula; after an apostrophe it shows it
        return f"'{value}" if value.startswith(_FORMULA_STARTS) and not _is_number(value) else value
    return repr(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
