"""The wrong function: a softmax too many, an activation left out or exchanged, another epsilon, other weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.diagnose.evidence import Evidence, channel_numbers, channels_of, finding, removed, rows_of
from layerdiff.diagnose.moving import PERMUTATION_ADVICE, order_of
from layerdiff.records import Finding

if TYPE_CHECKING:
    from layerdiff.records import Array

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


ACTIVATIONS: Mapping[str, Callable[[Array], Any]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / np.sqrt(2))),
    "gelu (tanh)": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu (sigmoid)": lambda x: x * _sigmoid(1.702 * x),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(0, x),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "exp": np.exp,
}
"""Name → function, elementwise."""


def softmax_baked(evidence: Evidence) -> Finding | None:
    """One side is the softmax of the other, along the last axis."""
    if not evidence.can_be_subtracted or evidence.reference.shape[-1] < 2:
        return None
    reference, candidate = rows_of(evidence.reference), rows_of(evidence.candidate)
    for side, raw, other in (("candidate", reference, candidate), ("reference", candidate, reference)):
        powers = np.exp(raw - raw.max(axis=-1, keepdims=True))
        remainder = other - powers / powers.sum(axis=-1, keepdims=True)
        share = min(removed(candidate - reference, remainder), removed(other, remainder))  # the sides differ in size
        found = finding(
            evidence,
            "softmax_baked",
            share,
            f"the softmax over all {raw.shape[-1]} outputs is baked into the {side}",
            f"take the softmax out of the {side}, or compare the tensor before it",
            side=side,
        )
        if found:
            return found
    return None


def activation(evidence: Evidence) -> Finding | None:
    """candidate = another function of the op's operand; `activation_missing` if it is the operand itself."""
    if not evidence.can_be_subtracted:
        return None
    for operand in evidence.operands:
        if operand.shape == evidence.reference.shape:
            found = _exchanged(evidence, operand, evidence.reference, lambda values: values)
            if found:
                return found
    return None


def activation_before(evidence: Evidence) -> Finding | None:
    """The same of a function between the last stage and this op, which has no stage of its own."""
    if not evidence.can_be_subtracted:
        return None
    for operand, after in _readings(evidence):
        for source in evidence.sources:
            if source.shape == operand.shape:
                found = _exchanged(evidence, source, operand, after)
                if found:
                    return found
    return None


def _readings(evidence: Evidence) -> Iterator[tuple[Array, Callable[[Array], Array]]]:
    """The op's operands, each with what the op makes of another value in its place; of ops that are told so easily."""
    weight, operands = evidence.weights.get("weight"), evidence.operands
    bias = evidence.weights.get("bias", np.zeros(1))
    if evidence.kind == "linear" and weight is not None and weight.ndim == 2 and operands:
        if operands[0].shape[-1] == weight.shape[1]:
            yield operands[0], lambda values: values @ weight.T.astype(np.float64) + bias
    elif evidence.kind == "conv" and weight is not None and operands:
        shape = (-1, *[1] * (operands[0].ndim - 2))
        if weight.shape[1] == operands[0].shape[1] and all(length == 1 for length in weight.shape[2:]):
            mixed = weight.reshape(len(weight), -1).astype(np.float64)
            yield operands[0], lambda values: np.einsum("oc,nc...->no...", mixed, values) + bias.reshape(shape)
    elif evidence.kind in ("mul", "add") and len(operands) == 2:
        combine = np.multiply if evidence.kind == "mul" else np.add
        for one, other in (operands, operands[::-1]):
            yield one, partial(combine, other.astype(np.float64))


def _exchanged(evidence: Evidence, operand: Array, expected: Array, after: Callable[[Array], Array]) -> Finding | None:
    """The function of `operand` that gives the reference's `expected`, and the one that gives the candidate."""
    if not np.isfinite(operand).all():
        return None
    with np.errstate(over="ignore"):
        results = {name: np.asarray(function(operand.astype(np.float64))) for name, function in ACTIVATIONS.items()}
    ours = _nearest(results, expected.astype(np.float64))
    if np.linalg.norm(results[ours] - expected) > 1e-3 * np.linalg.norm(expected):
        return None
    reference, candidate = evidence.reference.astype(np.float64), evidence.candidate.astype(np.float64)
    outcomes = {name: after(values) for name, values in results.items()}
    theirs = _nearest(outcomes, candidate)
    missing = theirs == "identity"
    return finding(
        evidence,
        "activation_missing" if missing else "activation_changed",
        removed(candidate - reference, candidate - outcomes[theirs]),
        f"the {ours} is left out" if missing else f"the candidate computes {theirs}, the reference {ours}",
        f"apply {ours} to this tensor before the conversion",
        reference_function=ours,
        candidate_function=theirs,
    )


def _nearest(results: Mapping[str, Array], wanted: Array) -> str:
    return min(results, key=lambda name: float(np.linalg.norm(results[name] - wanted)))


def epsilon_changed(evidence: Evidence) -> Finding | None:
    """Each row of a layer norm is scaled by √((variance + ours) / (variance + theirs)), with one `theirs` for all."""
    if evidence.kind != "layer_norm" or not evidence.operands or not evidence.can_be_subtracted:
        return None
    operand = rows_of(evidence.operands[0])
    if evidence.operands[0].shape != evidence.reference.shape:
        return None
    bias = evidence.weights.get("bias", np.zeros(1))
    reference, candidate = rows_of(evidence.reference) - bias, rows_of(evidence.candidate) - bias
    variance, gain = operand.var(axis=1), evidence.weights.get("weight", np.ones(1))
    centred = (operand - operand.mean(axis=1, keepdims=True)) * gain
    sums = np.square(centred).sum(axis=1)
    ours, theirs = (sums / np.maximum((centred * side).sum(axis=1), 1e-300) for side in (reference, candidate))
    epsilons = [float(np.median(deviation**2 - variance)) for deviation in (ours, theirs)]
    expected = centred / np.sqrt(np.maximum(variance + epsilons[1], 1e-300))[:, None]
    return finding(
        evidence,
        "epsilon_changed",
        removed(candidate - reference, candidate - expected, parameters=1),
        f"the norm's epsilon is {epsilons[1]:.3g} instead of {epsilons[0]:.3g}",
        "give the converted norm the module's `eps`; 1e-12 is 0 in float16",
        reference_epsilon=epsilons[0],
        candidate_epsilon=epsilons[1],
    )


def weight_changed(evidence: Evidence) -> Finding | None:
    """candidate = reference + x · ΔWᵀ + Δb, with what fits best; only of a linear op, with rows to spare.

    `weight_missing` if the rows at fault are zero, `channel_permutation` if they are the reference's in another order.
    """
    if evidence.kind != "linear" or not evidence.operands or not evidence.can_be_subtracted:
        return None
    operand = rows_of(evidence.operands[0])
    reference, candidate = (channels_of(side, -1) for side in (evidence.reference, evidence.candidate))
    count, width = operand.shape
    if len(reference) != count or count < 2 * (width + 1):
        return None
    error = candidate - reference
    solved, *_ = np.linalg.lstsq(np.hstack([operand, np.ones((count, 1))]), error, rcond=None)
    fitted = np.hstack([operand, np.ones((count, 1))]) @ solved
    change = solved[:-1].T
    size = np.linalg.norm(change, axis=1)
    rows = np.flatnonzero(size > 1e-3 * size.max())
    weight = evidence.weights.get("weight")
    weight = weight if weight is not None and weight.shape == change.shape else None
    cause, said, advice = _of_rows(weight, change, rows)
    return finding(
        evidence,
        cause,
        removed(error, error - fitted, parameters=(width + 1) * error.shape[1]),
        f"{len(rows)} of {error.shape[1]} rows of the weight {said}",
        advice,
        rows=channel_numbers(evidence, rows),
        relative_change=None if weight is None else float(np.linalg.norm(change) / np.linalg.norm(weight)),
    )


def _of_rows(weight: Array | None, change: Array, rows: Array) -> tuple[str, str, str]:
    """The cause, what the rows at fault are, and the advice."""
    if weight is not None and np.linalg.norm((change + weight)[rows]) < LOST * np.linalg.norm(weight[rows]):
        return "weight_missing", "are zero", WEIGHT_ADVICE
    order = None if weight is None else order_of(weight.astype(np.float64), weight + change)
    if weight is not None and order is not None:
        left = np.linalg.norm(weight + change - weight[order])
        if left < LOST * np.linalg.norm(change):
            return "channel_permutation", "stand in the place of other ones", PERMUTATION_ADVICE
    return "weight_changed", "are other ones", WEIGHT_ADVICE


LOST = 0.01
"""What may be left of a row that is said to be zero, or another one, as a share of it."""
WEIGHT_ADVICE = "compare this op's weight with the checkpoint (`layerdiff inspect … --weights`)"
