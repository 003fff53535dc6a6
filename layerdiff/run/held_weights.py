"""What the op of a stage should hold and what the candidate's op holds, in the layout of the reference's weights.

Pairs are made by what the weights are for, not by their values, so damaged ones are found too. A batch norm that was
folded into the convolution before it is taken out again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from layerdiff.align.graph import Graph
from layerdiff.align.names import match_names
from layerdiff.align.weight_norms import EPSILONS
from layerdiff.audit.storage import as_float16

if TYPE_CHECKING:
    from layerdiff.outline import Node, Outline
    from layerdiff.records import Array

GATES = np.array([0, 1, 3, 2])
"""Order of torch's gates of an LSTM (input, forget, cell, output) in that of MIL (input, forget, output, cell)."""


COMPUTED, STORED = 1e-5, 2.0**-10
"""Relative error up to which a value with a norm in it counts as equal: the converter computed it in float32, and may
have stored it in float16."""


@dataclass(frozen=True, eq=False)
class HeldWeight:
    """One weight on both sides."""

    role: str
    """`weight`, `bias`, `weight_ih`, …"""
    expected: Array
    """float64; the reference's."""
    held: Array
    """float64; the candidate's, in the same layout."""
    constant: str
    """The candidate's constant."""
    is_transposed: bool = False
    gates: bool = False
    shape: tuple[int, ...] = ()
    """The shape of the constant."""
    norm: tuple[Array, Array] | None = None
    """Of a weight with a norm folded into it what the constant is multiplied by and moved by, row by row."""

    def as_constant(self, value: Array) -> Array:
        """A value in the layout of the candidate's constant."""
        value = _gates_moved(value) if self.gates else value  # exchanging two gates undoes itself
        if self.norm is not None:
            value = value * self.norm[0] + self.norm[1]
        return np.ascontiguousarray((value.T if self.is_transposed else value).reshape(self.shape))


def held_weights(reference: Outline, candidate: Outline, node: Node, other: Node) -> list[HeldWeight]:
    """The weights of one op that both sides have.

    Args:
        reference: the model that counts as right.
        candidate: the other one.
        node: an op of the reference.
        other: the candidate's op with the same result.
    """
    if node.kind == other.kind == "lstm":
        return _of_lstm(_read(reference, node), candidate, other)
    expected = _expected(reference, node, other)
    known = {role: candidate.weights[name] for role, name in other.weights.items() if name in candidate.weights}
    pairs: list[HeldWeight] = []
    for role, weight in known.items():
        if role in expected and weight.read is not None:
            pairs += _paired(role, expected[role], np.asarray(weight.read(), np.float64), weight.name)
    return _without_norm(pairs, reference, node, other)


def held_between(reference: Outline, candidate: Outline, result: str, before: Collection[str]) -> list[HeldWeight]:
    """The weights of the ops between some of the candidate's tensors and another one, as far as names tell them.

    Args:
        reference: the model that counts as right.
        candidate: the other one.
        result: a tensor of the candidate.
        before: those at which the way back ends.
    """
    graph = Graph(candidate)
    pending, seen = [graph.root(result)], {graph.root(name) for name in before}
    constants: dict[str, None] = {}
    while pending:
        node = candidate.by_name.get(pending.pop())
        if node is not None and node.name not in seen:
            seen.add(node.name)
            constants |= dict.fromkeys(node.weights.values())
            pending += [graph.root(name) for name in node.inputs]
    pairs: list[HeldWeight] = []
    named = match_names(reference.weights, candidate.weights)
    for name in (name for name in constants if name in named):
        expected, held = reference.weights[named[name]].read, candidate.weights[name].read
        if expected is not None and held is not None:
            sides = np.asarray(expected(), np.float64), np.asarray(held(), np.float64)
            pairs += _paired(named[name], *sides, name)
    return pairs


def _paired(role: str, expected: Array, held: Array, constant: str) -> Iterator[HeldWeight]:
    """The pair, if the two have the same values in some layout."""
    shape = held.shape
    if _long(shape) == _long(expected.shape):
        straight = held.reshape(expected.shape)
        crosswise = held.reshape(expected.shape).T if expected.ndim == 2 and shape[0] == shape[-1] else None
        turned = crosswise is not None and _error(crosswise, expected) < _error(straight, expected)
        yield HeldWeight(role, expected, crosswise if turned else straight, constant, bool(turned), shape=shape)  # type: ignore[arg-type]
    elif expected.ndim == 2 and _long(shape) == _long(expected.shape[::-1]):
        yield HeldWeight(
            role, expected, held.reshape(expected.shape[::-1]).T, constant, is_transposed=True, shape=shape
        )


def _of_lstm(own: Mapping[str, Array], candidate: Outline, last: Node) -> list[HeldWeight]:
    """The weights of all layers: torch has them in one op, MIL an op for each, chained; biases are summed."""
    chain: list[Node] = []
    node: Node | None = last
    while node is not None and node.kind == "lstm":
        chain.insert(0, node)
        node = candidate.by_name.get(Graph(candidate).root(node.inputs[0])) if node.inputs else None
    if f"weight_ih_l{len(chain) - 1}" not in own or f"weight_ih_l{len(chain)}" in own or "weight_ih_l0_reverse" in own:
        return []
    pairs: list[HeldWeight] = []
    for layer, op in enumerate(chain):
        expected = {role: own[f"{role}_l{layer}"] for role in ("weight_ih", "weight_hh")}
        expected["bias"] = own.get(f"bias_ih_l{layer}", np.zeros(1)) + own.get(f"bias_hh_l{layer}", np.zeros(1))
        for role, value in expected.items():
            weight = candidate.weights.get(op.weights.get(role, ""))
            if weight is not None and weight.read is not None and tuple(weight.shape) == value.shape:
                held = _gates_moved(np.asarray(weight.read(), np.float64))
                name = f"{role}_l{layer}"
                pairs.append(HeldWeight(name, value, held, weight.name, gates=True, shape=value.shape))
    return pairs


def _error(value: Array, expected: Array) -> float:
    return float(np.linalg.norm(value - expected))


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _gates_moved(value: Array) -> Array:
    """The rows of four gates in the other order."""
    return np.asarray(value.reshape(4, -1, *value.shape[1:])[GATES].reshape(value.shape))


def _read(outline: Outline, node: Node) -> dict[str, Array]:
    """Role → float64 values."""
    known = {role: outline.weights.get(name) for role, name in node.weights.items()}
    return {role: np.asarray(w.read(), np.float64) for role, w in known.items() if w is not None and w.read is not None}


def _expected(reference: Outline, node: Node, other: Node) -> Mapping[str, Array]:
    """What the candidate's op should hold, by its roles."""
    own = _read(reference, node)
    if node.kind == other.kind:
        return own
    if node.kind == "batch_norm" and other.kind == "conv":
        return _folded(reference, node, EPSILONS[0])
    return {}


def _folded(reference: Outline, norm: Node, epsilon: float) -> Mapping[str, Array]:
    """Weight and bias of the convolution before a norm, with the norm in it."""
    inner = _inner(reference, norm)
    if "weight" not in inner:
        return {}
    folds = {role: _fold(reference, norm, epsilon, role, value.ndim) for role, value in inner.items()}
    return {role: value * folds[role][0] + folds[role][1] for role, value in inner.items()}


def _inner(reference: Outline, norm: Node) -> Mapping[str, Array]:
    """Weight and bias of the convolution before a norm; nothing if there is none, or the norm keeps no statistics."""
    before = reference.by_name.get(norm.inputs[0]) if norm.inputs else None
    own = _read(reference, norm)
    if before is None or before.kind != "conv" or not {"running_mean", "running_var"} <= own.keys():
        return {}
    return {"bias": np.zeros(len(own["running_var"])), **_read(reference, before)}


def _fold(reference: Outline, norm: Node, epsilon: float, role: str, rank: int) -> tuple[Array, Array]:
    """What a norm multiplies a weight or bias of so many axes by, and what it adds, row by row."""
    own = _read(reference, norm)
    factors = np.asarray(own.get("weight", np.ones(1)) / np.sqrt(own["running_var"] + epsilon))
    factors = np.where(np.abs(factors) < np.finfo(np.float32).tiny, 1.0, factors)
    shift = own.get("bias", np.zeros(1)) - own["running_mean"] * factors if role == "bias" else np.zeros(1)
    return factors.reshape(-1, *[1] * (rank - 1)), np.asarray(shift)


def _without_norm(pairs: list[HeldWeight], reference: Outline, norm: Node, other: Node) -> list[HeldWeight]:
    """The pairs with the norm taken out of both sides, so that they are weights of the convolution alone again.

    No outline says what the norm's epsilon is: it is the usual one, unless far more values agree under another.
    """
    if norm.kind != "batch_norm" or other.kind != "conv" or not pairs:
        return pairs

    def typical_error(epsilon: float) -> float:
        folded = _folded(reference, norm, epsilon)
        relative = [np.abs(p.held - folded[p.role]) / (np.abs(folded[p.role]) + 1e-12) for p in pairs]
        return float(np.median(np.concatenate([error.ravel() for error in relative])))

    errors = {epsilon: typical_error(epsilon) for epsilon in EPSILONS}
    best, usual = min(errors, key=lambda epsilon: errors[epsilon]), EPSILONS[0]
    epsilon = best if errors[best] < 0.1 * errors[usual] else usual
    inner = _inner(reference, norm)
    return [
        _unfolded(pair, inner[pair.role], _fold(reference, norm, epsilon, pair.role, pair.expected.ndim))
        for pair in pairs
    ]


def _unfolded(pair: HeldWeight, expected: Array, fold: tuple[Array, Array]) -> HeldWeight:
    """A pair without the norm; where both sides agree with it they are the same, as small differences of large numbers
    say nothing."""
    scale, shift = fold
    folded = expected * scale + shift
    is_float16 = np.array_equal(as_float16(pair.held), pair.held)
    agrees = np.abs(pair.held - folded) <= (STORED if is_float16 else COMPUTED) * np.abs(folded)
    held = np.where(agrees, expected, (pair.held - shift) / scale)
    return replace(pair, expected=expected, held=held, norm=fold)
