"""Word and character errors, and which words differ.

jiwer aligns and counts; what it counts is kept as whole numbers, which add up exactly over any number of clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jiwer

from layerdiff.decode.counts import Counts

Kind = Literal["equal", "substitute", "insert", "delete"]


@dataclass(frozen=True)
class Edits(Counts):
    """How a hypothesis comes about from what it should be."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def length(self) -> int:
        """Words, or characters, of what it should be."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float | None:
        """Errors over length, from 0, above 1 with many insertions; None if it should be empty."""
        return self.errors / self.length if self.length else None


@dataclass(frozen=True)
class Difference:
    """Neighbouring words that are alike, or that differ in one way."""

    kind: Kind
    reference: tuple[str, ...]
    candidate: tuple[str, ...]


def word_edits(reference: str, candidate: str) -> Edits:
    """The word errors of `candidate`; words are what white space separates."""
    return _edits(jiwer.process_words, reference, candidate)


def character_edits(reference: str, candidate: str) -> Edits:
    """The character errors of `candidate`, spaces among them."""
    return _edits(jiwer.process_characters, reference, candidate)


def _edits(process: Callable[[str, str], Any], reference: str, candidate: str) -> Edits:
    if not reference.strip() and not candidate.strip():
        return Edits()
    found = process(reference, candidate)
    return Edits(found.hits, found.substitutions, found.deletions, found.insertions)


def differences(reference: Sequence[str], candidate: Sequence[str]) -> tuple[Difference, ...]:
    """The two sequences of words side by side; no word is empty or holds white space."""
    return tuple(
        Difference(kind, tuple(reference[a:b]), tuple(candidate[c:d]))
        for kind, (a, b), (c, d) in chunks(reference, candidate)
    )


def chunks(reference: Sequence[str], candidate: Sequence[str]) -> list[tuple[Kind, tuple[int, int], tuple[int, int]]]:
    """Ranges (start, stop) of both sequences that are alike, or differ in one way."""
    if not reference or not candidate:
        kind: Kind = "delete" if reference else "insert"
        return [(kind, (0, len(reference)), (0, len(candidate)))] if reference or candidate else []
    found: list[Any] = list(jiwer.process_words(" ".join(reference), " ".join(candidate)).alignments[0])
    return [
        (chunk.type, (chunk.ref_start_idx, chunk.ref_end_idx), (chunk.hyp_start_idx, chunk.hyp_end_idx))
        for chunk in found
    ]


def normalised(text: str) -> str:
    """Without capitals and punctuation, and with single spaces: as manifests often give what a model writes out."""
    steps: list[Any] = [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip()]  # type: ignore[no-untyped-call]
    return str(jiwer.Compose(steps)(text))
