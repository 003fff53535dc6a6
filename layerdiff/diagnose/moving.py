"""The right values in the wrong places: permuted, transposed, shifted, or too many of them."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from layerdiff.diagnose.evidence import Evidence, both, channel_numbers, finding, removed
from layerdiff.records import Finding

if TYPE_CHECKING:
    from layerdiff.records import Array

FARTHEST = 8
"""How far a shift is looked for."""
WIDEST = 8192
"""Channels up to which a permutation is looked for; memory is the square of them."""


def channel_permutation(evidence: Evidence) -> Finding | None:
    """candidate[channel] = reference[another channel], each of them once."""
    if not evidence.can_be_subtracted:
        return None
    reference, candidate = both(evidence)
    order = order_of(reference.T, candidate.T)
    if order is None:
        return None
    moved = np.flatnonzero(order != np.arange(len(order)))
    error, remainder = candidate - reference, candidate - reference[:, order]
    return finding(
        evidence,
        "channel_permutation",
        removed(error, remainder, parameters=len(moved)),
        f"{len(moved)} of {len(order)} channels hold the values of other ones",
        PERMUTATION_ADVICE,
        moved=list(zip(channel_numbers(evidence, moved), channel_numbers(evidence, order[moved]), strict=True)),
    )


def order_of(reference: Array, candidate: Array) -> Array | None:
    """int64[N]; which row of the reference each of the candidate's is nearest to, if that is a permutation of them.

    None if it is the identity, or several are nearest to the same one, or there are too many or too few to tell.
    """
    count, width = reference.shape
    if reference.shape != candidate.shape or not (2 <= count <= WIDEST and width >= 2):
        return None
    sizes = np.square(reference).sum(axis=1)[None] + np.square(candidate).sum(axis=1)[:, None]
    nearest = np.asarray(np.argmin(sizes - 2 * candidate @ reference.T, axis=1))
    is_identity = bool((nearest == np.arange(count)).all())
    return None if is_identity or len(np.unique(nearest)) < count else nearest


PERMUTATION_ADVICE = (
    "compare the order of the op's weight rows with the checkpoint; look for a reshape that mixes heads and widths"
)


def axis_transposed(evidence: Evidence) -> Finding | None:
    """Two axes of equal length are exchanged."""
    if not evidence.can_be_subtracted:
        return None
    reference, candidate = evidence.reference.astype(np.float64), evidence.candidate.astype(np.float64)
    for pair in combinations(range(reference.ndim), 2):
        if reference.shape[pair[0]] != reference.shape[pair[1]] or reference.shape[pair[0]] == 1:
            continue
        share = removed(candidate - reference, candidate - reference.swapaxes(*pair))
        found = finding(
            evidence,
            "axis_transposed",
            share,
            f"axes {pair[0]} and {pair[1]} are exchanged; both have {reference.shape[pair[0]]} elements",
            "look for a transpose, or a matrix product with transpose_x / transpose_y, that only one side has",
            axes=list(pair),
        )
        if found:
            return found
    return None


def slice_shift(evidence: Evidence) -> Finding | None:
    """candidate[channel] = reference[channel - k]: a slice that starts at the wrong place."""
    return _shift(evidence, evidence.channel_axis, "slice_shift", "channels", SLICE_ADVICE)


def frame_shift(evidence: Evidence) -> Finding | None:
    """candidate[frame] = reference[frame - k]."""
    axis = frame_axis(evidence)
    return None if axis is None else _shift(evidence, axis, "frame_shift", "frames", FRAME_ADVICE)


SLICE_ADVICE = "check where the slice begins: one output for the blank lies between vocabulary and durations"
FRAME_ADVICE = "look for padding that only one side has, a causal against a centred convolution, or a window's offset"


def frame_axis(evidence: Evidence) -> int | None:
    """The longest axis that is not the channels'; None if there is none."""
    channel = evidence.channel_axis % evidence.reference.ndim
    axes = [axis for axis in range(evidence.reference.ndim) if axis != channel and evidence.reference.shape[axis] > 1]
    return max(axes, key=lambda axis: evidence.reference.shape[axis], default=None)


def _shift(evidence: Evidence, axis: int, cause: str, what: str, advice: str) -> Finding | None:
    if not evidence.can_be_subtracted:
        return None
    reference = np.moveaxis(evidence.reference.astype(np.float64), axis, 0)
    candidate = np.moveaxis(evidence.candidate.astype(np.float64), axis, 0)
    length = len(reference)
    shifts = (sign * distance for distance in range(1, min(FARTHEST, length // 4) + 1) for sign in (1, -1))
    for shift in shifts:
        here, there = slice(max(0, shift), length + min(0, shift)), slice(max(0, -shift), length - max(0, shift))
        share = removed(candidate[here] - reference[here], candidate[here] - reference[there])
        found = finding(evidence, cause, share, f"the {what} are shifted by {shift}", advice, shift=shift)
        if found:
            return found
    return None


def wrong_output_width(evidence: Evidence) -> Finding | None:
    """One axis is longer or shorter than the reference's."""
    ours, theirs = evidence.reference.shape, evidence.candidate.shape
    differs = [axis for axis, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    if len(ours) != len(theirs) or len(differs) != 1:
        return None
    axis = differs[0]
    return finding(
        evidence,
        "wrong_output_width",
        1.0,
        f"axis {axis} has {theirs[axis]} elements, the reference's {ours[axis]}",
        "compare the two models' configurations; a joint has one output for each token, the blank, and each duration",
        axis=axis,
        reference_width=ours[axis],
        candidate_width=theirs[axis],
    )


def length_mask(evidence: Evidence) -> Finding | None:
    """From some frame on one side is zero and the other is not; before it both agree."""
    axis = frame_axis(evidence) if evidence.can_be_subtracted else None
    if axis is None and evidence.can_be_subtracted and evidence.is_mask:
        axis = int(np.argmax(evidence.reference.shape))  # the mask itself, which has no channels
    if axis is None:
        return None
    moved = [np.moveaxis(side.astype(np.float64), axis, 0) for side in (evidence.reference, evidence.candidate)]
    reference, candidate = (side.reshape(len(side), -1) for side in moved)
    for side, zeros, other in (("reference", reference, candidate), ("candidate", candidate, reference)):
        used = np.flatnonzero(np.abs(zeros).max(axis=1) > 0)
        end = int(used[-1]) + 1 if len(used) else 0
        if not 0 < end < len(zeros) or not other[end:].any():
            continue
        error = candidate - reference
        found = finding(
            evidence,
            "length_mask",
            removed(error, error[:end]),
            f"from frame {end} of {len(zeros)} on only the {side} is masked",
            "pass the real length instead of a traced constant; check that the mask has this layer's resolution",
            first_frame=end,
            frames=len(zeros),
            masked_side=side,
        )
        if found:
            return found
    return None
