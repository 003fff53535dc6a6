"""A result against an earlier one that was agreed on: what has become worse, better, or is not there any more.

A baseline is a small JSON file that is committed beside the configuration. Each of its numbers has a band: what is
outside of it on the bad side is a regression, on the good side an improvement. A stage that was there and is no longer
compared is never taken for fine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from layerdiff.errors import ConfigError

if TYPE_CHECKING:
    from layerdiff.config import CheckConfig

SCHEMA = 1
FLOOR = 1e-6
"""Relative L2 errors below this are float32 rounding: no band is narrower."""

COUNTED = ("_flips", "_all_negative")
"""How measures end that are numbers of points: of these none more is as good as before."""

Verdict = Literal["same", "regression", "improvement", "missing", "new"]

Values = Mapping[str, float | str | None]
"""Measure → number, or a status."""
Results = Mapping[str, Mapping[str, Values]]
"""Candidate → stage, or `decode` → measures."""


@dataclass(frozen=True)
class Comparison:
    """One number of a result beside that of the baseline."""

    candidate: str
    subject: str
    """A stage, or `decode`."""
    measure: str
    baseline: float | str | None
    now: float | str | None
    verdict: Verdict
    limit: float | None = None
    """The largest value that is no regression; None for a status."""


@dataclass(frozen=True)
class Check:
    """A whole result beside its baseline."""

    comparisons: tuple[Comparison, ...]

    def of(self, verdict: Verdict) -> tuple[Comparison, ...]:
        """Those with one verdict."""
        return tuple(found for found in self.comparisons if found.verdict == verdict)

    @property
    def exit_code(self) -> int:
        """0 nothing is worse, 1 something is, 3 something of the baseline was not compared."""
        if self.of("regression"):
            return 1
        return 3 if self.of("missing") else 0


def compared(baseline: Results, now: Results, bands: CheckConfig) -> Check:
    """Every number of both results, in the order of the newer one, then what only the baseline has."""
    return Check(tuple(_comparisons(baseline, now, bands)))


def _comparisons(baseline: Results, now: Results, bands: CheckConfig) -> Iterator[Comparison]:
    for candidate in dict.fromkeys([*now, *baseline]):
        old, new = baseline.get(candidate, {}), now.get(candidate, {})
        for subject in dict.fromkeys([*new, *old]):
            before, after = old.get(subject, {}), new.get(subject, {})
            for measure in dict.fromkeys([*after, *before]):
                if before.get(measure) is None and after.get(measure) is None:
                    continue
                yield _comparison(candidate, subject, measure, before.get(measure), after.get(measure), bands)


def _comparison(candidate: str, subject: str, measure: str, old: Any, new: Any, bands: CheckConfig) -> Comparison:
    if old is None or new is None:
        return Comparison(candidate, subject, measure, old, new, "new" if old is None else "missing")
    if isinstance(old, str) or isinstance(new, str):
        return Comparison(candidate, subject, measure, old, new, _of_status(str(old), str(new)))
    limit, gain = band(measure, old, bands)
    verdict: Verdict = "regression" if new > limit else "improvement" if new < gain else "same"
    return Comparison(candidate, subject, measure, old, new, verdict, limit)


RANKS = ("pass", "skipped", "unknown", "fail")
"""From good to bad."""


def _of_status(old: str, new: str) -> Verdict:
    if new == "unknown" and old == "pass":
        return "missing"  # it was compared, and is not any more
    ranks = [RANKS.index(status) if status in RANKS else len(RANKS) for status in (old, new)]
    return "same" if ranks[0] == ranks[1] else "regression" if ranks[1] > ranks[0] else "improvement"


def band(measure: str, value: float, bands: CheckConfig) -> tuple[float, float]:
    """The largest number that is no regression of `value`, and the smallest that is no improvement."""
    if measure == "relative_l2_error":
        return max(value, FLOOR) * bands.stage_factor, value / bands.stage_factor - FLOOR
    if measure.endswith(COUNTED):
        return value, value
    width = {"flips": bands.flips, "end_shift_ms": bands.shift_ms}.get(measure, bands.wer)
    return value + width, value - width


# ------------------------------------------------------------------ the file


def read_baseline(path: str | Path) -> dict[str, dict[str, Values]]:
    """The results of a baseline.

    Raises:
        ConfigError: the file is missing or is no baseline.
    """
    try:
        found = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"The baseline '{path}' cannot be read: {error.strerror or error}.",
            where="--baseline",
            action="Write it first: add --update.",
        ) from error
    except ValueError as error:
        raise ConfigError(f"The baseline '{path}' is not JSON.", where="--baseline", detail=str(error)) from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or not _is_results(found.get("candidates")):
        raise ConfigError(
            f"'{path}' is no baseline of this version.",
            where="--baseline",
            detail=f"expected an object with schema {SCHEMA} and candidates",
            action="Write it anew: add --update.",
        )
    candidates: dict[str, dict[str, Values]] = found["candidates"]
    return candidates


def _is_results(value: Any) -> bool:
    """Whether it has the structure of `Results`."""
    return isinstance(value, dict) and all(
        isinstance(subjects, dict)
        and all(
            isinstance(measures, dict) and all(isinstance(v, int | float | str | None) for v in measures.values())
            for measures in subjects.values()
        )
        for subjects in value.values()
    )


def baseline_document(results: Results) -> dict[str, Any]:
    """What is written as a baseline; numbers that are not finite are left out."""
    return {
        "schema": SCHEMA,
        "candidates": {
            candidate: {
                subject: {measure: value for measure, value in values.items() if _is_kept(value)}
                for subject, values in subjects.items()
            }
            for candidate, subjects in results.items()
        },
    }


def _is_kept(value: Any) -> bool:
    return isinstance(value, str) or (value is not None and math.isfinite(value))
