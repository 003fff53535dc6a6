"""Which stages a terminal shows of many, and their errors in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, log10

from layerdiff.report.rows import Row

SHOWN_ROWS = 60
"""A longer table shows what fails and what comes before it, then the first and the last stages."""
BARS = "▁▂▃▄▅▆▇█"
LOWEST, HIGHEST = -8.0, 0.0
"""Powers of ten between which a bar grows: float32 rounding, and an error as large as the tensor."""


@dataclass(frozen=True)
class Choice:
    """What is asked for; nothing is the default of a long table."""

    top: int | None = None
    """Only so many stages, those with the largest relative L2 errors."""
    failed: bool = False
    """Only stages that do not pass."""
    all: bool = False


def chosen(rows: Sequence[Row], choice: Choice) -> list[int]:
    """The places of the rows to show, in order."""
    places: Sequence[int] = range(len(rows))
    if choice.failed:
        places = [place for place in places if rows[place]["status"] != "pass"]
    if choice.top is not None:
        return sorted(sorted(places, key=lambda place: -_size(rows[place]))[: choice.top])
    if choice.failed or choice.all or len(rows) <= SHOWN_ROWS:
        return list(places)
    return sorted(telling(rows)[:SHOWN_ROWS])


def telling(rows: Sequence[Row]) -> list[int]:
    """The places of the rows: what does not pass and what comes before it, the last one, then the others in order."""
    bad = [place for place, row in enumerate(rows) if row["status"] != "pass"]
    near = [place for found in bad for place in (found, found - 1) if place >= 0]
    return list(dict.fromkeys([*near, *range(len(rows))[-1:], *range(len(rows))]))


def _size(row: Row) -> float:
    """By which stages are ranked: what fails without a number is worse than any number."""
    error = row["relative_l2_error"]
    if error is None:
        return float("inf") if row["status"] == "fail" else -1.0
    return float(error)


def sparks(rows: Sequence[Row], *, width: int) -> Iterator[tuple[str, str]]:
    """Component → its errors along the depth, a bar per stage; of many stages a bar is the largest of several.

    Args:
        rows: the stages, in order.
        width: columns that all bars together may take.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["component"], []).append(row)
    share = -(-len(rows) // max(width, 1))
    for component, found in groups.items():
        parts = [found[start : start + share] for start in range(0, len(found), share)]
        yield component, "".join(max(map(_bar, part)) for part in parts)


def _bar(row: Row) -> str:
    """A bar that is a tenth of a decade or so exact; a blank where there is no error to draw."""
    error = row["relative_l2_error"]
    if error is None:
        return " " if row["status"] != "fail" else BARS[-1]
    if not isfinite(error):
        return BARS[-1]
    height = (log10(max(float(error), 1e-300)) - LOWEST) / (HIGHEST - LOWEST)
    return BARS[min(max(int(height * len(BARS)), 0), len(BARS) - 1)]
