"""What an error does to the decisions of a token-and-duration transducer (TDT).

At every point the joint's logits decide a token (argmax over vocabulary and blank), a duration (argmax
over the last D outputs) and with them how many frames decoding advances. argmax does not change when all
logits of a slice are shifted alike: negative durations are reported, and so is whether they matter.
Pure arithmetic on arrays that are handed in; counts merge by addition, in any order of clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from layerdiff.records import DurationAnalysis, Flip, NegativePoint

if TYPE_CHECKING:
    from layerdiff.records import Array, Points

FLIPS_SHOWN = 20
"""So many flips are listed; all are counted."""

NEAR_TIE = 0.1
"""A reference margin (logit units) below which a flip is called a near-tie: float16 keeps ten times less."""


@dataclass(frozen=True)
class Side:
    """The decisions of one side at N points."""

    tokens: Array
    """int64[N]; argmax over vocabulary and blank."""
    durations: Array
    """int64[N]; argmax over the durations, an index."""
    advances: Array
    """int64[N]; frames to go on by; blank with duration 0 advances one frame, as NeMo decodes."""


def decide(logits: Array, durations: Array, *, frames: Sequence[int], blank: int) -> Side:
    """float[N, V+1] token logits and float[N, D] duration logits → decisions."""
    token, duration = logits.argmax(-1), durations.argmax(-1)
    advance = np.asarray(frames)[duration]
    return Side(token, duration, np.where((token == blank) & (advance == 0), 1, advance))


def margins(logits: Array) -> Array:
    """float[N, W] → float[N]; the best logit minus the second best."""
    best = np.partition(logits, -2, axis=-1)
    margin: Array = best[..., -1] - best[..., -2]
    return margin


@dataclass
class DecisionLens:
    """Counts what happens to durations and decisions, one joint call after the other."""

    frames: tuple[int, ...]
    """Frames that each duration stands for."""
    blank: int
    points: int = 0
    reference_all_negative: int = 0
    candidate_all_negative: int = 0
    first: NegativePoint | None = None
    lost_at_parent: int = 0
    """Points at which the parent stage's own duration columns have lost their last positive value."""
    lost_at_slice: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("token", "duration", "frame_advance"), 0))
    flips: list[Flip] = field(default_factory=list)

    def update(
        self, *, reference: Array, candidate: Array, candidate_durations: Array, points: Points, clip: str
    ) -> None:
        """Takes in one call.

        Args:
            reference: float[N, …, V+1+D] logits of the reference.
            candidate: the candidate's, same shape.
            candidate_durations: float[N, …, D] what the candidate gives as its duration logits.
            points: where the N rows lie.
            clip: name of the clip.
        """
        width = len(self.frames)
        reference, candidate = reference.reshape(-1, reference.shape[-1]), candidate.reshape(-1, candidate.shape[-1])
        offered = candidate_durations.reshape(-1, width)
        lost = (reference[:, -width:].max(-1) > 0) & (offered.max(-1) <= 0)
        self.points += len(reference)
        self.reference_all_negative += int((reference[:, -width:].max(-1) < 0).sum())
        self.candidate_all_negative += int((offered.max(-1) < 0).sum())
        self.lost_at_slice += int(lost.sum())
        self.lost_at_parent += int((lost & (candidate[:, -width:].max(-1) <= 0)).sum())
        if self.first is None and lost.any():
            self.first = self._negative_point(int(lost.argmax()), reference[:, -width:], offered, points, clip)
        self._count_flips(reference, candidate, offered, points, clip)

    def _negative_point(self, row: int, reference: Array, offered: Array, points: Points, clip: str) -> NegativePoint:
        frame = int(points.frames[row])
        return NegativePoint(
            clip=clip,
            frame=frame,
            time_s=frame * points.frame_s,
            step=int(points.steps[row]),
            reference=tuple(float(value) for value in reference[row]),
            candidate=tuple(float(value) for value in offered[row]),
        )

    def _count_flips(self, reference: Array, candidate: Array, offered: Array, points: Points, clip: str) -> None:
        width = len(self.frames)
        ours = decide(reference[:, :-width], reference[:, -width:], frames=self.frames, blank=self.blank)
        theirs = decide(candidate[:, :-width], offered, frames=self.frames, blank=self.blank)
        token_margin, duration_margin = margins(reference[:, :-width]), margins(reference[:, -width:])
        for kind, mine, other, margin in (
            ("token", ours.tokens, theirs.tokens, token_margin),
            ("duration", ours.durations, theirs.durations, duration_margin),
            ("frame_advance", ours.advances, theirs.advances, np.minimum(token_margin, duration_margin)),
        ):
            rows = np.flatnonzero(mine != other)
            self.counts[kind] += len(rows)
            room = max(0, FLIPS_SHOWN - len(self.flips))
            self.flips += [_flip(kind, row, mine, other, margin, points, clip) for row in rows[:room].tolist()]

    def result(self, stage: str, *, parent: str) -> DurationAnalysis:
        """The analysis; `stage` holds the duration logits, `parent` all logits."""
        sign_lost_at = None
        if self.lost_at_slice:
            sign_lost_at = parent if self.lost_at_parent == self.lost_at_slice else stage
        return DurationAnalysis(
            stage=stage,
            points=self.points,
            durations=self.frames,
            reference_all_negative=self.reference_all_negative,
            candidate_all_negative=self.candidate_all_negative,
            first_all_negative=self.first,
            sign_lost_at=sign_lost_at,
            token_flips=self.counts["token"],
            duration_flips=self.counts["duration"],
            frame_advance_flips=self.counts["frame_advance"],
            flips=tuple(self.flips),
            summary=summarise(self),
        )


Kind = Literal["token", "duration", "frame_advance"]


def _flip(kind: str, row: int, mine: Array, other: Array, margin: Array, points: Points, clip: str) -> Flip:
    frame = int(points.frames[row])
    known: Mapping[str, Kind] = {"token": "token", "duration": "duration", "frame_advance": "frame_advance"}
    return Flip(
        kind=known[kind],
        clip=clip,
        frame=frame,
        time_s=frame * points.frame_s,
        step=int(points.steps[row]),
        reference=int(mine[row]),
        candidate=int(other[row]),
        margin=float(margin[row]),
    )


def summarise(lens: DecisionLens) -> str:
    """One plain sentence: what became negative, and whether any decision changes."""
    negative, points = lens.candidate_all_negative, lens.points
    if negative == points and points:
        sign = "all duration logits are negative at every point"
    elif negative:
        sign = f"all duration logits are negative at {negative} of {points} points"
    else:
        sign = "no point has only negative duration logits"
    sign += f" (reference: {lens.reference_all_negative})"
    if not any(lens.counts.values()):
        return f"{sign}, {'but ' if negative > lens.reference_all_negative else ''}no decision changes"
    changed = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in lens.counts.items() if count)
    near = all(flip.margin < NEAR_TIE for flip in lens.flips) and len(lens.flips) == sum(lens.counts.values())
    return f"{sign}; decisions that change: {changed}" + (" (near-ties)" if near else "")
