"""From sums to metrics: the last step of each metric and its edge cases, written once.

The whole-tensor definitions and the streaming accumulator arrive at the same few sums by different ways;
what a zero, an overflow or an empty tensor means must not depend on the way.
"""

from __future__ import annotations

import math


def mean(total: float, count: int) -> float:
    """total / count; nan for nothing."""
    return total / count if count else math.nan


def relative_error(error_energy: float, reference_energy: float) -> float:
    """sqrt(error / reference); 0.0 if there is no error, inf if only the reference is zero."""
    if error_energy == 0.0:
        return 0.0
    if reference_energy == 0.0:
        return math.inf
    return math.sqrt(error_energy / reference_energy)


def cosine(product: float, reference_energy: float, candidate_energy: float) -> float:
    """product / sqrt(reference * candidate) within [-1, 1]; nan if either side is zero."""
    if reference_energy == 0.0 or candidate_energy == 0.0:
        return math.nan
    size = math.sqrt(reference_energy * candidate_energy)
    if size == 0.0 or math.isinf(size):  # the product left float64's range, its roots have not
        size = math.sqrt(reference_energy) * math.sqrt(candidate_energy)
    return max(-1.0, min(1.0, product / size)) if math.isfinite(size) else math.nan


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise); inf without noise, -inf if only the signal is zero."""
    if noise == 0.0:
        return math.inf
    if signal == 0.0:
        return -math.inf
    return 10.0 * (math.log10(signal) - math.log10(noise))
