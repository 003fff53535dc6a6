"""The result of a sweep: variants of a package, how large each is, and what it does to the transcripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from layerdiff.decode.result import CandidateDecoding, DecodeReport


@dataclass(frozen=True)
class Variant:
    """One combination of a sweep's settings."""

    name: str
    settings: Mapping[str, Any]
    """precision, weights, float32_ops, target."""
    problem: str = ""
    """Why it could not be built; empty if it was."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Component → path."""
    size_bytes: int | None = None
    """Of its packages; None if it was not built."""


@dataclass(frozen=True)
class SweepReport:
    """All variants of a sweep."""

    variants: tuple[Variant, ...]
    decoding: DecodeReport | None
    """Of those that were built; None if none was."""

    def decoded(self, variant: Variant) -> CandidateDecoding | None:
        """What a variant does to the transcripts; None if it was not decoded."""
        return None if self.decoding is None else self.decoding.candidates.get(variant.name)

    @property
    def exit_code(self) -> int:
        """0 every variant was built and decoded, 3 something was not; how good they are is for the reader to judge."""
        if self.decoding is None or self.decoding.reference_tally.problems or self.decoding.problems:
            return 3
        return 3 if any(variant.problem for variant in self.variants) else 0


Measure = Callable[[CandidateDecoding], float | None]


def snr_db(found: CandidateDecoding) -> float | None:
    """Of the last tensor that the variant computes."""
    signals = list(found.tally.signals.values())
    return signals[-1].snr_db if signals else None


def flips(found: CandidateDecoding) -> float | None:
    """The share of decisions on the reference's path that are others, from 0."""
    forced = found.tally.forced
    return (forced.token_flips + forced.duration_flips) / forced.points if forced.points else None


def wer(found: CandidateDecoding) -> float | None:
    """The word error rate against the manifest's text, or without texts against the reference's transcripts."""
    return found.tally.text_words.rate if found.tally.with_text else found.tally.words.rate


MEASURES: Mapping[str, tuple[Measure, bool]] = {"snr_db": (snr_db, True), "flips": (flips, False), "wer": (wer, False)}
"""Measure → how it is taken, and whether more is better."""


def front(report: SweepReport, measure: str) -> tuple[str, ...]:
    """The variants that no other one beats in size and in `measure`, the smallest first."""
    take, more_is_better = MEASURES[measure]
    points: list[tuple[int, float, str]] = []
    for variant in report.variants:
        found = report.decoded(variant)
        value = None if found is None else take(found)
        if value is not None and variant.size_bytes is not None:
            points.append((variant.size_bytes, -value if more_is_better else value, variant.name))
    return tuple(name for _, _, name in _undominated(sorted(points)))


def _undominated(points: Sequence[tuple[int, float, str]]) -> list[tuple[int, float, str]]:
    """Of points in order of size, and of cost within a size, those that are cheaper than all before them."""
    kept: list[tuple[int, float, str]] = []
    for point in points:
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept
