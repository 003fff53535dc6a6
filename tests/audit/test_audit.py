"""Damage done on purpose to weights is found and named; what storage costs is not called damage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from layerdiff.align.weights import match_weights
from layerdiff.audit import Audit, WeightAudit, audit
from layerdiff.outline import Node, Outline, Weight

Array = Any


def random(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def outline(
    weights: Mapping[str, Array],
    ops: Mapping[str, tuple[str, str, Mapping[str, str]]] | None = None,
    compression: Mapping[str, tuple[str, str]] | None = None,
) -> Outline:
    """Weights; ops as name → (kind, type, role → weight); compressed ones as name → (compression, dtype)."""
    stored = compression or {}
    held = {
        name: Weight(
            name,
            stored[name][1] if name in stored else str(value.dtype),
            value.shape,
            read=lambda value=value: value,
            compression=stored[name][0] if name in stored else "",
        )
        for name, value in weights.items()
    }
    nodes = [Node(name, op, kind, weights=roles) for name, (kind, op, roles) in (ops or {}).items()]
    return Outline("test", (), tuple(nodes), (), held)


REFERENCE = {
    "a.weight": random(24, 24, seed=1),
    "a.bias": random(24, seed=2),
    "b.weight": random(32, 24, seed=3),
    "b.bias": random(32, seed=4),
    "c.weight": random(24, 32, seed=5),
    "c.bias": random(24, seed=6),
}


def linear_ops(names: Mapping[str, str]) -> dict[str, tuple[str, str, Mapping[str, str]]]:
    """One `linear` per layer, given the constant that holds each weight."""
    return {
        f"op_{layer}": ("linear", "linear", {role: names[f"{layer}.{role}"] for role in ("weight", "bias")})
        for layer in "abc"
    }


def audited(changes: Mapping[str, Array], dtype: Any = np.float16) -> Audit:
    """The reference against its own values in another dtype, of which some are replaced."""
    names = {name: f"k{i}" for i, name in enumerate(REFERENCE)}
    constants = {names[name]: changes.get(name, value).astype(dtype) for name, value in REFERENCE.items()}
    reference, candidate = outline(REFERENCE), outline(constants, linear_ops(names))
    return audit(reference, candidate, match_weights(reference, candidate))


def entry(found: Audit, name: str) -> WeightAudit:
    return next(weight for weight in found.weights if weight.name == name)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_unchanged_weights_match(dtype: Any) -> None:
    found = audited({}, dtype)
    assert found.counts == {"matched": 6}
    assert found.exit_code == 0
    assert found.extra == ()
    for weight in found.weights:
        assert weight.difference is not None
        assert weight.difference.relative_l2_error <= weight.difference.allowed_error
        assert weight.stored == np.dtype(dtype).name


def test_the_numbers_are_those_of_the_formulas() -> None:
    found = entry(audited({}), "b.weight").difference
    assert found is not None
    exact = REFERENCE["b.weight"].astype(np.float64)
    stored = exact.astype(np.float16).astype(np.float64)
    error = np.linalg.norm(stored - exact) / np.linalg.norm(exact)
    assert found.relative_l2_error == pytest.approx(error, rel=1e-9)
    assert found.snr_db == pytest.approx(-20 * np.log10(error), rel=1e-9)
    assert found.effective_bits == pytest.approx((found.snr_db - 1.76) / 6.02)
    assert found.scale == pytest.approx(1, abs=1e-4)


def rows(value: Array, index: Any, change: Callable[[Array], Array]) -> Array:
    changed = value.copy()
    changed[index] = change(changed[index])
    return changed


W = REFERENCE["b.weight"]
DAMAGE: dict[str, tuple[Array, int, tuple[int, ...], str]] = {
    "a zeroed row": (rows(W, 5, lambda r: 0 * r), 1, (5,), "they are zero"),
    "a scaled row": (rows(W, 7, lambda r: 1.5 * r), 1, (7,), "they are multiplied by 1.5"),
    "a slightly scaled row": (rows(W, 7, lambda r: 1.01 * r), 1, (7,), "they are multiplied by 1.01"),
    "a negated row": (rows(W, 9, lambda r: -r), 1, (9,), "they are negated"),
    "a row of other values": (rows(W, 3, lambda r: random(24, seed=50)), 1, (3,), "they have other values"),
    "one other element": (rows(W, (4, 11), lambda r: r + 0.1), 1, (4,), "they have other values"),
    "two swapped rows": (rows(W, [2, 8], lambda r: r[::-1]), 2, (2, 8), "rows changed places: 2 holds row 8, 8 holds row 2"),  # noqa: E501
    "all scaled": (3 * W, 32, tuple(range(20)), "all values are multiplied by 3"),
    "all negated": (-W, 32, tuple(range(20)), "all values are negated"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(name: str) -> None:
    changed, count, first, pattern = DAMAGE[name]
    found = audited({"b.weight": changed})
    assert found.exit_code == 1
    assert found.counts == {"changed": 1, "matched": 5}
    weight = entry(found, "b.weight")
    assert weight.difference is not None
    assert (weight.difference.changed_rows, weight.difference.first_changed) == (count, first)
    assert weight.difference.pattern == pattern
    assert pattern in weight.reason


@pytest.mark.filterwarnings("ignore:overflow")
def test_values_that_float16_does_not_hold_are_named() -> None:
    reference = outline({**REFERENCE, "big.weight": 1e6 * random(6, 5, seed=1)})
    constants = {f"k{i}": w.read().astype(np.float16) for i, w in enumerate(reference.weights.values()) if w.read}
    candidate = outline(constants)
    weight = entry(audit(reference, candidate, match_weights(reference, candidate)), "big.weight")
    assert (weight.verdict, weight.reason) == (
        "missing",
        "no constant holds it; 'k6' has its shape and infinite or NaN values",
    )


def test_permuted_channels_are_a_fault_and_gates_are_not() -> None:
    order = np.random.default_rng(0).permutation(32)
    weight = entry(audited({"b.weight": W[order]}), "b.weight")
    assert (weight.verdict, weight.transform) == ("changed", "rows permuted")
    assert "which no converter does" in weight.reason
    gates = W.reshape(4, 8, 24)[[0, 1, 3, 2]].reshape(32, 24)
    assert entry(audited({"b.weight": gates}), "b.weight").verdict == "changed"  # of a linear op there are no gates
    reference = outline({"rnn.weight_ih_l0": W})
    candidate = outline({"k": gates}, {"op": ("lstm", "lstm", {"weight_ih": "k"})})
    assert audit(reference, candidate, match_weights(reference, candidate)).exit_code == 0


def test_a_square_matrix_must_not_be_transposed_where_others_are_not() -> None:
    weight = entry(audited({"a.weight": REFERENCE["a.weight"].T}), "a.weight")
    assert (weight.verdict, weight.transform) == ("changed", "transposed")


def test_rows_with_factors_that_no_norm_explains_are_changed() -> None:
    weight = entry(audited({"b.weight": W * np.linspace(0.5, 2, 32)[:, None]}), "b.weight")
    assert weight.verdict == "changed"
    assert "factor of its own" in weight.reason


def test_another_bias_beside_the_right_weight_is_changed() -> None:
    weight = entry(audited({"b.bias": random(32, seed=60)}), "b.bias")
    assert (weight.verdict, weight.reason) == ("changed", "all values have other values")


def test_a_missing_weight_and_an_extra_one() -> None:
    names = {name: name[0] + name[2] for name in REFERENCE}
    constants = {names[name]: value for name, value in REFERENCE.items() if not name.startswith("b")}
    constants |= {"bw": random(32, 24, seed=70), "zero": np.zeros(9, np.float32)}
    candidate = outline(constants, {"other": ("linear", "linear", {"weight": "bw", "bias": "zero"})})
    reference = outline(REFERENCE)
    found = audit(reference, candidate, match_weights(reference, candidate))
    assert found.exit_code == 1
    assert entry(found, "b.weight").verdict == "missing"
    assert entry(found, "b.weight").reason == "no constant holds it; 'bw' has its shape and other values"
    assert {extra.name: extra.note for extra in found.extra} == {"bw": "", "zero": "zeros"}


def test_parts_of_the_model_that_the_candidate_is_not_are_told_apart() -> None:
    whole = {f"model.{part}.layers.{name}": value for part in ("joint",) for name, value in REFERENCE.items()}
    whole |= {f"model.encoder.layers.{i}.weight": random(8, 8, seed=80 + i) for i in range(3)}
    whole |= {
        "model.joint.norm.num_batches_tracked": np.int64([3]),
        "model.joint.layers.d.weight": random(5, 7, seed=9),
    }
    names = {name: f"k{name}" for name in REFERENCE}
    candidate = outline({names[n]: v.astype(np.float16) for n, v in REFERENCE.items()}, linear_ops(names))
    found = audit(outline(whole), candidate, match_weights(outline(whole), candidate))
    assert found.counts == {"missing": 1, "matched": 6, "elsewhere": 3, "not needed": 1}
    assert entry(found, "model.encoder.layers.0.weight").reason == "the candidate holds nothing of 'encoder'"


def test_nothing_in_common_is_no_pass() -> None:
    candidate = outline({"k": random(6, 7, seed=1)})
    reference = outline(REFERENCE)
    assert audit(reference, candidate, match_weights(reference, candidate)).exit_code == 1


# ------------------------------------------------------------------ what storage costs


def quantized(values: Array, bits: int, step: Array) -> Array:
    limit = 2 ** (bits - 1) - 1
    return (np.clip(np.round(values / step), -limit, limit) * step).astype(np.float32)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("per_row", [True, False])
def test_few_bits_are_no_damage_and_hide_none(bits: int, per_row: bool) -> None:
    weight = random(48, 64, seed=1)
    size = np.abs(weight).max(axis=1, keepdims=True) if per_row else np.abs(weight).max()
    stored = quantized(weight, bits, size / (2 ** (bits - 1) - 1))
    reference = outline({"w": weight})

    def result(values: Array) -> WeightAudit:
        candidate = outline({"k": values}, compression={"k": ("affine", f"int{bits}")})
        return audit(reference, candidate, match_weights(reference, candidate)).weights[0]

    assert result(stored).verdict == "matched"
    assert result(stored).stored == f"affine, {bits} bits"
    damaged = stored.copy()
    damaged[10] = 0
    found = result(damaged)
    assert (found.verdict, found.reason) == ("changed", "1 of 48 rows differ (10): they are zero")


def test_more_error_than_the_width_must_cost_is_unknown() -> None:
    weight = random(48, 64, seed=1)
    coarse = quantized(weight, 4, np.abs(weight).max() / 7)
    reference, candidate = outline({"w": weight}), outline({"k": coarse}, compression={"k": ("affine", "int8")})
    found = audit(reference, candidate, match_weights(reference, candidate))
    assert found.weights[0].verdict in ("unknown", "matched")
    noisy = weight + 0.08 * random(48, 64, seed=2)
    candidate = outline({"k": noisy}, compression={"k": ("affine", "int8")})
    found = audit(reference, candidate, match_weights(reference, candidate))
    assert (found.weights[0].verdict, found.exit_code) == ("unknown", 3)


def test_pruning_drops_the_smallest_and_nothing_else() -> None:
    weight = random(48, 64, seed=1)
    kept = np.where(np.abs(weight) < np.quantile(np.abs(weight), 0.5), 0, weight).astype(np.float16)
    reference = outline({"w": weight})
    candidate = outline({"k": kept}, compression={"k": ("pruned", "float16")})
    assert audit(reference, candidate, match_weights(reference, candidate)).counts == {"matched": 1}
    kept[7] = 0
    candidate = outline({"k": kept}, compression={"k": ("pruned", "float16")})
    found = audit(reference, candidate, match_weights(reference, candidate)).weights[0]
    assert found.verdict == "changed"
    assert found.difference is not None
    assert found.difference.first_changed == (7,)


def test_float32_is_exact_or_float16_throughout() -> None:
    assert entry(audited({"b.weight": W.astype(np.float16)}, np.float32), "b.weight").stored == (
        "float32, rounded to float16"
    )
    assert entry(audited({"b.weight": W * (1 + 1e-5)}, np.float32), "b.weight").verdict == "changed"
