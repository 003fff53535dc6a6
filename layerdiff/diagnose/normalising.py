"""A log-softmax that only one side applies: the founding case."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerdiff.diagnose.evidence import EXPLAINS, Evidence, removed, rows_of
from layerdiff.records import Finding

if TYPE_CHECKING:
    from layerdiff.records import Array

FLOAT16_LOG_FLOOR = float(np.log(2.0**-14))
"""log of float16's smallest normal number: a softmax computed in float16 keeps no digits of anything below."""


def logsumexp(rows: Array) -> Array:
    """float64[N, W] → float64[N]; log(sum(exp(row))), shifted by the row's maximum against overflow."""
    top = rows.max(axis=-1)
    return np.asarray(top + np.log(np.exp(rows - top[:, None]).sum(axis=-1)))


def log_softmax_baked(evidence: Evidence) -> Finding | None:
    """One side is the log-softmax of the other: the difference is constant in each row, its logsumexp.

    candidate = reference - logsumexp(reference) puts the log-softmax into the candidate; the same with
    the sides exchanged puts it into the reference. coremltools computes log(softmax(x)), of which float16
    loses the small values: then the hypothesis is held against those that it keeps.
    """
    reference, candidate = rows_of(evidence.reference), rows_of(evidence.candidate)
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
