"""What is said where no fault of the conversion is found: precision alone, or nothing that is known."""

from __future__ import annotations

import numpy as np

from layerdiff.diagnose.evidence import Evidence, rows_of
from layerdiff.records import Finding


def precision_only(evidence: Evidence) -> Finding | None:
    """In float32 the program agrees with the reference: all of the error is the declared precision's."""
    error, limit = evidence.conversion_error, evidence.conversion_limit
    if error is None or limit is None or error > limit:
        return None
    if evidence.precision_error == 0 or (evidence.runtime_error or 0.0) > (evidence.precision_error or 0.0):
        return None
    reference = rows_of(evidence.reference)
    difference = rows_of(evidence.candidate) - reference
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
    reference, candidate = rows_of(evidence.reference), rows_of(evidence.candidate)
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
