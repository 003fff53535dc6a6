"""Measurements as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from benchmarks.measure import Measurement

COLUMNS = ("what", "median (min)", "ratio (of min)", "target")
"""Medians over all runs, and over the ratios of neighbouring ones; in brackets the fastest run."""


def table(measurements: Sequence[Measurement]) -> Table:
    """One row per measurement; on a narrow terminal only the first column wraps."""
    result = Table(title="layerdiff benchmarks")
    result.add_column(COLUMNS[0], min_width=16)
    for column in COLUMNS[1:]:
        result.add_column(column, justify="right", no_wrap=True)
    for line in measurements:
        result.add_row(*cells(line))
    return result


def cells(line: Measurement) -> tuple[str, ...]:
    """One measurement as the texts of `COLUMNS`."""
    verdict = {True: " ok", False: " NOT OK", None: ""}[line.ok]
    return (
        f"{line.benchmark}: {line.what}" + (f", against {line.against}" if line.against else ""),
        quantity(line.value, line.unit) + ("" if line.fastest is None else f" ({quantity(line.fastest, line.unit)})"),
        times(line.ratio) + ("" if line.ratio_of_fastest is None else f" ({times(line.ratio_of_fastest)})"),
        line.target + verdict,
    )


def quantity(value: float, unit: str) -> str:
    """A value with its unit, in a size that people read: `12.3 ms`, `851 MiB`, `0 modules`."""
    if unit == "s":
        return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    return f"{value:.3g} {unit}"


def times(ratio: float | None) -> str:
    """A ratio as `5.2×`; empty for None."""
    return "" if ratio is None else f"{ratio:.1f}×" if ratio >= 10 else f"{ratio:.2f}×"


def as_json(measurements: Sequence[Measurement], *, environment: dict[str, str]) -> dict[str, Any]:
    """Plain JSON values: the machine and every measurement."""
    return {"environment": environment, "measurements": [asdict(line) for line in measurements]}
