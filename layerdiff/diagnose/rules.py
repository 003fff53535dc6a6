"""Names the cause of a failing stage by explaining its error.

A rule is a pure function from the evidence of the first bad stage to a finding or None. It fits one
hypothesis and reports the share of the error that the hypothesis removes; that share is its confidence.
`RULES` is read in order, the most specific first. To add a cause, write a function and list it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from layerdiff.records import Finding

if TYPE_CHECKING:
    from layerdiff.records import Array

EXPLAINS = 0.99
"""A hypothesis is believed if it removes at least this share of the error (relative L2)."""


@dataclass(frozen=True)
class Evidence:
    """What a rule may look at: the clip on which the first bad stage is furthest off."""

    stage: str
    reference: Array
    """float*[N, …, W]; the reference's tensor."""
    candidate: Array
    """float*[N, …, W]; the candidate's, same shape."""
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


FLOAT16_LOG_FLOOR = float(np.log(2.0**-14))
"""log of float16's smallest normal number: a softmax computed in float16 keeps no digits of anything below."""

Rule = Callable[[Evidence], Finding | None]


def logsumexp(rows: Array) -> Array:
    """float64[N, W] → float64[N]; log(sum(exp(row))), shifted by the row's maximum against overflow."""
    top = rows.max(axis=-1)
    return np.asarray(top + np.log(np.exp(rows - top[:, None]).sum(axis=-1)))


def removed(error: Array, remainder: Array) -> float:
    """The share of an error that a hypothesis removes, in [0, 1]: 1 - ‖remainder‖ / ‖error‖."""
    before = float(np.linalg.norm(error))
    return max(0.0, 1.0 - float(np.linalg.norm(remainder)) / before) if before > 0 else 0.0


def log_softmax_baked(evidence: Evidence) -> Finding | None:
    """One side is the log-softmax of the other: the difference is constant in each row, its logsumexp.

    candidate = reference - logsumexp(reference) puts the log-softmax into the candidate; the same with
    the sides exchanged puts it into the reference. coremltools computes log(softmax(x)), of which float16
    loses the small values: then the hypothesis is held against those that it keeps.
    """
    reference, candidate = _rows(evidence.reference), _rows(evidence.candidate)
    if reference.shape[-1] < 2 or not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        return None
    error = candidate - reference
    for side, raw, sign in (("candidate", reference, -1.0), ("reference", candidate, 1.0)):
        shift = sign * logsumexp(raw)[:, None]
        masks = [np.ones(error.shape, bool)]
        masks += [kept] if side == "candidate" and (kept := float16_keeps(raw + shift, candidate)) is not None else []
        for mask in masks:
            confidence = removed(error[mask], (error - shift)[mask])
            if confidence >= EXPLAINS:
                return _baked(evidence, side=side, shift=shift, error=error, mask=mask, confidence=confidence)
    return None


def float16_keeps(normalised: Array, candidate: Array) -> Array | None:
    """bool[N, W]; what of log-probabilities survives log(softmax(x)) in float16; None if the rest is not lost too.

    Args:
        normalised: float64[N, W]; the exact log-probabilities.
        candidate: float64[N, W]; what they might have become.
    """
    kept = normalised > FLOAT16_LOG_FLOOR
    lost_too = (candidate[~kept] < FLOAT16_LOG_FLOOR + 0.1).all()
    return kept if lost_too and not kept.all() else None


def _baked(evidence: Evidence, *, side: str, shift: Array, error: Array, mask: Array, confidence: float) -> Finding:
    width, lost = error.shape[-1], 1.0 - float(mask.mean())
    offset = error.mean(axis=-1, keepdims=True, where=mask)
    advice = {
        "candidate": "convert with joint.log_softmax=False: set `model.joint.log_softmax = False` before "
        "torch.jit.trace (None means: normalise on a CPU)",
        "reference": "compare with the raw logits: the hook on the last member of `joint.joint_net`, or set "
        "`model.joint.log_softmax = False` on the reference",
    }
    summary = (
        f"log-softmax over all {width} outputs (vocabulary + blank + durations) is baked into the {side}: "
        "the difference is constant in each row and equals the row's logsumexp"
    )
    return Finding(
        cause="log_softmax_baked",
        stage=evidence.stage,
        confidence=confidence,
        summary=summary + (f"; {lost:.0%} of the values are lost, being too small for float16" if lost else ""),
        evidence={
            "clip": evidence.clip,
            "rows": len(error),
            "width": width,
            "difference_min": float(offset.min()),
            "difference_max": float(offset.max()),
            "spread_within_a_row_max": _largest(error - offset, mask),
            "difference_from_logsumexp_max": _largest(offset - shift, mask),
            "explained_share": confidence,
            "lost_share": lost,
            "reference_joint_log_softmax": evidence.log_softmax,
            "relative_l2_error_against_the_joints_own_output": evidence.own_output_error,
        },
        advice=advice[side],
    )


def _largest(value: Array, mask: Array) -> float:
    return float(np.abs(np.broadcast_to(value, mask.shape)[mask]).max())


def precision_only(evidence: Evidence) -> Finding | None:
    """In float32 the program agrees with the reference: all of the error is the declared precision's."""
    error, limit = evidence.conversion_error, evidence.conversion_limit
    if error is None or limit is None or error > limit:
        return None
    if evidence.precision_error == 0 or (evidence.runtime_error or 0.0) > (evidence.precision_error or 0.0):
        return None
    reference = _rows(evidence.reference)
    difference = _rows(evidence.candidate) - reference
    total = float(np.linalg.norm(difference))
    if total == 0:
        return None
    share = max(0.0, 1.0 - error * float(np.linalg.norm(reference)) / total)
    return Finding(
        cause="precision_only",
        stage=evidence.stage,
        confidence=share,
        summary="the conversion is right; all of the error comes from the precision that the program declares",
        evidence={
            "clip": evidence.clip,
            "conversion_error": error,
            "conversion_limit": limit,
            "max_abs_error": _finite(np.abs(difference).max()),
            "explained_share": share,
        },
        advice="keep the ops of this stage in float32: `ct.transform.FP16ComputePrecision(op_selector=…)`",
    )


def unexplained(evidence: Evidence) -> Finding:
    """No rule explains the error: what is known about it, so that a reader can go on."""
    reference, candidate = _rows(evidence.reference), _rows(evidence.candidate)
    error = candidate - reference
    return Finding(
        cause="unexplained",
        stage=evidence.stage,
        confidence=0.0,
        summary="no known cause explains this stage's error",
        evidence={
            "clip": evidence.clip,
            "rows": len(error),
            "max_abs_error": _finite(np.abs(error).max()),
            "mean_error": _finite(error.mean()),
            "rows_with_error": int((np.abs(error).max(axis=-1) > 0).sum()),
        },
        advice="compare the stages before it, and the weights and inputs of its op",
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _rows(value: Array) -> Array:
    """float64[N, W]; rows along the last axis."""
    wide = np.atleast_1d(value).astype(np.float64)
    return wide.reshape(-1, wide.shape[-1])


RULES: Mapping[str, Rule] = {
    "log_softmax_baked": log_softmax_baked,
    "precision_only": precision_only,
}
"""Cause → rule."""


def diagnose(evidence: Evidence) -> list[Finding]:
    """The findings about the first bad stage, the most confident first; never empty."""
    found = [finding for rule in RULES.values() if (finding := rule(evidence)) is not None]
    return sorted(found, key=lambda finding: -finding.confidence) or [unexplained(evidence)]
