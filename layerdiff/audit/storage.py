"""What it must cost to store a weight as the candidate does, as an upper bound.

float16 costs half a unit in the last place of every element; float32 nothing, unless all values are exactly those of
float16, as constants that were cast twice are. Of few bits the bound is that of the plainest rounding at that width:
uniform steps over the largest magnitude of the row or the column, whichever is larger; of the whole weight where it has
no more different values than the width allows, and for a table of values (`palettized`), whose clustering does no worse
than uniform steps. Pruning costs at least the smallest elements. So what an int8 package loses is not called damage,
and damage is not called int8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdiff.outline import Weight

Array = NDArray[np.float64]

HALF_ULP_FLOAT16, HALF_STEP_FLOAT16 = 2.0**-11 * 1.02, 3.1e-8
"""Half a unit in the last place of a normal float16, relative, and of a subnormal one; a little more than exact."""
ULPS_FLOAT32 = 2.0**-22
"""Relative error of float32: two units in the last place."""
FLOAT16_MAX = 65504.0
COMPUTED = 4.0
"""By how much more a value may be off that was computed (a folded norm, a sum) before it was rounded."""

_SAMPLED_ROWS = 16


@dataclass(frozen=True, eq=False)
class Cost:
    """What storing a weight may change."""

    deviation: Array
    """float64[rows, length]: the largest error of an element, or, if `is_typical`, its standard deviation."""
    is_typical: bool
    words: str
    """How it is stored."""

    def rows(self) -> Array:
        """float64[rows]: the largest Euclidean norm of a row's error."""
        squares = np.asarray((self.deviation * self.deviation).sum(axis=1))
        return np.asarray(np.sqrt(squares) * (2.0 if self.is_typical else 1.0))

    def whole(self) -> float:
        """The largest Euclidean norm of the error of the whole."""
        return float(np.sqrt((self.deviation * self.deviation).sum()) * (1.25 if self.is_typical else 1.0))


def storage_cost(weight: Weight, reference: Array, candidate: Array, *, is_computed: bool) -> Cost:
    """The upper bound of the error of a correctly stored weight.

    Args:
        weight: the candidate's, for its dtype and compression.
        reference: float64[rows, length]; what should be stored.
        candidate: float64[rows, length]; what is stored, decompressed.
        is_computed: whether the reference is the result of a calculation that the converter did too.
    """
    deviation = _rounded(reference, is_computed=is_computed)
    if not weight.compression:
        wide = weight.dtype in ("float32", "float64") and not is_computed
        if wide and not np.array_equal(as_float16(reference), candidate):
            return Cost(np.asarray(ULPS_FLOAT32 * np.abs(reference)), is_typical=False, words=weight.dtype)
        words = f"{weight.dtype}, rounded to float16" if wide and (reference != candidate).any() else weight.dtype
        return Cost(deviation, is_typical=False, words=words)
    words, squares = weight.compression, deviation**2
    if "affine" in weight.compression or "palettized" in weight.compression:
        bits = bits_of(weight, candidate)
        words += f", {bits} bits"
        of_whole = "palettized" in weight.compression or _values_of(candidate) <= 2**bits
        squares = squares + _steps(reference, bits, of_whole=of_whole) ** 2 / 12
    if "pruned" in weight.compression:
        squares = np.where(_dropped(reference, candidate), reference**2, squares)
    return Cost(np.sqrt(squares), is_typical=True, words=words)


def _rounded(values: Array, *, is_computed: bool) -> Array:
    """The largest error of rounding to float16."""
    size = np.abs(values)
    deviation = HALF_ULP_FLOAT16 * size + HALF_STEP_FLOAT16
    if is_computed and size.size:
        deviation = COMPUTED * deviation + HALF_ULP_FLOAT16 * size.max()
    return np.asarray(deviation)


def bits_of(weight: Weight, candidate: Array) -> int:
    """Bits per element: by the dtype, or, where a byte may hold several elements, by the number of different values."""
    stated = int(found.group()) if (found := re.search(r"\d+", weight.dtype)) else 8
    if stated < 8:
        return stated
    different = max((len(np.unique(row)) for row in _sampled(candidate)), default=1)
    if "palettized" in weight.compression:
        return int(np.clip(np.ceil(np.log2(max(different, 2))), 1, 8))
    return min(stated, 8)


def _sampled(candidate: Array) -> Array:
    rows = np.linspace(0, len(candidate) - 1, min(_SAMPLED_ROWS, len(candidate))).astype(int)
    return np.asarray(candidate[rows])


def _values_of(candidate: Array) -> int:
    """How many different values some rows have together."""
    return len(np.unique(_sampled(candidate)))


def _steps(values: Array, bits: int, *, of_whole: bool) -> Array:
    """The distance of neighbouring values of a uniform rounding to a number of bits."""
    size, count = np.abs(values), 2 ** (bits - 1) - 1 if bits > 1 else 1
    if of_whole or values.shape[1] == 1:
        return np.full(values.shape, size.max(initial=0) / count)
    return np.asarray(np.maximum(size.max(axis=1)[:, None], size.max(axis=0)[None])) / count


def _dropped(reference: Array, candidate: Array) -> NDArray[np.bool_]:
    """Which elements pruning may have dropped: zeros of the candidate where the reference is small."""
    zero = candidate == 0
    kept = np.abs(reference)[~zero]
    limit = float(np.quantile(np.abs(reference), zero.mean())) if zero.any() and kept.size else np.inf
    return np.asarray(zero & (np.abs(reference) <= 1.5 * limit))


def as_float16(values: NDArray[Any]) -> Array:
    """The values after rounding to float16 and back."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float64)
