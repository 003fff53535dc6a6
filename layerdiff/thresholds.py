"""What a stage may be off by, and whether it is: the pass rule.

Nobody tunes tolerances by hand here: both limits follow from measurements of the candidate's own program, made by
the caller.

- A program that computes what the reference computes differs from it in float32 by rounding alone. How much that
  is shows the same program run in float64 and in float32 (`rounding_level`), and in theory its depth, over which
  rounding errors of random sign grow like a square root. Weights stored in float16 add what moving them within
  their own rounding does (`weight_cost`).
- What a program that computes in float16 must lose is what rounding every result to float16's significand does
  (`precision_cost`). Overflow and underflow are not part of that: they can be avoided, so they are faults.

All sizes are relative L2 errors. Nothing here measures anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from layerdiff.records import Status

FLOAT32_ROUNDING = 2.0**-24
"""Half the distance from 1.0 to the next float32: the largest relative error of one rounding."""
ROUNDING_FACTOR = 8.0
"""Two correct programs may sum in different orders, so each may be off by more than one of them shows."""
DEPTH_FACTOR = 16.0
"""Floor of the limit in float32 roundings per square root of the depth, for programs whose own error is luckily 0."""
COST_FACTOR = 1.5
"""How much more than float16 must cost a stage may cost."""
WEIGHT_FACTOR = 3.0
"""How far the weights' rounding may lie from its measurement. That one takes other random shifts of the same size than
the rounding itself, and a tensor of five columns averages over few of them: up to 1.8 times was seen."""

AT_LEAST = frozenset({"cosine_similarity", "snr_db", "psnr_db"})
"""Metrics of which more is better: a threshold is their lower bound; it is the upper bound of all others."""


@dataclass(frozen=True)
class Limits:
    """The largest relative L2 errors that pass."""

    conversion: float | None
    """For the program in float32 against the reference; None if it could not be derived."""
    total: float | None
    """For the program as declared against the reference; None if it could not be derived."""
    conversion_basis: str = ""
    """What `conversion` is, in words; why it is missing if it is None."""
    total_basis: str = ""
    """What `total` is, in words; why it is missing if it is None."""

    def replaced(self, thresholds: Mapping[str, float]) -> Limits:
        """These limits, or where the user set `relative_l2_error`, that for both."""
        limit = thresholds.get("relative_l2_error")
        if limit is None:
            return self
        return Limits(limit, limit, "the threshold of the configuration", "the threshold of the configuration")


def limits(
    *,
    rounding_level: float | None,
    depth: int,
    weight_cost: float | None = None,
    precision_cost: float | None = None,
) -> Limits:
    """The limits of one stage.

    conversion = max(8 * rounding_level, 16 * 2⁻²⁴ * sqrt(depth + 1)) + 3 * weight_cost,
    total = max(conversion, 1.5 * precision_cost).

    Args:
        rounding_level: the program in float32 against itself in float64; None if it was not measured.
        depth: operations on the longest path from an input to the stage, >= 0.
        weight_cost: the program in float32 with its float16 weights moved within their rounding against the
            program in float32; None if no weight is stored in float16.
        precision_cost: the program with every result rounded to float16's significand against the program in
            float32; None if nothing is computed in float16.

    Returns:
        Limits >= 16 * 2⁻²⁴; those that depend on a measurement that is missing or not finite are None.
    """
    if not _known(rounding_level):
        return _missing("the float32 rounding level was not measured")
    if weight_cost is not None and not _known(weight_cost):
        return _missing("what storing the weights in float16 costs could not be measured")
    floor = DEPTH_FACTOR * FLOAT32_ROUNDING * math.sqrt(depth + 1)
    conversion = max(ROUNDING_FACTOR * rounding_level, floor) + WEIGHT_FACTOR * (weight_cost or 0.0)
    weights = " with float16 weights" if weight_cost else ""
    basis = f"the float32 rounding level at this depth{weights}"
    if precision_cost is not None and not _known(precision_cost):
        return Limits(conversion, None, basis, "what float16 must cost could not be measured")
    if precision_cost is None or COST_FACTOR * precision_cost <= conversion:
        return Limits(conversion, conversion, basis, basis)
    return Limits(conversion, COST_FACTOR * precision_cost, basis, "1.5 times what float16 must cost")


ESTIMATED_FACTOR = 4.0
"""How much more than the estimate may pass, for an estimate knows nothing of the values."""


def estimated(*, depth: int, dtype: str) -> Limits:
    """Limits without a measurement: 4 × 16 * 2⁻²⁴ * sqrt(depth + 1), for float16 4 × 2⁻¹¹ * sqrt(depth + 1).

    Rounding errors of random sign grow like the square root of the number of roundings; an op that cancels large
    values against each other does worse, and fails here though it need not.

    Args:
        depth: operations on the longest path from an input to the stage, >= 0.
        dtype: the dtype that the candidate declares for it.
    """
    rounding = 2.0**-11 if dtype == "float16" else DEPTH_FACTOR * FLOAT32_ROUNDING
    size = ESTIMATED_FACTOR * rounding * math.sqrt(depth + 1)
    return Limits(size, size, *[f"the estimate for {dtype} at this depth"] * 2)


def judge(
    *,
    metrics: Mapping[str, float | None],
    conversion_error: float | None,
    limits: Limits,
    reference_nonfinite: int = 0,
    candidate_nonfinite: int = 0,
    unmatched_nonfinite: int | None = None,
    thresholds: Mapping[str, float] | None = None,
    broken_expectation: str = "",
) -> tuple[Status, str]:
    """The status of a stage and why, in words; the reason of a plain pass is empty.

    A stage fails if the candidate has a NaN or Inf that the reference has not, if an error exceeds its limit or
    a metric its threshold, or if an expectation is broken. It is unknown if it does not fail and something that
    a pass needs is missing.

    Args:
        metrics: metric → value, None where it is undefined; `relative_l2_error` is the total error.
        conversion_error: the program in float32 against the reference; None if it was not measured.
        limits: what the stage may be off by.
        reference_nonfinite: NaN and Inf in the reference.
        candidate_nonfinite: NaN and Inf in the candidate.
        unmatched_nonfinite: those of the candidate that the reference does not have at the same place; None to go
            by the two numbers above.
        thresholds: metric → limit set by the user; `relative_l2_error` replaces both derived limits, all others
            are demanded on top of them.
        broken_expectation: what contradicts an expectation of the configuration, in words; empty if nothing does.

    Returns:
        "pass", "fail" or "unknown", and the reason.
    """
    thresholds = thresholds or {}
    limits = limits.replaced(thresholds)
    excess = max(0, candidate_nonfinite - reference_nonfinite) if unmatched_nonfinite is None else unmatched_nonfinite
    undefined = _why_undefined(metrics, reference_nonfinite, candidate_nonfinite)
    verdicts = [
        ("fail", _new_nonfinite(excess)),
        *_errors(metrics.get("relative_l2_error"), conversion_error, limits, undefined),
        *(_threshold(name, metrics.get(name), limit, undefined) for name, limit in thresholds.items()),
        ("fail", broken_expectation),
    ]
    for status in ("fail", "unknown"):
        reasons = list(dict.fromkeys(reason for found, reason in verdicts if found == status and reason))
        if reasons:
            return ("fail" if status == "fail" else "unknown"), "; ".join(reasons)
    return "pass", ""


Verdict = tuple[Status, str]


def _errors(total: float | None, conversion: float | None, limits: Limits, undefined: str) -> list[Verdict]:
    """Conversion error, then total error; the total is not blamed for what the conversion error explains."""
    if undefined:
        return [("unknown", undefined)]
    first = _error("conversion error", conversion, limits.conversion, limits.conversion_basis)
    second = _error("total error", total, limits.total, limits.total_basis)
    return [first] if first[0] == "fail" else [first, second]


def _error(name: str, value: float | None, limit: float | None, basis: str) -> Verdict:
    if value is None or math.isnan(value):
        return "unknown", f"the {name} was not measured"
    if limit is None:
        return "unknown", f"the {name} cannot be judged: {basis}"
    if value <= limit:
        return "pass", ""
    if math.isinf(value):
        return "fail", f"{name} is infinite: the reference is 0 throughout and the candidate is not"
    return "fail", f"{name} {_compared(value, 'exceeds', limit)}, {basis}"


def _threshold(name: str, value: float | None, limit: float, undefined: str) -> Verdict:
    """One metric against the user's threshold; the total error has been judged with the limits."""
    if name == "relative_l2_error":
        return "pass", ""
    if value is None or math.isnan(value):
        return "unknown", undefined or f"{name} is undefined here"
    if name in AT_LEAST:
        good, verb = value >= limit, "is below"
    else:
        good, verb = value <= limit, "exceeds"
    return ("pass", "") if good else ("fail", f"{name} {_compared(value, verb, limit)}, the threshold")


def _why_undefined(metrics: Mapping[str, float | None], reference: int, candidate: int) -> str:
    """Why there is no total error; empty if there is one."""
    if metrics.get("relative_l2_error") is not None:
        return ""
    if reference or candidate:
        counted = [f"the {side} has {n} NaN or Inf" for side, n in _sides(reference, candidate) if n]
        return f"no error is defined: {' and '.join(counted)}"
    return "no error is defined: nothing was compared"


def _sides(reference: int, candidate: int) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("reference", reference), ("candidate", candidate)


def _new_nonfinite(count: int) -> str:
    return f"{count} NaN or Inf in the candidate where the reference has none" if count else ""


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value) and value >= 0


def _missing(reason: str) -> Limits:
    return Limits(None, None, reason, reason)


def _compared(value: float, verb: str, limit: float) -> str:
    """`0.52 exceeds 4.1e-07`, with as many digits as it takes to tell the two apart."""
    for digits in range(2, 18):
        written = f"{value:.{digits}g}", f"{limit:.{digits}g}"
        if written[0] != written[1]:
            break
    return f"{written[0]} {verb} {written[1]}"
