"""What is counted over a corpus: whole numbers and the worst clips, which merge exactly in any order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from layerdiff.decode.comparison import Forced, Shift
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
    worst: tuple[Bad, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        values = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name not in _OTHER}
        durations = {
            key: self.durations.get(key, 0) + other.durations.get(key, 0)
            for key in sorted({*self.durations, *other.durations})
        }
        worst = sorted([*self.worst, *other.worst], key=lambda bad: bad.order)[:WORST]
        return Tally(**values, durations=durations, worst=tuple(worst))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        values = asdict(self)
        return {**values, "durations": {str(key): count for key, count in self.durations.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Tally:
        """The inverse of `to_json`."""
        given = dict(values)
        for name in ("text_words", "text_characters", "words", "characters", "excused_words"):
            given[name] = Edits(**given[name])
        return cls(
            **{
                **given,
                "forced": Forced(**given["forced"]),
                "shift": Shift(**given["shift"]),
                "durations": {int(key): count for key, count in given["durations"].items()},
                "worst": tuple(Bad(**bad) for bad in given["worst"]),
            }
        )


_OTHER = ("durations", "worst")
"""The fields that don't add up by `+`."""
