"""Errors that one number, or one per channel or row, takes away: signs, scales, offsets and biases."""

from __future__ import annotations

import numpy as np

from layerdiff.diagnose.evidence import Evidence, both, channel_numbers, finding, removed
from layerdiff.records import Finding


def sign_flip(evidence: Evidence) -> Finding | None:
    """candidate = -reference."""
    if not evidence.can_be_subtracted:
        return None
    reference, candidate = both(evidence)
    share = removed(candidate - reference, candidate + reference)
    advice = "look for a subtraction with its operands exchanged, or a weight whose sign was folded"
    return finding(evidence, "sign_flip", share, "every value has the other sign", advice)


def scale(evidence: Evidence) -> Finding | None:
    """candidate = a · reference, one a for all values."""
    if not evidence.can_be_subtracted:
        return None
    reference, candidate = both(evidence)
    energy = float(np.vdot(reference, reference))
    factor = float(np.vdot(reference, candidate)) / energy if energy else 1.0
    if factor == 0:
        return None
    return finding(
        evidence,
        "scale",
        removed(candidate - reference, candidate - factor * reference, parameters=1),
        f"every value is {factor:.6g} times the reference's",
        "look for a factor that was left out or applied twice (attention's 1/√d, a dropout's 1/(1-p), xscaling)",
        factor=factor,
    )


def channel_scale(evidence: Evidence) -> Finding | None:
    """candidate = a[channel] · reference."""
    if not evidence.can_be_subtracted:
        return None
    reference, candidate = both(evidence)
    energy = np.square(reference).sum(axis=0)
    factors = np.divide((reference * candidate).sum(axis=0), energy, out=np.ones_like(energy), where=energy > 0)
    changed = np.flatnonzero(np.abs(factors - 1) > 1e-3)
    share = removed(candidate - reference, candidate - factors * reference, parameters=len(factors))
    return finding(
        evidence,
        "channel_scale",
        share,
        f"{len(changed)} of {len(factors)} channels are scaled, by {factors.min():.6g} to {factors.max():.6g}",
        "compare this op's weights with the checkpoint row by row (`layerdiff inspect … --weights`): a scale per row "
        "comes from quantisation, a folded norm, or a gain that was left out",
        channels=channel_numbers(evidence, changed),
        factor_min=float(factors.min()),
        factor_max=float(factors.max()),
    )


def row_offset(evidence: Evidence) -> Finding | None:
    """candidate = reference + b[row]: what all channels of a point share."""
    if not evidence.can_be_subtracted or both(evidence)[0].shape[1] < 3:
        return None
    reference, candidate = both(evidence)
    error = candidate - reference
    offset = error.mean(axis=1, keepdims=True)
    return finding(
        evidence,
        "row_offset",
        removed(error, error - offset, parameters=len(offset)),
        f"all channels of a row are off by the same amount, {offset.min():.6g} to {offset.max():.6g}",
        "look for a normalisation over the channels that only one side has; argmax and softmax don't change by it",
        rows=len(error),
        offset_min=float(offset.min()),
        offset_max=float(offset.max()),
    )


def bias_missing(evidence: Evidence) -> Finding | None:
    """candidate = reference - bias, with the bias that the reference's op holds."""
    bias = evidence.weights.get("bias")
    if not evidence.can_be_subtracted or bias is None or not bias.any():
        return None
    reference, candidate = both(evidence)
    if bias.shape != (reference.shape[1],):
        return None
    return finding(
        evidence,
        "bias_missing",
        removed(candidate - reference, candidate - reference + bias),
        f"the bias of the op is left out: the error is -bias, of up to {np.abs(bias).max():.6g}",
        "give the converted op its bias; check that it was not dropped with a folded norm",
        bias_absmax=float(np.abs(bias).max()),
    )


def bias_changed(evidence: Evidence) -> Finding | None:
    """candidate = reference + b[channel]."""
    if not evidence.can_be_subtracted:
        return None
    reference, candidate = both(evidence)
    error = candidate - reference
    offset = error.mean(axis=0)
    changed = np.flatnonzero(np.abs(offset) > 1e-3 * np.abs(offset).max())
    return finding(
        evidence,
        "bias_changed",
        removed(error, error - offset, parameters=len(offset)),
        f"{len(changed)} of {len(offset)} channels are off by a constant, {offset.min():.6g} to {offset.max():.6g}",
        "compare the bias of this op with the checkpoint (`layerdiff inspect … --weights`)",
        channels=channel_numbers(evidence, changed),
        offset_min=float(offset.min()),
        offset_max=float(offset.max()),
    )
