"""A weight in a few numbers per row, by which it is found again in another model under another name.

Along every axis the weight is read as rows: slices across that axis, flattened in the order of the other axes. A row is
kept as its norm and its products with `PROJECTIONS` fixed random vectors that depend on the row's length only. Equal
rows give equal numbers whatever matrix they stand in, so a transposed, permuted, split or fused weight is found row by
row; a row that was scaled, as batch-norm folding does, keeps the ratio of its products to its norm; rounding to
float16 or to few bits moves the numbers by as much, relatively, as it moves the row.

This is no hash: that two fingerprints agree says how near the weights are, not that they are equal.

Source: random projections keep distances (W. B. Johnson and J. Lindenstrauss, 1984).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROJECTIONS = 6
"""Random vectors per row. Two unrelated rows agree within 10 % in all of them once in about 10⁶ cases."""

CHUNK = 2**22
"""Elements that are widened to float64 at a time."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of a weight."""

    shape: tuple[int, ...]
    products: tuple[NDArray[np.float32], ...]
    """Axis → float32[shape[axis], PROJECTIONS]; the rows' products with the random vectors."""
    norms: tuple[NDArray[np.float32], ...]
    """Axis → float32[shape[axis]]; the rows' Euclidean norms."""

    @property
    def norm(self) -> float:
        """Euclidean norm of the whole weight."""
        return float(np.sqrt((self.norms[0].astype(np.float64) ** 2).sum())) if self.norms else 0.0


def fingerprint(values: NDArray[Any]) -> Fingerprint:
    """The fingerprint of a weight.

    Args:
        values: any numeric dtype, [...]; a scalar counts as one row of one element.

    Returns:
        One table of products and norms per axis. Memory is O(CHUNK) beyond the tables; time is one pass per axis.
    """
    values = np.atleast_1d(np.asarray(values))
    tables = [_along(values, axis) for axis in range(values.ndim)]
    return Fingerprint(values.shape, tuple(p for p, _ in tables), tuple(n for _, n in tables))


def _along(values: NDArray[Any], axis: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Products and norms of the rows of one axis."""
    count, length = values.shape[axis], prod(values.shape[:axis] + values.shape[axis + 1 :])
    vectors = random_vectors(length)
    products, norms = np.empty((count, PROJECTIONS), np.float32), np.empty(count, np.float32)
    step = max(1, CHUNK // max(length, 1))
    for start in range(0, count, step):
        part = values.take(range(start, min(start + step, count)), axis=axis)
        rows = np.moveaxis(part, axis, 0).reshape(len(range(start, min(start + step, count))), length)
        wide = rows.astype(np.float64)
        with np.errstate(all="ignore"):  # an infinite weight has an infinite fingerprint
            products[start : start + step] = wide @ vectors
            norms[start : start + step] = np.sqrt((wide * wide).sum(axis=1))
    return products, norms


@lru_cache(maxsize=64)
def random_vectors(length: int) -> NDArray[np.float64]:
    """float64[length, PROJECTIONS] of standard normal values; the same on every machine."""
    return np.random.Generator(np.random.PCG64(length)).standard_normal((length, PROJECTIONS))
