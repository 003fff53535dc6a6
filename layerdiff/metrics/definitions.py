"""Every metric as one pure function over two whole tensors: the definitions, and nothing about speed.

These are what the numbers in a report mean. `layerdiff.metrics.accumulator` computes the same values in one
pass over tensors that need not fit into memory; its tests hold it against these functions.

All take `reference` and `candidate` by keyword, of the same shape and both floating, both integer or both
bool. A metric that is undefined is nan. Every error metric is nan if any element of either side is not
finite: NaN and Inf are counted, by `nan_count` and `inf_count`, and never replaced. Differences and squares
that leave float64's range, which only float64 tensors can bring about, become inf and then nan the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdiff.metrics import formulas
from layerdiff.metrics.rows import check_pair

Array = NDArray[Any]

ATOL, RTOL = 1e-5, 1e-3
"""The default tolerance of `mismatch_ratio`: what `torch.testing.assert_close` allows float16."""
ULP_DTYPES = ("float16", "float32")
"""The dtypes in whose representable values `max_ulp` counts."""


def max_abs_error(*, reference: Array, candidate: Array) -> float:
    """Largest absolute difference, in the unit of the tensor; lower is closer.

    max(|candidate - reference|), subtracted in float64.

    Args:
        reference: float*[...].
        candidate: float*[...]; same shape as `reference`.

    Returns:
        A number in [0, inf); 0.0 if the sides are equal, nan if they are empty or any element is not finite.

    Raises:
        ValueError: the shapes or the kinds of dtype differ.

    Source: the L∞ norm of the error; NumPy, `numpy.testing.assert_allclose`, "Max absolute difference".
    """
    difference = _difference(reference, candidate)
    return float(np.abs(difference).max()) if _defined(difference) else math.nan


def mean_abs_error(*, reference: Array, candidate: Array) -> float:
    """Mean absolute difference, in the unit of the tensor; lower is closer.

    sum(|candidate - reference|) / n, summed in float64.

    Args:
        reference: float*[...].
        candidate: float*[...]; same shape as `reference`.

    Returns:
        A number in [0, inf); 0.0 if the sides are equal, nan if they are empty or any element is not finite.

    Raises:
        ValueError: the shapes or the kinds of dtype differ.

    Source: Willmott and Matsuura, "Advantages of the mean absolute error (MAE) over the root mean square error
        (RMSE)", Climate Research 30 (2005).
    """
    difference = _difference(reference, candidate)
    return float(np.abs(difference).mean()) if _defined(difference) else math.nan


def rmse(*, reference: Array, candidate: Array) -> float:
    """Root of the mean squared difference, in the unit of the tensor; lower is closer.

    sqrt(sum((candidate - reference)²) / n), summed in float64.

    Args:
        reference: float*[...].
        candidate: float*[...]; same shape as `reference`.

    Returns:
        A number in [0, inf); 0.0 if the sides are equal, nan if they are empty or any element is not finite.

    Raises:
        ValueError: the shapes or the kinds of dtype differ.

    Source: Willmott and Matsuura, "Advantages of the mean absolute error (MAE) over the root mean square error
        (RMSE)", Climate Research 30 (2005).
    """
    difference = _difference(reference, candidate)
    return math.sqrt(_energy(difference) / difference.size) if _defined(difference) else math.nan


def relative_l2_error(*, reference: Array, candidate: Array) -> float:
    """Size of the error against the size of the reference, without a unit; lower is closer.

    sqrt(sum((candidate - reference)²) / sum(reference²)), summed in float64.

    Args:
        reference: float*[...].
        candidate: float*[...]; same shape as `reference`.

    Returns:
        A number in [0, inf]; 0.0 if the error is exactly 0 (an all-zero reference included), inf if only the
        reference is 0, nan if the sides are empty or any element is not finite.

    Raises:
        ValueError: the shapes or the kinds of dtype differ.

    Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., section 1.2 (normwise relative
        error) with the 2-norm; the edge cases are ours.
    """
    difference = _difference(reference, candidate)
    if not _defined(difference):
        return math.nan
    return formulas.relative_error(_energy(difference), _energy(_float64(reference)))


def cosine_similarity(*, reference: Array, candidate: Array) -> float:
    """Cosine of the angle between the two tensors taken as vectors, without a unit; higher is closer.

    sum(reference * candidate) / sqrt(sum(reference²) * sum(candidate²)), summed in float64. It is blind to a
    scale common to all elements, and on wide tensors to what happens in a few columns.

    Args:
        reference: float*[...].
        candidate: float*[...]; same shape as `reference`.

    Returns:
        A number in [-1, 1]; nan if either side is exactly 0 or empty, or any element is not finite.

    Raises:
        ValueError: the shapes or the kinds of dtype differ.

    Source: Salton and McGill, "Introduction to Modern Information Retrieval" (1983), chapter 6; the edge cases
        are ours (PyTorch's `cosine_similarity` returns 0 for a zero vector).
    """
    if not _defined(_difference(reference, candidate)):
        return math.nan
    first, second = _float64(reference), _float64(candidate)
    return formulas.cosine(_product(first, second), _energy(first), _energy(second))


def snr_db(*, reference: Array, candidate: Array) -> float:
    """Signal-to-noise ratio of the candidate in decibels; higher is closer.

    10 * log10(sum(reference²) / sum((candidate - reference)²)), summed in float64.

    Args:
        reference: float*[...]; the signal.
        candidate: float*[...]; same shape as `reference`.

    Returns:
        dB in [-inf, inf]; inf if the error is exactly 0, -inf if only the reference is 0, nan if the sides are
        empty or any element is not finite.

    Raises:
        ValueError: the shapes or the kinds of dtype differ.

    Source: the definition used by the ExecuTorch SNR comparator; the edge cases are ours.
    """
    difference = _difference(reference, candidate)
    if not _defined(difference):
        return math.nan
    return formulas.decibels(_energy(_float64(reference)), _energy(difference))


def psnr_db(*, reference: Array, candidate: Array) -> float:
    """Peak signal-to-noise ratio in decibels, the peak being max(|reference|); higher is closer.

    10 * log10(max(|reference|)² / mean((candidate - reference)²)), summed in float64. The peak is that of the
    data because tensors of a network have no nominal range; its sign does not matter.

    Args:
        reference: float*[...]; the signal.
        candidate: float*[...]; same shape as `reference`.

    Returns:
        dB in [-inf, inf]; inf if the error is exactly 0, -inf if only the reference is 0, nan if the sides are
        empty or any element is not finite.

    Raises:
        ValueError: the shapes or the kinds of dtype differ.

    Source: ITU-T J.340 (2010), with the peak of the reference instead of the nominal 255; the edge cases are
        ours.
    """
    difference = _difference(reference, candidate)
    if not _defined(difference):
        return math.nan
    peak = float(np.abs(_float64(reference)).max())
    return formulas.decibels(peak * peak, _energy(difference) / difference.size)


def max_ulp(*, reference: Array, candidate: Array, dtype: str = "float32") -> float:
    """Largest distance between two elements, counted in representable values of `dtype`; lower is closer.

    max(|index(candidate) - index(reference)|), where index numbers the values of `dtype` in ascending order
    and -0.0 and 0.0 are the same value. Both sides are first rounded to `dtype` (to nearest, ties to even).
    What exceeds its range becomes the infinity that follows its largest number.

    Args:
        reference: float*[...].
        candidate: float*[...]; same shape as `reference`.
        dtype: "float16" or "float32".

    Returns:
        A whole number in [0, 2³²); 0.0 if the rounded sides are equal, nan if they are empty or any element
        is not finite.

    Raises:
        ValueError: the shapes or the kinds of dtype differ, or `dtype` is another one.

    Source: Bruce Dawson, "Comparing Floating Point Numbers, 2012 Edition" (AlmostEqualUlps), over the whole
        range instead of one sign.
    """
    if dtype not in ULP_DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(ULP_DTYPES)}, not {dtype!r}")
    if not _defined(_difference(reference, candidate)):
        return math.nan
    return float(np.abs(_index(candidate, dtype) - _index(reference, dtype)).max())


def mismatch_ratio(*, reference: Array, candidate: Array, atol: float = ATOL, rtol: float = RTOL) -> float:
    """Share of the elements that are outside the tolerance, without a unit; lower is closer.

    count(|candidate - reference| > atol + rtol * |reference|) / n, compared in float64.

    Args:
        reference: float*[...].
        candidate: float*[...]; same shape as `reference`.
        atol: absolute part of the tolerance, in the unit of the tensor, >= 0.
        rtol: part of the tolerance that grows with |reference|, >= 0.

    Returns:
        A number in [0, 1]; nan if the sides are empty or any element is not finite.

    Raises:
        ValueError: the shapes or the kinds of dtype differ.

    Source: the complement of NumPy's `isclose`, whose tolerance is relative to its second argument; here that
        is the reference.
    """
    difference = _difference(reference, candidate)
    if not _defined(difference):
        return math.nan
    return float((np.abs(difference) > atol + rtol * np.abs(_float64(reference))).mean())


def nan_count(*, reference: Array, candidate: Array) -> float:
    """Number of NaN in the candidate; lower is better.

    count(isnan(candidate)). A NaN counts whether or not the reference has one at the same place.

    Args:
        reference: float*[...]; only its shape and kind are looked at.
        candidate: float*[...]; same shape as `reference`.

    Returns:
        A whole number in [0, n]; 0.0 for an empty tensor.

    Raises:
        ValueError: the shapes or the kinds of dtype differ.

    Source: IEEE 754-2019, section 6.2.
    """
    check_pair(reference, candidate)
    return float(np.isnan(candidate).sum())


def inf_count(*, reference: Array, candidate: Array) -> float:
    """Number of infinite elements in the candidate, of either sign; lower is better.

    count(isinf(candidate)). An infinity counts whether or not the reference has one at the same place.

    Args:
        reference: float*[...]; only its shape and kind are looked at.
        candidate: float*[...]; same shape as `reference`.

    Returns:
        A whole number in [0, n]; 0.0 for an empty tensor.

    Raises:
        ValueError: the shapes or the kinds of dtype differ.

    Source: IEEE 754-2019, section 6.1.
    """
    check_pair(reference, candidate)
    return float(np.isinf(candidate).sum())


def definitions(*, dtype: str, atol: float, rtol: float) -> Mapping[str, Callable[..., float]]:
    """Every metric by its name, in the order of `records.METRICS`, as a function of reference and candidate."""
    return {
        "max_abs_error": max_abs_error,
        "mean_abs_error": mean_abs_error,
        "rmse": rmse,
        "relative_l2_error": relative_l2_error,
        "cosine_similarity": cosine_similarity,
        "snr_db": snr_db,
        "psnr_db": psnr_db,
        "max_ulp": partial(max_ulp, dtype=dtype),
        "mismatch_ratio": partial(mismatch_ratio, atol=atol, rtol=rtol),
        "nan_count": nan_count,
        "inf_count": inf_count,
    }


def _float64(values: Array) -> NDArray[np.float64]:
    return np.asarray(values).astype(np.float64)


def _product(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        return float((first * second).sum())


def _energy(values: NDArray[np.float64]) -> float:
    return _product(values, values)


def _difference(reference: Array, candidate: Array) -> NDArray[np.float64]:
    """candidate - reference in float64; an element that is not finite on either side is not finite here."""
    check_pair(reference, candidate)
    with np.errstate(invalid="ignore", over="ignore"):
        difference: NDArray[np.float64] = _float64(candidate) - _float64(reference)
    return difference


def _defined(difference: NDArray[np.float64]) -> bool:
    """Whether there is something to measure and all of it is finite."""
    return difference.size > 0 and bool(np.isfinite(difference).all())


def _index(values: Array, dtype: str) -> NDArray[np.int64]:
    """The position of every value among the values of `dtype`; 0 for both zeros."""
    with np.errstate(over="ignore"):
        rounded = np.asarray(values).astype(dtype)
    bits = rounded.view(np.int16 if dtype == "float16" else np.int32).astype(np.int64)
    sign_bit = 1 << (8 * rounded.itemsize - 1)
    return np.where(bits < 0, -(bits + sign_bit), bits)
