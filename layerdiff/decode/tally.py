"""What is counted over a corpus: whole numbers and the worst clips, which merge exactly in any order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from layerdiff.decode.comparison import Forced, Shift
from layerdiff.decode.signals import SIGNALS, Energy
from layerdiff.decode.words import Edits

WORST = 10
"""So many clips are listed as those that differ most."""


@dataclass(frozen=True)
class Bad:
    """A clip that a candidate transcribes otherwise."""

    errors: int
    """Words that differ from the reference's transcript."""
    end_frames: int
    """By how many encoder frames its tokens end elsewhere, summed."""
    index: int
    clip: str

    @property
    def order(self) -> tuple[int, int, int]:
        """The worst first; of equals, the one that comes first."""
        return (-self.errors, -self.end_frames, self.index)


@dataclass(frozen=True)
class Tally:
    """One model's transcripts of any number of clips; of a candidate also against the reference's."""

    clips: int = 0
    """Clips that were decoded."""
    problems: int = 0
    """Clips that were asked for and not decoded."""
    with_text: int = 0
    """Clips whose manifest has a transcript."""
    text_words: Edits = field(default_factory=Edits)
    """Against the transcripts of the manifest."""
    text_characters: Edits = field(default_factory=Edits)
    words: Edits = field(default_factory=Edits)
    """Against the reference's transcripts."""
    characters: Edits = field(default_factory=Edits)
    excused_words: Edits = field(default_factory=Edits)
    """The part of `words` that is of clips that part from the reference first at a near-tie."""
    same_text: int = 0
    """Clips with the reference's transcript."""
    same_path: int = 0
    """Clips in which every decision is the reference's."""
    forced: Forced = field(default_factory=Forced)
    shift: Shift = field(default_factory=Shift)
    durations: Mapping[int, int] = field(default_factory=dict)
    """Duration in frames → tokens that have it."""
    signals: Mapping[str, Energy] = field(default_factory=dict)
    """Mel, encoder frames and logits, as far as the candidate computes them."""
    worst: tuple[Bad, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        values = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name not in _OTHER}
        durations = {
            key: self.durations.get(key, 0) + other.durations.get(key, 0)
            for key in sorted({*self.durations, *other.durations})
        }
        signals = {
            name: self.signals.get(name, Energy()) + other.signals.get(name, Energy())
            for name in SIGNALS
            if name in self.signals or name in other.signals
        }
        worst = sorted([*self.worst, *other.worst], key=lambda bad: bad.order)[:WORST]
        return Tally(**values, durations=durations, signals=signals, worst=tuple(worst))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        values = asdict(self)
        return {**values, "durations": {str(key): count for key, count in self.durations.items()}}


_OTHER = ("durations", "signals", "worst")
"""The fields that don't add up by `+`."""
