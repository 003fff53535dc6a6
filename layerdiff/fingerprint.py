"""A weight in a few numbers per row, by which it is found again in another model under another name.

Along every axis the weight is read as rows: slices across that axis, flattened in the order of the other axes. A row is
kept as its norm and its products with `PROJECTIONS` fixed random vectors that depend on the row's length only. Equal
rows give equal numbers whatever matrix they stand in, so a transposed, permuted, split or fused weight is found row by
row; a row that was scaled, as batch-norm folding does, keeps the ratio of its products to its norm; rounding to
float16 or to few bits moves the numbers by as much, relatively, as it moves the row.

An axis of length one has one row, the whole weight. Its random vectors would be as long as the weight, so they are made
of those of the first longer axis; nothing is searched by them.

This is no hash: that two fingerprints agree says how near the weights are, not that they are equal.

Source: random projections keep distances (W. B. Johnson and J. Lindenstrauss, 1984).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROJECTIONS = 6
"""Random vectors per row. Two unrelated rows agree within 10 % in all of them once in about 10⁶ cases."""

CHUNK = 2**18
"""Elements that are widened at a time; what fits the cache is read from memory once for all axes."""

SHORT = 2**17
"""Length of rows up to which their random vectors are kept."""

Table = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of a weight."""

    shape: tuple[int, ...]
    products: tuple[Table, ...]
    """Axis → float32[shape[axis], PROJECTIONS]; the rows' products with the random vectors."""
    norms: tuple[Table, ...]
    """Axis → float32[shape[axis]]; the rows' Euclidean norms."""

    @property
    def norm(self) -> float:
        """Euclidean norm of the whole weight."""
        return float(np.sqrt((self.norms[0].astype(np.float64) ** 2).sum())) if self.norms else 0.0

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which there is more than one row."""
        return tuple(axis for axis, length in enumerate(self.shape) if length > 1)


def fingerprint(values: NDArray[Any]) -> Fingerprint:
    """The fingerprint of a weight.

    Args:
        values: any numeric dtype, [...]; a scalar counts as one row of one element.

    Returns:
        One table of products and norms per axis. Float16 and float32 are multiplied in float32, which is off by about
        1e-6 of a row's norm, everything else in float64; sums over pieces are float64. Memory is O(CHUNK) beyond the
        tables and the random vectors, which are `PROJECTIONS` times as long as a row; time is one pass.
    """
    values = np.atleast_1d(np.asarray(values))
    if not values.size:
        norms = tuple(np.zeros(length, np.float32) for length in values.shape)
        return Fingerprint(values.shape, tuple(np.repeat(n[:, None], PROJECTIONS, axis=1) for n in norms), norms)
    long = tuple(axis for axis, length in enumerate(values.shape) if length != 1)
    lengths = tuple(values.shape[axis] for axis in long) or (1,)
    tables = _tables(values.reshape(lengths))
    products, squares = tables[0]
    vectors = random_vectors(len(products)) if long else 1.0
    whole = (products * vectors).sum(axis=0, keepdims=True), squares.sum(keepdims=True)
    found = [tables[long.index(axis)] if axis in long else whole for axis in range(values.ndim)]
    with np.errstate(over="ignore"):  # an infinite weight has an infinite fingerprint
        kept = [(p.astype(np.float32), np.sqrt(s).astype(np.float32)) for p, s in found]
    return Fingerprint(values.shape, tuple(p for p, _ in kept), tuple(n for _, n in kept))


def _tables(values: NDArray[Any]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Axis → products float64[rows, PROJECTIONS] and squared norms float64[rows]."""
    shape, dtype = values.shape, np.float32 if values.dtype in (np.float16, np.float32) else np.float64
    tables = [(np.zeros((n, PROJECTIONS)), np.zeros(n)) for n in shape]
    vectors = [_by_first_axis(shape, axis).astype(dtype) for axis in range(len(shape))]
    for part, rows in _parts(values, dtype):
        with np.errstate(all="ignore"):
            squared = part * part
            for axis, (products, squares) in enumerate(tables):
                own, vector = (rows, vectors[axis][0]) if axis == 0 else (slice(None), vectors[axis][rows])
                products[own] += _rows(part, axis) @ vector.reshape(-1, PROJECTIONS)
                squares[own] += _rows(squared, axis) @ np.ones(part.size // max(part.shape[axis], 1), dtype)
    return tables


def _by_first_axis(shape: tuple[int, ...], axis: int) -> NDArray[np.float64]:
    """The random vectors of an axis as [first axis, the rest of a row, PROJECTIONS]; of the first axis as [1, …]."""
    length = prod(shape[:axis] + shape[axis + 1 :])
    return random_vectors(length).reshape(shape[0] if axis else 1, -1, PROJECTIONS)


def _parts(values: NDArray[Any], dtype: Any) -> Iterator[tuple[NDArray[Any], slice]]:
    """Pieces along the first axis in the dtype of computation, with where they come from."""
    step = max(1, CHUNK // max(prod(values.shape[1:]), 1))
    for start in range(0, len(values), step):
        rows = slice(start, min(start + step, len(values)))
        yield values[rows].astype(dtype), rows


def _rows(part: NDArray[Any], axis: int) -> NDArray[Any]:
    """[rows, length]: a piece as rows along an axis; along the first and the last it is a view."""
    length = part.shape[axis]
    return part.reshape(-1, length).T if axis == part.ndim - 1 else np.moveaxis(part, axis, 0).reshape(length, -1)


def random_vectors(length: int) -> NDArray[np.float64]:
    """float64[length, PROJECTIONS] of standard normal values; the same on every machine."""
    return _kept_vectors(length) if length <= SHORT else _drawn_vectors(length)


def _drawn_vectors(length: int) -> NDArray[np.float64]:
    return np.random.Generator(np.random.PCG64(length)).standard_normal((length, PROJECTIONS))


_kept_vectors = lru_cache(maxsize=32)(_drawn_vectors)
