"""What a rule may look at, and how the share of an error that a hypothesis explains is counted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.records import Finding

if TYPE_CHECKING:
    from layerdiff.records import Array

EXPLAINS = 0.99
"""A hypothesis is believed if it removes at least this share of the error (relative L2)."""


@dataclass(frozen=True)
class Evidence:
    """The tensors of the first bad stage on one clip, and what is known of the op that makes them."""

    stage: str
    reference: Array
    """float*[N, …, W]; the reference's tensor."""
    candidate: Array
    """float*[N, …, W]; the candidate's, same shape unless the widths are at fault."""
    clip: str
    log_softmax: str
    """The reference joint's `log_softmax` setting, as text."""
    conversion_error: float | None = None
    """Relative L2 error of the program in float32; None if it was not measured."""
    conversion_limit: float | None = None
    """What of it is float32 rounding."""
    precision_error: float | None = None
    """Relative L2 error of the program as declared against the program in float32; None if it was not measured."""
    runtime_error: float | None = None
    """Relative L2 error of the native engine against the portable one; None without a native engine."""
    own_output_error: float | None = None
    """Relative L2 error of the candidate against the reference joint's own output, over all clips."""
    kind: str = "other"
    """The kind of the reference's op, see `outline.KINDS`."""
    channel_axis: int = -1
    """The axis along which the op's weights lie."""
    operands: tuple[Array, ...] = ()
    """What the reference's op reads, as far as it was captured."""
    weights: Mapping[str, Array] = field(default_factory=dict)
    """Role → what the reference's op holds."""
    sources: tuple[Array, ...] = ()
    """The reference's tensors of the stages that this one is computed from, with nothing compared in between."""
    held: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)
    """Role → float64 weight as it should be and as the candidate's op holds it, in the reference's layout."""
    rerun: Callable[[Mapping[str, Array]], Array | None] | None = None
    """Runs the candidate's op with other weights, by their roles; its result in the reference's layout, None if it
    can't be run."""
    states: tuple[str, ...] = ()
    """The reference's inputs that hold what an earlier call has left."""
    with_zeros: Callable[[Collection[str]], Array | None] | None = None
    """The reference's tensor where some of its states are zero."""
    first_channel: int | None = None
    """Of evidence that is confined to some channels, the first one of the whole tensor; None if it is all of it."""

    @property
    def can_be_subtracted(self) -> bool:
        """Whether both sides have one shape, more than one channel, and nothing but finite numbers."""
        same = self.reference.shape == self.candidate.shape and self.reference.size > 0
        return same and bool(np.isfinite(self.reference).all() and np.isfinite(self.candidate).all())

    @property
    def is_mask(self) -> bool:
        """Whether both sides are nothing but zeros and ones."""
        return all(bool(np.isin(side, (0, 1)).all()) for side in (self.reference, self.candidate))


Rule = Callable[[Evidence], Finding | None]


def removed(error: Array, remainder: Array, *, parameters: int = 0) -> float:
    """The share of an error that a hypothesis removes, in [0, 1]: 1 - ‖remainder‖ / ‖error‖.

    Args:
        error: float64[...]; candidate - reference.
        remainder: float64[...]; what the hypothesis leaves of it.
        parameters: how many numbers were fitted. They remove that many degrees of freedom of any error, so the
            remainder counts for as much more; with more than half as many as values nothing is explained.
    """
    before, count = float(np.linalg.norm(error)), error.size
    if before == 0 or 2 * parameters > count:
        return 0.0
    after = float(np.linalg.norm(remainder)) * np.sqrt(count / (count - parameters))
    return max(0.0, float(1.0 - after / before))


def rows_of(value: Array) -> Array:
    """float64[N, W]; rows along the last axis."""
    wide = np.atleast_1d(value).astype(np.float64)
    return wide.reshape(-1, wide.shape[-1])


def channels_of(value: Array, axis: int) -> Array:
    """float64[N, C]; one column per channel."""
    wide = np.atleast_1d(value).astype(np.float64)
    moved = np.moveaxis(wide, axis, -1)
    return moved.reshape(-1, moved.shape[-1])


def both(evidence: Evidence) -> tuple[Array, Array]:
    """Reference and candidate, float64[N, C] each."""
    return channels_of(evidence.reference, evidence.channel_axis), channels_of(
        evidence.candidate, evidence.channel_axis
    )


def channel_numbers(evidence: Evidence, channels: Array) -> list[int]:
    """The first few of some channels, as they are numbered in the whole tensor."""
    return [int(channel) + (evidence.first_channel or 0) for channel in channels[:MOST_LISTED]]


def finding(evidence: Evidence, cause: str, share: float, summary: str, advice: str, **numbers: Any) -> Finding | None:
    """A finding, if the hypothesis explains enough."""
    if not share >= EXPLAINS:
        return None
    known = {"clip": evidence.clip, "explained_share": share, **numbers}
    return Finding(cause, evidence.stage, share, summary, known, advice)


def confined(evidence: Evidence) -> Evidence:
    """The part of the evidence that holds the error, where that is a run of at most half of the channels.

    A fault of five duration logits among a thousand others is then looked at as if there were nothing else.
    """
    axis = evidence.channel_axis
    if not evidence.can_be_subtracted or evidence.is_mask:
        return evidence
    reference, candidate = both(evidence)
    error = np.square(candidate - reference).sum(axis=0)
    bad = np.flatnonzero(error > NEGLIGIBLE * error.max())
    first, last = (int(bad[0]), int(bad[-1]) + 1) if len(bad) else (0, 0)
    if not 0 < 2 * (last - first) <= len(error):
        return evidence
    part = [slice(None)] * evidence.reference.ndim
    part[axis] = slice(first, last)
    return replace(
        evidence,
        reference=evidence.reference[tuple(part)],
        candidate=evidence.candidate[tuple(part)],
        weights={role: w[first:last] for role, w in evidence.weights.items() if w.ndim and len(w) == len(error)},
        operands=(),
        sources=(),
        held={},
        rerun=None,
        states=(),
        first_channel=first,
    )


MOST_LISTED = 16
"""Of channels or rows at fault so many are listed."""
NEGLIGIBLE = 1e-6
"""Share of the largest channel's error energy that counts as none."""
