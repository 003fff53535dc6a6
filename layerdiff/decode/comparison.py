"""How a candidate's decoding of a clip differs from the reference's: where first, by how much, and at what margin.

Counts are whole numbers, so those of many clips add up exactly, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from layerdiff.decode.counts import Counts
from layerdiff.decode.greedy import NEAR_TIE, Decision, Emission
from layerdiff.decode.words import chunks

if TYPE_CHECKING:
    from layerdiff.decode.clip import Heard, Piece
    from layerdiff.decode.parts import Parts


@dataclass(frozen=True)
class Divergence:
    """The first step at which two decodings part."""

    kind: Literal["token", "duration", "end"]
    """`end`: one of them has no further frame."""
    step: int
    """How many points came before it."""
    frame: int
    """Of the clip's encoder frames."""
    time_s: float
    reference: tuple[int, int] | None
    """Token and duration in frames; None at its end."""
    candidate: tuple[int, int] | None
    margin: float | None
    """The reference's: of the token if it differs, else of the duration; None if it is unknown."""

    @property
    def is_near_tie(self) -> bool:
        """Whether the reference itself hardly prefers its choice."""
        return self.margin is not None and self.margin < NEAR_TIE


Pair = tuple[Decision, Decision]
"""What the reference and the candidate decide at the same point."""


@dataclass(frozen=True)
class Forced(Counts):
    """Decisions of the candidate on the reference's path, so that one early difference doesn't hide the rest."""

    points: int = 0
    token_flips: int = 0
    duration_flips: int = 0
    """Another duration, whether or not the token is another one too."""
    near_ties: int = 0
    """Of all points that differ those at which the reference hardly prefers its choice."""
    missing: int = 0
    """Points of the reference that lie behind the candidate's last frame."""


@dataclass(frozen=True)
class Shift(Counts):
    """By how many frames the tokens that both have come later for the candidate."""

    tokens: int = 0
    starts_moved: int = 0
    start_frames: int = 0
    """Summed with their signs."""
    start_frames_abs: int = 0
    ends_moved: int = 0
    end_frames: int = 0
    """Of where tokens end: their frame and their duration."""
    end_frames_abs: int = 0


def first_divergence(reference: Heard, candidate: Heard, *, frame_s: float) -> Divergence | None:
    """Where the two paths part first; None if they take every decision alike."""
    pairs = zip(reference.pieces, reference.paths, candidate.paths, strict=True)
    for piece, left, right in pairs:
        for step in range(max(len(left.decisions), len(right.decisions))):
            ours = left.decisions[step] if step < len(left.decisions) else None
            theirs = right.decisions[step] if step < len(right.decisions) else None
            if not _differ(ours, theirs):
                continue
            points = left.points if ours is not None else right.points
            frame = piece.start + int(points.frames[step])
            return Divergence(
                _kind(ours, theirs), step, frame, frame * frame_s, _chosen(ours), _chosen(theirs), margin(ours, theirs)
            )
    return None


def forced_decisions(parts: Parts, pieces: Sequence[Piece], reference: Heard) -> list[Pair]:
    """Reference's and candidate's decision at every point of the reference's path, on the candidate's encoder frames.

    Points behind the candidate's last frame are left out.
    """
    pairs: list[Pair] = []
    for piece, path in zip(pieces, reference.paths, strict=True):
        found = parts.at(piece.frames, path.points)
        reached = (path.points.frames < len(piece.frames)).tolist()
        kept = [decision for decision, is_there in zip(path.decisions, reached, strict=True) if is_there]
        pairs += zip(kept, found, strict=True)
    return pairs


def forced_counts(pairs: Sequence[Pair], points: int) -> Forced:
    """What differs among the decisions of `forced_decisions`; the reference has `points` in all."""
    flips = [(ours, theirs) for ours, theirs in pairs if _differ(ours, theirs)]
    near = [margin(ours, theirs) for ours, theirs in flips]
    return Forced(
        points=len(pairs),
        token_flips=sum(ours.token != theirs.token for ours, theirs in flips),
        duration_flips=sum(ours.duration != theirs.duration for ours, theirs in flips),
        near_ties=sum(value is not None and value < NEAR_TIE for value in near),
        missing=points - len(pairs),
    )


def shift(reference: Sequence[Emission], candidate: Sequence[Emission]) -> Shift:
    """By how much the tokens move that both sequences have, as an alignment of the two finds them."""
    total = Shift()
    for position, other in aligned([e.token for e in reference], [e.token for e in candidate]):
        ours, theirs = reference[position], candidate[other]
        begin, end = theirs.frame - ours.frame, theirs.frame + theirs.duration - ours.frame - ours.duration
        total += Shift(1, int(begin != 0), begin, abs(begin), int(end != 0), end, abs(end))
    return total


def aligned(reference: Sequence[int], candidate: Sequence[int]) -> list[tuple[int, int]]:
    """The positions of the tokens that both sequences have, by an alignment with the fewest edits."""
    found = chunks([str(token) for token in reference], [str(token) for token in candidate])
    return [
        (start + k, other + k)
        for kind, (start, stop), (other, _) in found
        if kind == "equal"
        for k in range(stop - start)
    ]


def margin(reference: Decision | None, candidate: Decision | None) -> float | None:
    """The reference's margin of what the candidate decides otherwise."""
    if reference is None or candidate is None:
        return None
    found = reference.token_margin if reference.token != candidate.token else reference.duration_margin
    return found if found is not None and math.isfinite(found) else None


def _differ(reference: Decision | None, candidate: Decision | None) -> bool:
    return _chosen(reference) != _chosen(candidate)


def _chosen(decision: Decision | None) -> tuple[int, int] | None:
    return None if decision is None else (decision.token, decision.duration)


def _kind(reference: Decision | None, candidate: Decision | None) -> Literal["token", "duration", "end"]:
    if reference is None or candidate is None:
        return "end"
    return "token" if reference.token != candidate.token else "duration"
