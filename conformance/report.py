"""Records added up: rows per suite and file, once, for the terminal and for the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from conformance import records
from conformance.excused import KINDS, Excuse, excuse_of
from conformance.records import FAILING, Record
from conformance.sampling import function_of
from conformance.suites import SUITES, suite_of

COLUMNS = ("predicted", "passed", "toothless", *KINDS, "failed")


@dataclass
class Tally:
    """What is counted of one file, or of several."""

    counts: Counter[str] = field(default_factory=Counter)
    """By the names of COLUMNS; of the tests that predicted, `toothless` pass whatever is predicted."""

    def cells(self) -> tuple[str, ...]:
        return tuple(f"{self.counts[name]:,}".replace(",", " ") if self.counts[name] else "·" for name in COLUMNS)


@dataclass(frozen=True)
class Result:
    """The records of a run, judged."""

    tallies: dict[str, Tally]
    """File → what is counted."""
    failures: list[Record]
    """Failing and not excused."""
    ran: int
    """All tests on record, those that count nowhere as well."""

    @property
    def total(self) -> Tally:
        return Tally(sum((tally.counts for tally in self.tallies.values()), Counter()))


def judged(found: Iterable[Record], known: Sequence[Excuse], toothless: Collection[str]) -> Result:
    """Adds records up; skipped tests, and those that pass without a prediction, count nowhere."""
    tallies: dict[str, Tally] = {}
    failures = []
    ran = list(found)
    for record in sorted(ran, key=lambda record: record.test):
        if record.outcome in (records.SKIPPED, records.UNPREDICTED):
            continue
        counts = tallies.setdefault(record.test.partition("::")[0], Tally()).counts
        counts["predicted"] += record.predictions > 0
        excuse = excuse_of(record, known)
        if record.outcome not in FAILING:
            counts["toothless" if function_of(record.test) in toothless else "passed"] += 1
        elif excuse is not None:
            counts[excuse.kind] += 1
        else:
            counts["failed"] += 1
            failures.append(record)
    return Result(tallies, failures, len(ran))


def rows(result: Result) -> list[tuple[str, ...]]:
    """Suite or file, then `COLUMNS`: each suite's sum above its files, the whole sum last."""
    lines: list[tuple[str, ...]] = []
    for suite in SUITES:
        files = [file for file in sorted(result.tallies) if suite_of(file) == suite]
        if files:
            total = Tally(sum((result.tallies[file].counts for file in files), Counter()))
            lines.append((suite, *total.cells()))
            lines += [(f"  {short(file)}", *result.tallies[file].cells()) for file in files]
    return [*lines, ("all", *result.total.cells())]


def short(file: str) -> str:
    """A file by the last two parts of its path: `iOS17/test_conv.py`."""
    return "/".join(Path(file).parts[-2:])


def table(result: Result) -> Table:
    """The rows for a terminal."""
    shown = Table(title="coremltools' tests on the portable engine")
    shown.add_column("tests", no_wrap=True)
    for column in COLUMNS:
        shown.add_column(column, justify="right", no_wrap=True)
    for row in rows(result):
        shown.add_row(*row, style="" if row[0].startswith(" ") else "bold")
    return shown


def of_suites(found: Iterable[Record], suites: Collection[str]) -> list[Record]:
    """The records of some suites."""
    return [record for record in found if suite_of(record.test) in suites]
