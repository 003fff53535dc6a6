"""Batch norms that a converter folded into the weights around them.

A norm after a linear op multiplies the rows of its weight by `s = weight / sqrt(running_var + epsilon)`; one before it
multiplies the rows along the input's axis. So a constant whose rows are the reference's times factors is explained by
the norm whose s these factors are; epsilon, which no checkpoint holds, follows from them. Then the bias is known too.
Where a norm became a product and a sum of its own, s and `bias - running_mean · s` are constants by themselves.

Roles are those that torch gives the weights of the reference; names of the candidate are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from layerdiff.align.weight_match import FoldedNorm, WeightMatch, rows_of
from layerdiff.align.weight_options import Hypothesis
from layerdiff.align.weight_rows import row_factors
from layerdiff.align.weight_tables import Rows, Side, vector
from layerdiff.align.weight_vectors import vector_agreement

Array = NDArray[np.float64]

EPSILONS = (1e-5, 1e-3, 1e-6, 1e-4)
"""Those that are tried where the factors themselves do not tell: torch, TensorFlow, and what models set."""
LARGEST_EPSILON = 0.1

_TOLERANCE = 3e-3
"""Relative error of a row's factor that float16 rounding of its elements allows."""
_NOISY = 3
_SHARE = 0.9
"""Share of the rows that a norm has to explain."""
_CERTAIN = 0.98


@dataclass(frozen=True, eq=False)
class Norm:
    """The values of a batch norm of the reference."""

    folded: FoldedNorm
    weight: Array
    """float64[channels]; so the next three."""
    bias: Array
    mean: Array
    variance: Array

    def factors(self, epsilon: float) -> Array:
        """s of every channel."""
        return np.asarray(self.weight / np.sqrt(self.variance + epsilon))

    def shift(self, epsilon: float) -> Array:
        """What is added to every channel after s."""
        return np.asarray(self.bias - self.mean * self.factors(epsilon))

    def explaining(self, factors: Array, *, noise: float) -> FoldedNorm | None:
        """The norm with its epsilon, if these are its factors, up to a relative noise."""
        seen = (np.abs(factors) > 0) & (self.weight != 0)
        if not seen.any():
            return None
        free = float(np.median((self.weight[seen] / factors[seen]) ** 2 - self.variance[seen]))
        errors = {
            epsilon: np.abs(factors / self.factors(epsilon) - 1)[seen]
            for epsilon in (*EPSILONS, free)
            if 0 < epsilon <= LARGEST_EPSILON
        }
        epsilon = _simplest({e: float(np.minimum(error, 1).mean()) for e, error in errors.items()})
        share = (errors[epsilon] <= max(_TOLERANCE, _NOISY * noise)).mean()
        return replace(self.folded, epsilon=epsilon) if share >= _SHARE else None


def _simplest(errors: dict[float, float]) -> float:
    """The first of `EPSILONS` that is nearly as good as the best of them, unless the free one is much better."""
    usual = {epsilon: error for epsilon, error in errors.items() if epsilon in EPSILONS}
    least = min(usual.values())
    if min(errors.values()) < least / 2:
        return min(errors, key=lambda epsilon: errors[epsilon])
    return next(epsilon for epsilon, error in usual.items() if error <= 1.5 * least)


def norms_of(reference: Side) -> list[Norm]:
    """The batch norms of the reference, known by their statistics."""
    found = []
    for group in reference.groups:
        mean, variance = (reference.vectors.get(group.get(role, "")) for role in ("running_mean", "running_var"))
        if mean is None or variance is None:
            continue
        values = {role: reference.vectors.get(group.get(role, "")) for role in ("weight", "bias")}
        given = {role: rows.weight for role, rows in values.items() if rows is not None}
        ones, zeros = np.ones(len(mean)), np.zeros(len(mean))
        found.append(
            Norm(
                FoldedNorm(mean.weight, variance.weight, given.get("weight", ""), given.get("bias", "")),
                ones if values["weight"] is None else values["weight"].numbers[:, 0],
                zeros if values["bias"] is None else values["bias"].numbers[:, 0],
                mean.numbers[:, 0],
                variance.numbers[:, 0],
            )
        )
    return found


def derived(norms: Iterable[Norm]) -> Iterator[Hypothesis]:
    """The constants into which a norm is turned where it becomes a product and a sum."""
    for norm in norms:
        name = norm.folded.weight or norm.folded.running_var
        for epsilon in EPSILONS:
            folded = replace(norm.folded, epsilon=epsilon)
            note = f"a batch norm as a product and a sum, epsilon {epsilon:g}"
            yield Hypothesis(vector(name, norm.factors(epsilon)), norm=folded, note=note)
            shift = norm.folded.bias or norm.folded.running_mean
            yield Hypothesis(vector(shift, norm.shift(epsilon)), norm=folded, note=note)


def explained(
    match: WeightMatch, norms: Iterable[Norm], rows: Rows, candidate: Rows
) -> tuple[WeightMatch, Norm] | None:
    """A match with factors for its rows, with the norm that these are; None if there is none.

    Args:
        match: the match.
        norms: those of the reference.
        rows: the reference's table along the axis of the match.
        candidate: the candidate's.
    """
    factors = row_factors(rows, candidate)
    for norm in norms:
        if len(norm.mean) == len(factors) and (folded := norm.explaining(factors, noise=match.error)):
            words = f"{match.evidence}; the factors are those of the batch norm of '{folded.running_var}'"
            folded = replace(folded, is_before=match.reference_axis > 0)
            known = replace(match, norm=folded, evidence=words, confidence=max(match.confidence, _CERTAIN))
            return known, norm
    return None


def folded_bias(match: WeightMatch, norm: Norm, reference: Side, candidate: Side) -> WeightMatch | None:
    """The constant that is the bias beside a folded weight; None if there is none of its values.

    Args:
        match: that of the weight, with the norm.
        norm: the norm's values.
        reference: the side that the norm is of.
        candidate: the side whose op adds the bias.
    """
    own = [reference.vectors[n] for n in reference.partners(match.reference) if n in reference.vectors]
    for name in candidate.partners(match.candidate):
        given = candidate.vectors.get(name)
        if given is None:
            continue
        for bias in [*(rows for rows in own if len(rows) == len(given)), None]:
            expected = _expected_bias(match, norm, bias, reference, len(given))
            if expected is None:
                continue
            found = vector_agreement(expected, given.numbers[:, 0])
            close = np.abs(given.numbers[:, 0] - expected) <= _TOLERANCE * max(np.abs(expected).max(), 1e-9)
            if found.error < _TOLERANCE or close.mean() >= _SHARE:
                assert match.norm is not None
                source = bias.weight if bias is not None else match.norm.bias or match.norm.running_mean
                words = f"the bias that follows from the batch norm, relative L2 error {found.error:.2g}"
                return WeightMatch(source, name, found.error, _CERTAIN, words, norm=match.norm)
    return None


def _expected_bias(match: WeightMatch, norm: Norm, bias: Rows | None, reference: Side, count: int) -> Array | None:
    """float64[count]: the bias after folding; None if the weight it needs cannot be read."""
    assert match.norm is not None
    own = np.zeros(count) if bias is None else bias.numbers[:, 0]
    epsilon = match.norm.epsilon
    if match.reference_axis == 0:
        return own * norm.factors(epsilon) + norm.shift(epsilon) if len(norm.mean) == count else None
    read = reference.outline.weights[match.reference].read
    if read is None:
        return None
    weight = np.asarray(read(), np.float64)
    # [inputs, outputs · kernel] → what the shift of every input adds to every output, without padding
    sums = rows_of(weight, match.reference_axis).reshape(len(norm.mean), weight.shape[0], -1).sum(axis=2)
    return own + norm.shift(epsilon) @ sums if sums.shape[1] == count else None
