"""Biases, norms and statistics: weights of one dimension, whose tables hold their values.

Vectors are too alike for a distance (the weights of norms are all near one), but their values are stored exactly or
rounded to float16. So two vectors agree in as many elements as are equal up to half a unit in the last place of
float16. Few bits per element, which vectors are rarely stored in, are judged by correlation. Vectors of equal elements
tell little.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from layerdiff.align.weight_options import Hypothesis, Option
from layerdiff.align.weight_rows import SAMPLE, Agreement
from layerdiff.align.weight_tables import Rows

Array = NDArray[np.float64]

HALF_ULP = 2.0**-11 * 1.02
"""Relative error of correct rounding to float16, and of float32 arithmetic beside it."""
HALF_STEP = 3.1e-8
"""Absolute error of rounding to a subnormal float16."""

CORRELATED = 0.97
"""Correlation from which a vector of at least `_LONG` elements is the other one in few bits."""
_LONG = 16
ENOUGH = 0.5
"""Share of elements that have to agree."""


def vector_options(hypotheses: Iterable[Hypothesis], candidates: Iterable[Rows]) -> Iterator[list[Option]]:
    """Per candidate what it may be; nothing for a candidate of a length that no hypothesis has."""
    by_length: dict[int, list[Hypothesis]] = {}
    for hypothesis in hypotheses:
        by_length.setdefault(len(hypothesis.reference), []).append(hypothesis)
    stacked = {n: np.stack([h.reference.numbers[:, 0] for h in same]) for n, same in by_length.items()}
    for rows in candidates:
        if len(rows) in by_length:
            yield list(_options(by_length[len(rows)], stacked[len(rows)], rows))


def _options(known: Sequence[Hypothesis], values: Array, rows: Rows) -> Iterator[Option]:
    """The vectors that agree with one, by its sampled elements first."""
    vector = rows.numbers[:, 0]
    sampled = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int)
    shares = equal_elements(values[:, sampled], vector[sampled]).mean(axis=1)
    likely = np.flatnonzero(shares >= max(ENOUGH / 2, shares.max() / 2))
    found = [(int(i), vector_agreement(values[i], vector)) for i in likely]
    for search in (_scaled, _in_few_bits):
        if not any(agreement.loss <= 1 - ENOUGH for _, agreement in found):
            found = list(search(values, vector))
    for i, agreement in found:
        if agreement.loss <= 1 - ENOUGH:
            yield Option(known[i], rows, agreement)


def equal_elements(reference: Array, candidate: Array) -> NDArray[np.bool_]:
    """Elementwise, whether the candidate is the reference, rounded to float16 at most."""
    return np.asarray(np.abs(candidate - reference) <= HALF_ULP * np.abs(reference) + HALF_STEP)


def vector_agreement(reference: Array, candidate: Array, scale: float = 1.0) -> Agreement:
    """Compares two vectors of equal length, float64[n], element by element."""
    target = scale * reference
    equal = equal_elements(target, candidate) if scale == 1 else _equal_scaled(target, candidate)
    norm, difference = float(np.linalg.norm(target)), float(np.linalg.norm(candidate - target))
    freedom = int(equal.sum()) if np.ptp(reference) else 0
    error = difference / norm if norm else float(difference > 0)
    return Agreement(1 - float(equal.mean()), error, int(equal.sum()), "one" if scale == 1 else "whole", scale, freedom)


def _equal_scaled(target: Array, candidate: Array) -> NDArray[np.bool_]:
    """`equal_elements` where the target was computed from a factor that is itself rounded."""
    return np.asarray(np.abs(candidate - target) <= 3 * (HALF_ULP * np.abs(target) + HALF_STEP))


def _scaled(values: Array, vector: Array) -> Iterator[tuple[int, Agreement]]:
    """The vectors that are one times a factor."""
    size = np.linalg.norm(vector)
    norms = np.linalg.norm(values, axis=1)
    cosines = np.divide(values @ vector, norms * size, out=np.zeros(len(values)), where=norms * size > 0)
    for i in np.flatnonzero(np.abs(cosines) > CORRELATED):
        large = np.abs(values[i]) > 0.1 * norms[i] / np.sqrt(len(vector))
        scale = float(np.median(vector[large] / values[i][large]))
        if scale and len(np.unique(values[i])) > 2:
            yield int(i), vector_agreement(values[i], vector, scale)


def _in_few_bits(values: Array, vector: Array) -> Iterator[tuple[int, Agreement]]:
    """The vectors that correlate with one enough to be the same in few bits."""
    if len(vector) < _LONG or not np.ptp(vector):
        return
    centred, ours = vector - vector.mean(), values - values.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(ours, axis=1)
    products = np.divide(ours @ centred, norms * np.linalg.norm(centred), out=np.zeros(len(values)), where=norms > 0)
    for i in np.flatnonzero(products >= CORRELATED):
        error = np.linalg.norm(vector - values[i])
        if error < 0.5 * norms[i]:
            loss = float((error / norms[i]) ** 2)
            relative = float(error / np.linalg.norm(values[i]))
            yield int(i), Agreement(loss, relative, len(vector), "one", 1.0, len(vector))
