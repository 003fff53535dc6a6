"""The failing tests that are not the engine's fault, each by name and with its reason: `excused.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from conformance.records import CRASHED, FAILED, FAILING, UNCOLLECTED, UNCONVERTED, XPASSED, Record
from conformance.sampling import function_of

LIST = Path(__file__).with_name("excused.toml")
TOOTHLESS = Path(__file__).with_name("toothless.txt")

KINDS: dict[str, frozenset[str]] = {
    "conversion": frozenset({UNCONVERTED, CRASHED}),
    "package": frozenset({UNCONVERTED, UNCOLLECTED}),
    "random": frozenset({FAILED}),
    "test": frozenset({FAILED, UNCONVERTED}),
    "strict": frozenset({FAILED}),
    "core ml": frozenset({XPASSED}),
    "apple": frozenset({FAILED, UNCONVERTED}),
}
"""Kind → the outcomes that it may excuse.

conversion: torch or coremltools fails before anything is predicted. package: a package that is not installed. random:
what is expected depends on random numbers that Core ML does not specify. test: the test is shown to be wrong. strict:
it passes within coremltools' own tolerance, which is wider than that of a strict run. core ml: the test expects a bug
of Core ML that the engine does not have. apple: it asks for something else than a prediction, or for a restriction,
that only Apple's hardware or software has.
"""


@dataclass(frozen=True)
class Excuse:
    """One entry of the list."""

    tests: str
    """Test ids, with `*` for any text; without parameters it stands for all of them."""
    kind: str
    why: str
    error: str = ""
    """Regular expression that the error must contain; empty for any."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"'{self.kind}' is no kind of excuse; known: {', '.join(KINDS)}")
        if not self.why:
            raise ValueError(f"the excuse of '{self.tests}' has no reason")

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(".*".join(re.escape(part) for part in self.tests.split("*")), re.DOTALL)

    def names(self, test: str) -> bool:
        """Whether the entry is about a test, however it ended."""
        return bool(self.pattern.fullmatch(test) or self.pattern.fullmatch(function_of(test)))

    def covers(self, record: Record) -> bool:
        """Whether it excuses how a test ended."""
        return (
            record.outcome in KINDS[self.kind]
            and self.names(record.test)
            and re.search(self.error, record.error) is not None
        )


@cache
def excuses(path: Path = LIST) -> tuple[Excuse, ...]:
    """The entries of a list, which is read once.

    Raises:
        ValueError: an entry has an unknown kind or no reason.
    """
    return tuple(Excuse(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("excused", []))


def toothless(path: Path = TOOTHLESS) -> frozenset[str]:
    """The test functions that pass whatever the engine answers: passing them counts for nothing."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def excuse_of(record: Record, known: Iterable[Excuse]) -> Excuse | None:
    """The first entry that excuses a failing record; None if there is none or it does not fail."""
    if record.outcome not in FAILING:
        return None
    return next((excuse for excuse in known if excuse.covers(record)), None)


def needless(records: Iterable[Record], known: Iterable[Excuse]) -> list[Excuse]:
    """Entries whose tests ran and that excuse none of them: to be taken off the list."""
    ran = list(records)
    return [
        excuse
        for excuse in known
        if any(excuse.names(record.test) for record in ran) and not any(excuse.covers(record) for record in ran)
    ]
