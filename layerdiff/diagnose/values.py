"""Values that no number can explain: NaN, infinities, floors, and outputs that don't depend on anything."""

from __future__ import annotations

import numpy as np

from layerdiff.diagnose.evidence import Evidence, channels_of, finding, removed, rows_of
from layerdiff.float16 import EXPONENTIAL, LOG_LARGEST
from layerdiff.records import Finding

FLOAT16_MAX = 65504.0


def nan_source(evidence: Evidence) -> Finding | None:
    """The candidate has NaN where the reference has numbers."""
    if evidence.reference.shape != evidence.candidate.shape:
        return None
    bad = np.isnan(evidence.candidate) & np.isfinite(evidence.reference)
    count = int(bad.sum())
    place = [int(i) for i in np.argwhere(bad)[0]] if count else []
    return finding(
        evidence,
        "nan_source",
        float(count > 0),
        f"{count} of {bad.size} values become NaN here, the first one at {place}",
        "look at this op's operands for 0 / 0, inf - inf, or a logarithm or root of a negative number; "
        "in float16 keep it and what feeds it in float32",
        nan_count=count,
        first_index=place,
    )


def overflow(evidence: Evidence) -> Finding | None:
    """The candidate is infinite, or sits at float16's largest number, where the reference goes beyond it.

    Where the program is right in float32, an infinity that the reference does not come near is an intermediate result.
    """
    reference, candidate = evidence.reference, evidence.candidate
    if reference.shape != candidate.shape or np.isnan(candidate).any():
        return None
    size = np.abs(candidate.astype(np.float64))
    stopped = (np.isposinf(size) | (size == FLOAT16_MAX)) & np.isfinite(reference)
    beyond = np.abs(reference.astype(np.float64)) > FLOAT16_MAX
    error, limit = evidence.conversion_error, evidence.conversion_limit
    inside = error is not None and limit is not None and error <= limit and not (stopped & beyond).any()
    count = int(stopped.sum() if inside else (stopped & beyond).sum())
    said = f"{count} of {reference.size} values lie beyond float16's {FLOAT16_MAX:g}"
    if inside:
        said = f"an intermediate result of {count} of {reference.size} values lies beyond float16's {FLOAT16_MAX:g}"
    return finding(
        evidence,
        "overflow",
        count / max(1, int(stopped.sum())) if count else 0.0,
        f"{said}, though they themselves don't" if inside else said,
        "keep this op in float32 (`ct.transform.FP16ComputePrecision(op_selector=…)`), or scale its operands down",
        overflowed=count,
        is_intermediate=inside,
        reference_absmax=float(np.abs(reference[np.isfinite(reference)]).max(initial=0.0)),
    )


def exponential_overflow(evidence: Evidence) -> Finding | None:
    """An op that computes exp(x) inside is wrong exactly where that goes beyond float16."""
    if evidence.kind not in EXPONENTIAL or not evidence.operands or not evidence.can_be_subtracted:
        return None
    operand = evidence.operands[0]
    if operand.shape != evidence.reference.shape:
        return None
    error = evidence.candidate.astype(np.float64) - evidence.reference
    inside = operand < LOG_LARGEST
    wrong = int((~inside).sum())
    return finding(
        evidence,
        "overflow",
        removed(error, np.where(inside, error, 0.0)) if wrong else 0.0,
        f"{wrong} of {operand.size} values are wrong, all of them where exp(x) is too large for float16, from "
        f"{operand[~inside].min(initial=np.inf):.4g} on",
        "compute it as max(x, 0) + log(1 + exp(-|x|)), or keep the op in float32",
        overflowed=wrong,
        is_intermediate=True,
    )


def underflow_log_zero(evidence: Evidence) -> Finding | None:
    """A logarithm of what became 0: the candidate stands on one floor below all that the reference reaches there."""
    if evidence.reference.shape != evidence.candidate.shape or evidence.candidate.size < 2:
        return None
    reference, candidate = rows_of(evidence.reference), rows_of(evidence.candidate)
    if np.isnan(candidate).any() or not np.isfinite(reference).all():
        return None
    floor = candidate.min()
    on_it = candidate == floor
    spread = float(np.ptp(reference[on_it]))
    if on_it.sum() < 2 or spread == 0 or on_it.all() or floor > -16:
        return None
    # just above the floor a probability has few bits left
    coarse = np.log(2.0**-126 if abs(floor - np.log(2.0**-149)) < 1 else 2.0**-14)
    rest = np.where(on_it | (reference < coarse), 0.0, candidate - reference)
    error = np.where(np.isinf(candidate), 2 * abs(reference).max(), candidate - reference)
    share = 1.0 - float(np.linalg.norm(rest) / np.linalg.norm(error))
    return finding(
        evidence,
        "underflow_log_zero",
        share,
        f"{int(on_it.sum())} of {candidate.size} values are the logarithm of 0 ({floor:g}); the reference has "
        f"{reference[on_it].min():.4g} to {reference[on_it].max():.4g} there",
        "compute log-softmax as x - logsumexp(x) in float32; log(softmax(x)) in float16 has no small values",
        floor=float(floor) if np.isfinite(floor) else None,
        lost_share=float(on_it.mean()),
    )


def constant_output(evidence: Evidence) -> Finding | None:
    """The candidate gives the same row everywhere, while the reference's rows differ."""
    if not evidence.can_be_subtracted or evidence.first_channel is not None:
        return None  # a few constant channels among others are a matter of their weights
    axis = evidence.channel_axis
    reference, candidate = channels_of(evidence.reference, axis), channels_of(evidence.candidate, axis)
    size = float(np.abs(candidate).max()) or 1.0
    if len(candidate) < 2 or np.ptp(candidate, axis=0).max() > 1e-6 * size:
        return None
    varies = float(np.ptp(reference, axis=0).max()) > 1e-3 * float(np.abs(reference).max())
    same = float(np.ptp(candidate)) <= 1e-6 * size
    return finding(
        evidence,
        "constant_output",
        float(varies),
        f"the candidate is {'one number, ' + format(candidate[0, 0], '.4g') + ',' if same else 'the same row'} "
        f"at all of {len(candidate)} places",
        "an input of this op does not reach it: look for a constant that tracing baked in (a mask, a length, a state)",
        rows=len(candidate),
    )


def stale_state(evidence: Evidence) -> Finding | None:
    """The candidate gives what the reference gives where one of its states, or all of them, are zero."""
    if not evidence.can_be_subtracted or evidence.with_zeros is None:
        return None
    alone = [(state,) for state in evidence.states]
    for states in alone + ([evidence.states] if len(alone) > 1 else []):
        forgotten = evidence.with_zeros(states)
        if forgotten is None or forgotten.shape != evidence.reference.shape:
            continue
        error = evidence.candidate.astype(np.float64) - evidence.reference
        named = " and ".join(f"'{state}'" for state in states)
        found = finding(
            evidence,
            "stale_state",
            removed(error, evidence.candidate.astype(np.float64) - forgotten),
            f"the candidate takes {named} for zero: the reference does the same if it is fed zeros there",
            "feed the state that the call before has returned, and check that the conversion kept it as an input",
            states=list(states),
        )
        if found:
            return found
    return None


def constant_operand(evidence: Evidence) -> Finding | None:
    """Of a sum of two tensors one is a constant in the candidate: without the other one, the same row everywhere."""
    if evidence.kind != "add" or len(evidence.operands) != 2 or not evidence.can_be_subtracted:
        return None
    reference, candidate = evidence.reference.astype(np.float64), evidence.candidate.astype(np.float64)
    for place, operand in enumerate(evidence.operands):
        try:
            rest = channels_of(candidate - operand, evidence.channel_axis)
        except ValueError:
            continue
        other = evidence.operands[1 - place]
        if np.ptp(channels_of(other, evidence.channel_axis), axis=0).max() == 0:
            continue
        found = finding(
            evidence,
            "constant_output",
            removed(candidate - reference, rest - rest.mean(axis=0)),
            f"operand {1 - place} of the sum is a constant in the candidate",
            "look for a constant that tracing baked in (a mask, a length, a state, another tensor's value)",
            operand=1 - place,
        )
        if found:
            return found
    return None


def integer_overflow(evidence: Evidence) -> Finding | None:
    """Whole numbers that are off by multiples of 2**8, 2**16 or 2**32: they wrapped."""
    reference, candidate = np.asarray(evidence.reference), np.asarray(evidence.candidate)
    if reference.shape != candidate.shape or not evidence.can_be_subtracted:
        return None
    if not (np.rint(reference) == reference).all() or not (np.rint(candidate) == candidate).all():
        return None
    off = candidate.astype(np.float64) - reference.astype(np.float64)
    if not off.any():
        return None
    bits = next((b for b in (32, 16, 8) if (np.fmod(off, 2.0**b) == 0).all()), 0)
    return finding(
        evidence,
        "integer_overflow",
        float(bits > 0),
        f"{int((off != 0).sum())} whole numbers wrapped: they are off by multiples of 2^{bits}",
        "keep lengths and indices in int32, and products of them in float32",
        bits=bits,
    )
