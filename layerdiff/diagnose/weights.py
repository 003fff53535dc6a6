"""Other weights than the reference's: told by the constants, and proved by running the op with the right ones.

What the candidate's op holds is compared with what it should hold. If putting the right weights in takes the stage's
error away, they are its cause; how they differ says which one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.diagnose.evidence import MOST_LISTED, Evidence, finding, removed
from layerdiff.diagnose.moving import FARTHEST, PERMUTATION_ADVICE, SLICE_ADVICE, order_of
from layerdiff.records import Finding

if TYPE_CHECKING:
    from layerdiff.records import Array

STORED = 2.0**-10
"""Relative error of a weight that may come from storing it in float16."""
SMALLEST = 2.0**-24
"""The smallest number of float16."""
EXACT = 5e-3
"""What a pattern may leave of a change, relative to it, to be the whole of it."""
LIKE = 0.5
"""Correlation with what it should be from which on a weight of few values counts as rounded."""
SHOWN_ROWS = 6
LEVELS = 256
"""Values that a weight of eight bits has at most."""
ADVICE = "compare this op's weight with the checkpoint (`layerdiff inspect … --weights`)"

Sides = Mapping[str, tuple["Array", "Array"]]
"""Role → float64 weight as it should be, and as the candidate holds it."""


def weights_differ(evidence: Evidence) -> Finding | None:
    """The candidate's op holds other weights, and gives the right result with the right ones."""
    differing = {role: sides for role, sides in evidence.held.items() if rows_at_fault(*sides).size}
    if not differing or evidence.rerun is None or not evidence.can_be_subtracted:
        return None
    proof = evidence.rerun({role: expected for role, (expected, _) in differing.items()})
    if proof is None or proof.shape != evidence.reference.shape or not np.isfinite(proof).all():
        return None
    error = evidence.candidate.astype(np.float64) - evidence.reference
    share = removed(error, proof.astype(np.float64) - evidence.reference)
    change = Change.of(differing)
    cause, said, advice, numbers = _kind_of(change)
    return finding(
        evidence,
        cause,
        share,
        f"{said}{change.place}{_elsewhere(change)}; with the checkpoint's weights in its place the stage is right",
        advice,
        weights=sorted(differing),
        rows=[int(row) for row in change.rows[:MOST_LISTED]],
        rows_at_fault=len(change.rows),
        proved_by_running_it=True,
        **numbers,
    )


def rows_at_fault(expected: Array, held: Array) -> Array:
    """int64[N]; the rows that are off by more than storing them in float16 costs."""
    ours, error = (side.reshape(len(side), -1) for side in (expected, held - expected))
    size, off = np.linalg.norm(ours, axis=1), np.linalg.norm(error, axis=1)
    return np.asarray(np.flatnonzero(off > STORED * size + SMALLEST * np.sqrt(ours.shape[1])))


@dataclass(frozen=True)
class Change:
    """The weights of an op, as far as they are at fault."""

    rows: Array
    """int64[N]; the rows in which any of them is."""
    total: int
    roles: frozenset[str]
    """Those that are at fault."""
    sides: Mapping[str, tuple[Array, Array]]
    """Role → float64[N, …] as it should be and as it is, of the rows at fault."""
    whole: tuple[Array, Array] | None
    """float64[M, …] the matrix among them, all rows of it."""

    @classmethod
    def of(cls, differing: Sides) -> Change:
        """What differs, cut down to the rows at fault."""
        total = max(len(expected) for expected, _ in differing.values())
        sides = {role: pair for role, pair in differing.items() if len(pair[0]) == total}
        rows = [rows_at_fault(*pair) for role, pair in differing.items() if role in sides]
        bad = np.unique(np.concatenate(rows)) if rows else np.arange(total)
        matrices = [pair for role, pair in differing.items() if pair[0].ndim > 1]
        cut = {role: (expected[bad], found[bad]) for role, (expected, found) in sides.items()}
        return cls(bad, total, frozenset(differing), cut or differing, matrices[0] if matrices else None)

    @property
    def matrix(self) -> tuple[Array, Array] | None:
        """float64[N, W] each; the rows at fault of the matrix."""
        if self.whole is None:
            return None
        rows = self.rows if len(self.whole[0]) == self.total else np.arange(len(self.whole[0]))
        expected, found = (side.reshape(len(side), -1)[rows] for side in self.whole)
        return expected, found

    @property
    def place(self) -> str:
        """` (rows 97 to 101 of 102)`, where it is not all of them."""
        rows, total = self.rows, self.total
        if not 0 < len(rows) < total:
            return ""
        if len(rows) > 1 and rows[-1] - rows[0] == len(rows) - 1:
            return f" (rows {rows[0]} to {rows[-1]} of {total})"
        more = " …" if len(rows) > SHOWN_ROWS else ""
        return f" (rows {', '.join(map(str, rows[:SHOWN_ROWS]))}{more} of {total})"


def _elsewhere(change: Change) -> str:
    """` in 'encoder.layers.0.linear_pos.weight'`, where it is not the op's own."""
    others = [role for role in sorted(change.roles) if "." in role]
    return f" in {', '.join(map(repr, others[:2]))}" if others else ""


Kind = tuple[str, str, str, dict[str, Any]]
"""Cause, what is wrong, advice, numbers."""


def _kind_of(change: Change) -> Kind:
    if all(role.rpartition(".")[2].startswith("bias") for role in change.roles):
        biases = list(change.sides.values())
        if not any(found.any() for _, found in biases):
            return "bias_missing", "the bias of the op is zero", "give the converted op its bias", {}
        largest = max(float(np.abs(found - expected).max()) for expected, found in biases)
        return "bias_changed", f"the bias of the op is off by up to {largest:.4g}", ADVICE, {"bias_error_max": largest}
    hypotheses = (_zeroed, _scaled, _shifted, _moved, _rounded, _scaled_rows)
    return next((kind for hypothesis in hypotheses if (kind := hypothesis(change))), None) or _other(change)


def _zeroed(change: Change) -> Kind | None:
    if change.matrix is None or change.matrix[1].any():
        return None
    count = len(change.matrix[1])
    return "weight_missing", f"{count} rows of the weight are zero", ADVICE, {}


def _scaled(change: Change) -> Kind | None:
    """One factor for all that is at fault."""
    expected = np.concatenate([sides[0].ravel() for sides in change.sides.values()])
    found = np.concatenate([sides[1].ravel() for sides in change.sides.values()])
    factor = float(np.vdot(expected, found) / np.vdot(expected, expected))
    if np.linalg.norm(found - factor * expected) > EXACT * np.linalg.norm(found - expected):
        return None
    if abs(factor + 1) < STORED:
        return "sign_flip", "the weights of the op have the other sign", "look for a sign that was folded", {}
    advice = "look for a factor that was folded into the weights, or left out"
    return "scale", f"the weights of the op are {factor:.6g} times what they should be", advice, {"factor": factor}


def _shifted(change: Change) -> Kind | None:
    """Each row is a neighbour of what it should be, as of a slice that begins at the wrong place."""
    if change.whole is None or len(change.whole[0]) != change.total or len(change.rows) < 2:
        return None
    expected, found = (side.reshape(change.total, -1) for side in change.whole)
    for shift in (sign * distance for distance in range(1, FARTHEST + 1) for sign in (-1, 1)):
        source = change.rows + shift
        if source[0] < 0 or source[-1] >= change.total:
            continue
        error = np.linalg.norm(found[change.rows] - expected[source])
        if error < EXACT * np.linalg.norm(found[change.rows] - expected[change.rows]):
            said = (
                f"each of these rows holds the weights of the one {abs(shift)} {'before' if shift < 0 else 'behind'} it"
            )
            return "slice_shift", said, SLICE_ADVICE, {"shift": -shift}
    return None


def _scaled_rows(change: Change) -> Kind | None:
    """One factor per row."""
    for expected, found in change.sides.values():
        ours, theirs = (side.reshape(len(side), -1) for side in (expected, found))
        energy = np.square(ours).sum(axis=1)
        factors = np.divide((ours * theirs).sum(axis=1), energy, out=np.ones_like(energy), where=energy > 0)
        if np.linalg.norm(theirs - factors[:, None] * ours) > EXACT * np.linalg.norm(theirs - ours):
            return None
    said = f"each row of the weights has a factor of its own, {factors.min():.4g} to {factors.max():.4g}"
    advice = "a factor per row comes from quantisation, a folded norm, or a gain that was left out"
    return "channel_scale", said, advice, {"factor_min": float(factors.min()), "factor_max": float(factors.max())}


def _moved(change: Change) -> Kind | None:
    """The rows in another order."""
    if change.matrix is None:
        return None
    expected, found = change.matrix
    order = order_of(expected, found)
    if order is None or np.linalg.norm(found - expected[order]) > EXACT * np.linalg.norm(found - expected):
        return None
    return "channel_permutation", f"{len(order)} rows of the weights stand in another order", PERMUTATION_ADVICE, {}


def _rounded(change: Change) -> Kind | None:
    """Few different values, each near to what it should be: per tensor, or per row or column."""
    if change.matrix is None:
        return None
    expected, found = change.matrix
    levels = min(_levels(found), _levels(found, axis=1), _levels(found, axis=0))
    correlation = float(np.vdot(expected, found) / (np.linalg.norm(expected) * np.linalg.norm(found) or 1.0))
    if levels > LEVELS or correlation < LIKE:
        return None
    bits = max(1, int(np.ceil(np.log2(levels))))
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    said = f"the weight is rounded to {levels} levels ({bits} bits), which changes it by {error:.2%}"
    advice = "quantise this op with more bits, in blocks or per channel, or leave it out (`op_name_configs`)"
    return "weight_quantization", said, advice, {"levels": levels, "bits": bits, "relative_change": error}


def _levels(weight: Array, axis: int | None = None) -> int:
    """The number of different values, of the whole or of the row or column that has most; many if that says nothing."""
    if axis is None:
        count = _different(weight.ravel())
        return count if 4 * count <= weight.size else 10**9
    lines = weight if axis == 1 else weight.T
    picked = lines[np.linspace(0, len(lines) - 1, min(len(lines), 32)).astype(int)]
    count = max(_different(line) for line in picked)
    return count if 2 * count <= lines.shape[1] else 10**9


def _different(values: Array) -> int:
    """The number of values that are more than noise apart, which is far less than unrelated values are."""
    ordered = np.sort(values)
    noise = min(1e-4, 0.05 / len(ordered)) * float(np.abs(ordered).max(initial=0.0))
    return 1 + int((np.diff(ordered) > noise).sum())


def _other(change: Change) -> Kind:
    expected = np.concatenate([sides[0].ravel() for sides in change.sides.values()])
    found = np.concatenate([sides[1].ravel() for sides in change.sides.values()])
    size = float(np.linalg.norm(found - expected) / (np.linalg.norm(expected) or 1.0))
    return "weight_changed", f"{len(change.rows)} rows of the weights are other ones", ADVICE, {"relative_change": size}
