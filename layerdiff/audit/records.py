"""What an audit of weights finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from layerdiff.audit.difference import Difference

Verdict = Literal["matched", "changed", "missing", "unknown", "elsewhere", "not needed"]
"""`elsewhere`: of a part of the reference of which the candidate holds nothing; `not needed`: no result needs it."""

VERDICTS: tuple[Verdict, ...] = ("changed", "missing", "unknown", "matched", "elsewhere", "not needed")
"""The worst first."""


@dataclass(frozen=True)
class WeightAudit:
    """One weight of the reference."""

    name: str
    shape: tuple[int, ...]
    verdict: Verdict
    reason: str
    """Why, in words; empty for a plain match."""
    constants: tuple[str, ...] = ()
    """The candidate's constants that hold it."""
    stored: str = ""
    """How they are stored: `float16`, `affine, int8, 8 bits`."""
    transform: str = ""
    """What the converter did to it, in words."""
    difference: Difference | None = None
    """Of the constant that differs most; None where there is none, or no values to compare."""
    confidence: float = 0.0


@dataclass(frozen=True)
class Extra:
    """A constant of the candidate that is no weight of the reference."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    ops: tuple[str, ...]
    """The types of the ops that read it."""
    note: str = ""
    """`zeros`, `ones`, or another value that all elements have."""


@dataclass(frozen=True)
class Audit:
    """All weights of a reference against a candidate."""

    weights: tuple[WeightAudit, ...]
    """In the reference's order."""
    extra: tuple[Extra, ...]

    @property
    def counts(self) -> Mapping[Verdict, int]:
        """Verdict → how many weights; the worst verdicts first."""
        counted = Counter(weight.verdict for weight in self.weights)
        return {verdict: counted[verdict] for verdict in VERDICTS if counted[verdict]}

    @property
    def exit_code(self) -> int:
        """0 all there within what storage costs; 1 something changed or missing; 3 something could not be judged."""
        counts = self.counts
        if counts.get("changed") or counts.get("missing") or not (counts.get("matched") or counts.get("unknown")):
            return 1
        return 3 if counts.get("unknown") else 0
