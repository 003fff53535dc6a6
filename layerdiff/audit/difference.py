"""How the values of a constant differ from those that it should hold: how much, in which rows, and by what pattern."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerdiff.audit.storage import FLOAT16_MAX, Cost

Array = NDArray[np.float64]

LISTED_ROWS = 20
"""Indices of changed rows that are kept; the count is complete."""

EVEN = 9.0
"""A row stands out if its squared error is so many times the median's, each relative to what it may be."""
SAME = 0.02
"""Relative L2 error up to which a row is another one, or a multiple of one; plus what storage may cost."""
MOST = 0.9
"""Share of rows from which the whole is changed, and not rows of it."""


@dataclass(frozen=True)
class Difference:
    """What one constant has instead of what it should have."""

    relative_l2_error: float
    allowed_error: float
    """The largest relative L2 error that storing it so may cost."""
    snr_db: float
    """Infinite if nothing differs."""
    rows: int
    changed_rows: int
    """Rows that differ by more than storage costs."""
    first_changed: tuple[int, ...]
    """Indices of the first of them, counted in the reference."""
    pattern: str
    """What was done to them, in words; empty if nothing was."""
    scale: float
    """The factor that makes the reference most like the candidate."""

    @property
    def effective_bits(self) -> float:
        """Bits per element of a uniform quantiser with this signal-to-noise ratio: (SNR - 1.76 dB) / 6.02 dB."""
        return (self.snr_db - 1.76) / 6.02


def difference(reference: Array, candidate: Array, cost: Cost, *, first: int = 0) -> Difference:
    """Compares two tables of rows, float64[rows, length].

    Args:
        reference: what should be stored.
        candidate: what is.
        cost: what storing it may change.
        first: index of the first row in the reference's weight.
    """
    delta = candidate - reference
    size, error = float(np.linalg.norm(reference)), float(np.linalg.norm(delta))
    changed = _changed_rows(reference, candidate, delta, cost)
    scale = float((candidate * reference).sum() / size**2) if size else 1.0
    return Difference(
        relative_l2_error=error / size if size else float(error > 0),
        allowed_error=cost.whole() / size if size else 0.0,
        snr_db=20 * float(np.log10(size / error)) if size and error and np.isfinite(error) else _without_noise(error),
        rows=len(reference),
        changed_rows=len(changed),
        first_changed=tuple(int(row) + first for row in changed[:LISTED_ROWS]),
        pattern=_pattern(reference, candidate, changed, cost, first),
        scale=scale,
    )


def _without_noise(error: float) -> float:
    return -np.inf if error else np.inf


def _changed_rows(reference: Array, candidate: Array, delta: Array, cost: Cost) -> NDArray[np.int64]:
    """Indices of the rows that no correct rounding explains."""
    if not cost.is_typical:
        beyond = ~(np.abs(delta) <= cost.deviation)  # NaN and infinities are beyond, too
        return np.flatnonzero(beyond.any(axis=1))
    errors, limits = (delta**2).sum(axis=1), cost.rows() ** 2
    ratio = np.divide(errors, limits, out=np.zeros(len(errors)), where=limits > 0)
    stands_out = (ratio > 1) & (ratio > EVEN * np.median(ratio))
    squares = (reference**2).sum(axis=1)
    factors = np.divide((candidate * reference).sum(axis=1), squares, out=np.ones(len(squares)), where=squares > 0)
    noise = np.sqrt(limits / np.maximum(squares, 1e-30) / max(reference.shape[1], 1))
    return np.flatnonzero(stands_out | ~(np.abs(factors - 1) <= 0.05 + 6 * noise))


def _pattern(reference: Array, candidate: Array, changed: NDArray[np.int64], cost: Cost, first: int) -> str:
    """What was done to the changed rows, in words."""
    if not len(changed):
        return ""
    p, q = reference[changed], candidate[changed]
    allowed = SAME + float(np.linalg.norm(cost.deviation[changed])) / max(float(np.linalg.norm(p)), 1e-30)
    subject = "all values" if len(changed) >= MOST * len(reference) else "they"
    if not np.isfinite(q).all():
        beyond = bool((np.abs(p[~np.isfinite(q)]) > FLOAT16_MAX).any())
        return f"{subject} are not finite{', they do not fit float16' if beyond else ''}"
    if not q.any():
        return f"{subject} are zero"
    scale = float((p * q).sum() / max(float((p * p).sum()), 1e-30))
    left = float(np.linalg.norm(q - scale * p))
    if left <= min(allowed * abs(scale) * float(np.linalg.norm(p)), float(np.linalg.norm(q - p)) / 4) and p.size > 1:
        return f"{subject} are negated" if abs(scale + 1) < SAME else f"{subject} are multiplied by {scale:.4g}"
    return _moved(reference, q, changed, allowed, first) or f"{subject} have other values"


def _moved(reference: Array, rows: Array, changed: NDArray[np.int64], allowed: float, first: int) -> str:
    """Which rows of the reference stand in the place of the changed ones; empty if none do."""
    if reference.shape[1] == 1:
        return ""
    distance = (reference**2).sum(axis=1)[None] - 2 * rows @ reference.T + (rows**2).sum(axis=1)[:, None]
    nearest = distance.argmin(axis=1)
    error = np.linalg.norm(rows - reference[nearest], axis=1)
    is_another = (error <= allowed * np.linalg.norm(reference[nearest], axis=1)) & (nearest != changed)
    if not is_another.all():
        return ""
    moves = [f"{own + first} holds row {other + first}" for own, other in zip(changed, nearest, strict=True)]
    return f"rows changed places: {', '.join(moves[:4])}{' …' if len(moves) > 4 else ''}"
