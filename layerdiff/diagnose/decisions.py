"""What an error does to the decisions of a transducer, with durations (TDT) or without (RNN-T).

At every point the joint's logits decide a token (argmax over vocabulary and blank), a duration (argmax
over the last D outputs) and with them how many frames decoding advances. argmax does not change when all
logits of a slice are shifted alike: negative durations are reported, and so is whether they matter.
Pure arithmetic on arrays that are handed in; counts merge by addition, in any order of clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from layerdiff.decode.greedy import NEAR_TIE
from layerdiff.pictures import DurationMap
from layerdiff.records import DurationAnalysis, Flip, NegativePoint

if TYPE_CHECKING:
    from layerdiff.records import Array, Points

FLIPS_SHOWN = 20
"""So many flips are listed; all are counted."""
MAPS_SHOWN = 4
"""So many clips' duration logits are kept."""


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
    token = logits.argmax(-1)
    if not len(frames):  # a plain transducer goes on by a frame at every blank
        return Side(token, np.zeros_like(token), (token == blank).astype(np.int64))
    duration = durations.argmax(-1)
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
    is_ctc: bool = False
    """Whether every point is a frame of its own, so that nothing advances."""
    points: int = 0
    reference_all_negative: int = 0
    candidate_all_negative: int = 0
    first: NegativePoint | None = None
    lost_at_parent: int = 0
    """Points at which the parent stage's own duration columns have lost their last positive value."""
    lost_at_slice: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("token", "duration", "frame_advance"), 0))
    flips: list[Flip] = field(default_factory=list)
    near_ties: int = 0
    zero_durations: list[int] = field(default_factory=lambda: [0, 0])
    """Decisions for the duration 0, of the reference and of the candidate."""
    advanced: list[int] = field(default_factory=lambda: [0, 0])
    """Frames that all decisions together advance by."""
    tables: list[Mapping[str, Any]] = field(default_factory=list)
    """The decisions at every point, call by call."""
    maps: list[tuple[bool, DurationMap]] = field(default_factory=list)
    """The duration logits of a few clips, and whether a decision changes there."""
    tokens: int = 0
    """Points at which the reference emits a token."""
    shift_s: float = 0.0
    """By how much later the candidate lets these tokens end, summed, in seconds."""

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
        if not width:
            self.points += len(reference)
            self._count_flips(reference, candidate, candidate[:, :0], points, clip)
            return
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
        split = reference.shape[-1] - len(self.frames)
        ours = decide(reference[:, :split], reference[:, split:], frames=self.frames, blank=self.blank)
        theirs = decide(candidate[:, :split], offered, frames=self.frames, blank=self.blank)
        if not self.is_ctc:
            self._count_advances(ours, theirs, points)
        self._note_points(ours, theirs, points, clip, offered, margins(reference[:, :split]))
        if self.frames and points.is_path:
            changes = bool((ours.advances != theirs.advances).any() or (ours.tokens != theirs.tokens).any())
            self._keep_map(changes, reference[:, split:], offered, points, clip)
        token_margin = margins(reference[:, :split])
        duration_margin = margins(reference[:, split:]) if len(self.frames) > 1 else token_margin
        for kind, mine, other, margin in (
            ("token", ours.tokens, theirs.tokens, token_margin),
            ("duration", ours.durations, theirs.durations, duration_margin),
            ("frame_advance", ours.advances, theirs.advances, np.minimum(token_margin, duration_margin)),
        ):
            rows = np.flatnonzero(mine != other) if kind == "token" or not self.is_ctc else np.arange(0)
            self.counts[kind] += len(rows)
            self.near_ties += int((margin[rows] < NEAR_TIE).sum())
            room = max(0, FLIPS_SHOWN - len(self.flips))
            self.flips += [_flip(kind, row, mine, other, margin, points, clip) for row in rows[:room].tolist()]

    def _note_points(self, ours: Side, theirs: Side, points: Points, clip: str, offered: Array, margin: Array) -> None:
        table: dict[str, Any] = {"clip": clip, "frame": points.frames, "time_s": points.frames * points.frame_s}
        table |= {"step": points.steps, "reference_token": ours.tokens, "candidate_token": theirs.tokens}
        table["reference_token_margin"] = margin
        if self.frames:
            chosen = [np.asarray(self.frames)[side.durations] for side in (ours, theirs)]
            table |= {"reference_duration": chosen[0], "candidate_duration": chosen[1]}
            table["candidate_all_negative"] = offered.max(-1) < 0
        self.tables.append(table)

    def _keep_map(self, changes: bool, reference: Array, offered: Array, points: Points, clip: str) -> None:
        """Keeps the logits of the first clips, and of the first ones on which a decision changes."""
        if sum(kept == changes for kept, _ in self.maps) >= MAPS_SHOWN:
            return
        frames, steps = points.frames.tolist(), points.steps.tolist()
        rows = (tuple(map(tuple, side.astype(float).round(4).tolist())) for side in (reference, offered))
        self.maps.append((changes, DurationMap(clip, points.frame_s, tuple(frames), tuple(steps), *rows)))

    def _count_advances(self, ours: Side, theirs: Side, points: Points) -> None:
        chosen = [
            np.asarray(self.frames)[side.durations] if self.frames else side.durations + 1 for side in (ours, theirs)
        ]
        for index, (side, duration) in enumerate(zip((ours, theirs), chosen, strict=True)):
            self.zero_durations[index] += int((duration == 0).sum())
            self.advanced[index] += int(side.advances.sum())
        emits = ours.tokens != self.blank
        self.tokens += int(emits.sum())
        self.shift_s += float((chosen[1] - chosen[0])[emits].sum()) * points.frame_s

    def _mean_advance(self, side: int) -> float | None:
        return self.advanced[side] / self.points if self.points and not self.is_ctc else None

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
            decisions=tuple(self.tables),
            near_ties=self.near_ties,
            reference_zero_durations=self.zero_durations[0],
            candidate_zero_durations=self.zero_durations[1],
            reference_frames_per_step=self._mean_advance(0),
            candidate_frames_per_step=self._mean_advance(1),
            token_end_shift_s=self.shift_s / self.tokens if self.tokens and self.frames else None,
            maps=tuple(drawn for _, drawn in sorted(self.maps, key=lambda kept: not kept[0]))[:MAPS_SHOWN],
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
    """One plain sentence or two: what became negative, whether any decision changes, and what that does to times."""
    return f"{_signs(lens)}{_changes(lens)}{_times(lens)}"


def _signs(lens: DecisionLens) -> str:
    negative, points = lens.candidate_all_negative, lens.points
    if not lens.frames:
        return ""
    if negative == points and points:
        sign = "all duration logits are negative at every point"
    elif negative:
        sign = f"all duration logits are negative at {negative} of {points} points"
    else:
        sign = "no point has only negative duration logits"
    return f"{sign} (reference: {lens.reference_all_negative})"


def _changes(lens: DecisionLens) -> str:
    signs = bool(lens.frames)
    if not any(lens.counts.values()):
        but = "but " if lens.candidate_all_negative > lens.reference_all_negative else ""
        return f", {but}no decision changes" if signs else f"no decision changes at {lens.points} points"
    changed = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in lens.counts.items() if count)
    near = lens.near_ties == sum(lens.counts.values())
    first = lens.flips[0]
    place = f"first in {first.clip} at {first.time_s:.2f} s, step {first.step}"
    return f"{'; ' if signs else ''}decisions that change: {changed}{' (near-ties)' if near else ''}, {place}"


def _times(lens: DecisionLens) -> str:
    """What changed durations do to frames and to the ends of tokens."""
    zeros, points = lens.zero_durations, lens.points
    if not lens.frames or not lens.counts["duration"] or not points:
        return ""
    said = ""
    if 0 in lens.frames and zeros[0] != zeros[1]:
        ours, theirs = (f"{count / points:.0%}" for count in zeros)
        said = f"; {theirs} of the steps choose duration 0 (reference {ours})"
    shift_ms = 1000 * lens.shift_s / lens.tokens if lens.tokens else 0.0
    if abs(shift_ms) >= 1:
        said += f"; tokens end {abs(shift_ms):.0f} ms {'early' if shift_ms < 0 else 'late'} on average"
    return said
