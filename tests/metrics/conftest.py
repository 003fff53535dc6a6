"""The oracle: every metric in rational arithmetic, element by element, for small arrays."""

import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture(scope="session")
def oracle():
    """The functions of this file."""
    return SimpleNamespace(metrics=metrics, float16_values=float16_values, steps=steps)


def float16_values():
    """All values of float16 but NaN in ascending order, one zero: what a ULP counts."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    return np.unique(values[~np.isnan(values)])


def steps(low, high, dtype):
    """Number of `nextafter` steps from low to high, walked one by one."""
    low, high, count = dtype(min(low, high)), dtype(max(low, high)), 0
    while low < high:
        low, count = np.nextafter(low, dtype(np.inf)), count + 1
    return count


def metrics(reference, candidate, *, atol, rtol):
    """Metric → value without max_ulp; the sides are finite and not empty."""
    r = [Fraction(float(x)) for x in np.ravel(reference)]
    c = [Fraction(float(x)) for x in np.ravel(candidate)]
    d = [b - a for a, b in zip(r, c, strict=True)]
    n, noise, signal, other = len(d), sum(x * x for x in d), sum(x * x for x in r), sum(x * x for x in c)
    peak = max(abs(x) for x in r)
    limits = [Fraction(atol) + Fraction(rtol) * abs(x) for x in r]
    return {
        "max_abs_error": float(max(abs(x) for x in d)),
        "mean_abs_error": float(sum(abs(x) for x in d) / n),
        "rmse": root(noise / n),
        "relative_l2_error": 0.0 if not noise else math.inf if not signal else root(noise / signal),
        "cosine_similarity": cosine(sum(a * b for a, b in zip(r, c, strict=True)), signal, other),
        "snr_db": decibels(signal, noise),
        "psnr_db": decibels(peak * peak, noise / n),
        "mismatch_ratio": sum(abs(x) > limit for x, limit in zip(d, limits, strict=True)) / n,
    }


def root(value):
    """Square root of a Fraction of any size."""
    scale = Fraction(4) ** 600
    return float(Fraction(math.isqrt(int(value * scale)), math.isqrt(int(scale))))


def cosine(product, first, second):
    if not first or not second:
        return None
    return (1 if product >= 0 else -1) * root(product * product / (first * second))


def decibels(signal, noise):
    if not noise:
        return math.inf
    if not signal:
        return -math.inf
    ratio = signal / noise
    return 10 * (math.log10(ratio.numerator) - math.log10(ratio.denominator))
