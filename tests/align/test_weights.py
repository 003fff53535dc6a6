"""What converters do to weights, done to random and to trained ones, and what must not be taken for it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import layerdiff
from layerdiff.align.weights import WeightMatch, candidate_rows, match_weights, reference_rows
from layerdiff.outline import Node, Outline, Weight

Array = Any


def outline(weights: Mapping[str, Array], nodes: Mapping[str, Mapping[str, str]] | None = None) -> Outline:
    """Weights, and optionally ops that hold them: name → role → weight."""
    held = {name: Weight(name, str(v.dtype), v.shape, read=lambda v=v: v) for name, v in weights.items()}
    ops = tuple(Node(name, "op", "linear", weights=roles) for name, roles in (nodes or {}).items())
    return Outline("test", (), ops, (), held)


def random(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def trained() -> dict[str, Array]:
    """The weights of the bundled speech model."""
    with tarfile.open(Path(layerdiff.__file__).parent / "assets" / "parakeet-tdt-mini.nemo") as archive:
        member = next(m for m in archive if m.name.endswith(".ckpt"))
        data = archive.extractfile(member)
        assert data is not None
        state = torch.load(io.BytesIO(data.read()), weights_only=True)
    return {name: value.numpy() for name, value in state.items()}


def scrambled(weights: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, str]]:
    """The same in another order under meaningless names, and which is which."""
    names = list(weights)
    np.random.default_rng(0).shuffle(names)
    return {f"c{i}": weights[name] for i, name in enumerate(names)}, {f"c{i}": n for i, n in enumerate(names)}


def is_searched(value: Array) -> bool:
    return bool(value.size > 1)


def assert_all_found(weights: Mapping[str, Array], changed: Mapping[str, Array], *, confidence: float) -> None:
    """Every constant is matched with its weight and with no other."""
    constants, truth = scrambled(changed)
    matches = match_weights(outline(weights), outline(constants))
    found = {match.candidate: match for match in matches}
    wrong = {truth[c]: found[c].reference for c in found if found[c].reference != truth[c]}
    assert not wrong
    assert {truth[c] for c in found} == {name for name, value in changed.items() if is_searched(value)}
    low = {truth[c]: match.confidence for c, match in found.items() if match.confidence < confidence}
    assert not low


# ------------------------------------------------------------------ trained weights


def test_trained_weights_are_found_under_meaningless_names(trained: dict[str, Array]) -> None:
    assert_all_found(trained, trained, confidence=0.99)


def test_trained_weights_are_found_in_float16(trained: dict[str, Array]) -> None:
    halves = {name: value.astype(np.float16) for name, value in trained.items()}
    assert_all_found(trained, halves, confidence=0.99)


def quantized(values: Array, bits: int) -> Array:
    """Symmetric linear quantisation, one scale for the whole; small weights stay float16, as in coremltools."""
    if values.size < 512 or values.ndim < 2:
        return values.astype(np.float16)
    step = np.abs(values).max() / (2 ** (bits - 1) - 1)
    return (np.round(values / step) * step).astype(np.float32)


@pytest.mark.parametrize(("bits", "confidence"), [(8, 0.9), (6, 0.7), (4, 0.5)])
def test_trained_weights_are_found_in_few_bits(trained: dict[str, Array], bits: int, confidence: float) -> None:
    assert_all_found(trained, {n: quantized(v, bits) for n, v in trained.items()}, confidence=confidence)


def test_trained_weights_are_found_transposed(trained: dict[str, Array]) -> None:
    matrices = {name: value for name, value in trained.items() if value.ndim == 2}
    moved = {name: np.ascontiguousarray(value.T) for name, value in matrices.items()}
    assert_all_found(trained, moved, confidence=0.99)


def test_unrelated_models_share_nothing(trained: dict[str, Array]) -> None:
    """The other model has the same shapes, and values of the same mean and spread."""
    rng = np.random.default_rng(3)
    searched = {name: value for name, value in trained.items() if is_searched(value)}
    other = {n: rng.normal(v.mean(), v.std(), v.shape).astype(np.float32) for n, v in searched.items()}
    assert match_weights(outline(trained), outline(scrambled(other)[0])) == ()


# ------------------------------------------------------------------ one hypothesis after the other


def only(matches: tuple[WeightMatch, ...]) -> WeightMatch:
    assert len(matches) == 1, matches
    return matches[0]


DECOYS = {f"decoy{i}": random(24, 40, seed=100 + i) for i in range(6)}


def found_among_decoys(reference: Array, candidate: Array) -> WeightMatch:
    match = only(match_weights(outline({**DECOYS, "w": reference}), outline({"x": candidate})))
    assert match.reference == "w"
    return match


def assert_rows_agree(match: WeightMatch, reference: Array, candidate: Array, tolerance: float = 1e-5) -> None:
    """The record itself says how to get from one to the other."""
    rows = match.scale * reference_rows(match, reference)
    np.testing.assert_allclose(candidate_rows(match, candidate), rows, rtol=tolerance, atol=tolerance)


RESHAPES: dict[str, Callable[[Array], Array]] = {
    "transposed": lambda w: w.T,
    "singleton axes": lambda w: w[:, None, :, None],
    "transposed, singleton axes": lambda w: w.T[None, :, :, None],
    "heads split off": lambda w: w.reshape(4, 6, 40),
    "inputs split": lambda w: w.reshape(24, 5, 8),
}


@pytest.mark.parametrize("name", RESHAPES)
def test_layouts_of_a_matrix(name: str) -> None:
    weight = random(24, 40, seed=1)
    changed = RESHAPES[name](weight)
    match = found_among_decoys(weight, changed)
    assert match.confidence > 0.99
    assert_rows_agree(match, weight, changed)


@settings(max_examples=24, deadline=None)
@given(st.permutations(range(4)))
def test_any_order_of_the_axes_of_a_kernel(order: list[int]) -> None:
    weight = random(5, 6, 7, 3, seed=2)
    changed = weight.transpose(order)
    match = only(match_weights(outline({"w": weight, "d": random(5, 6, 7, 3, seed=9)}), outline({"x": changed})))
    assert match.reference == "w"
    assert match.error < 1e-5
    assert_rows_agree(match, weight, changed)


def test_a_kernel_with_one_more_axis_is_itself() -> None:
    weight = random(8, 6, 9, seed=3)
    match = only(match_weights(outline({"w": weight}), outline({"x": weight[:, :, None]})))
    assert (match.layout, match.transform, match.error < 1e-6) == ("", "", True)


def test_one_factor_for_the_whole() -> None:
    weight = random(24, 40, seed=1)
    for scale in (0.125, -1.0, 3.7):
        match = found_among_decoys(weight, scale * weight)
        assert (match.factor, round(match.scale, 3)) == ("whole", scale)
        assert match.error < 1e-5


@pytest.mark.parametrize("axis", [0, 1])
def test_own_factors_for_rows_or_columns(axis: int) -> None:
    weight = random(24, 40, seed=1)
    factors = np.random.default_rng(0).uniform(0.3, 3, weight.shape[axis]) * np.where(
        np.arange(weight.shape[axis]) % 3, 1, -1
    )
    changed = (weight * np.expand_dims(factors, 1 - axis)).astype(np.float16)
    match = found_among_decoys(weight, changed)
    assert (match.factor, match.reference_axis, match.candidate_axis) == ("rows", axis, axis)
    assert match.error < 1e-3
    assert match.confidence > 0.99


@pytest.mark.parametrize("damage", ["zeroed", "changed", "scaled", "flipped"])
def test_one_damaged_row_does_not_hide_a_weight(damage: str) -> None:
    weight = random(24, 40, seed=1)
    row = {"zeroed": 0 * weight[5], "changed": random(40, seed=8), "scaled": 1.5 * weight[5], "flipped": -weight[5]}
    changed = weight.copy()
    changed[5] = row[damage]
    match = found_among_decoys(weight, changed)
    assert match.factor == "one"
    expected = np.linalg.norm(changed - weight) / np.linalg.norm(weight)
    assert match.error == pytest.approx(expected, rel=0.5)
    assert match.confidence > 0.6


def test_rows_in_another_order_are_told_from_gates() -> None:
    weight = random(24, 40, seed=1)
    order = np.random.default_rng(4).permutation(24)
    match = found_among_decoys(weight, weight[order].astype(np.float16))
    assert match.order == tuple(order)
    assert (match.blocks, match.transform) == (0, "rows permuted")
    columns = found_among_decoys(weight, weight[:, np.random.default_rng(5).permutation(40)])
    assert (columns.reference_axis, columns.blocks) == (1, 0)
    gates = weight.reshape(4, 6, 40)[[0, 1, 3, 2]].reshape(24, 40)
    match = found_among_decoys(weight, gates)
    assert (match.blocks, match.transform) == (4, "4 blocks of rows reordered")
    assert_rows_agree(match, weight, gates)


def test_two_swapped_rows_are_damage_in_place() -> None:
    weight = random(24, 40, seed=1)
    changed = weight.copy()
    changed[[3, 9]] = weight[[9, 3]]
    match = found_among_decoys(weight, changed)
    assert match.order is None
    assert match.error == pytest.approx((4 / 24) ** 0.5, rel=0.5)


# ------------------------------------------------------------------ fused and cut


def test_fused_rows_become_one_match_each() -> None:
    q, k, v = (random(16, 40, seed=seed) for seed in (1, 2, 3))
    scaled = np.concatenate([0.25 * q, k, v]).astype(np.float16)
    matches = match_weights(outline({**DECOYS, "q": q, "k": k, "v": v}), outline({"x": scaled}))
    assert [(m.reference, m.candidate_rows) for m in matches] == [("q", (0, 16)), ("k", (16, 32)), ("v", (32, 48))]
    assert matches[0].scale == pytest.approx(0.25, rel=1e-3)
    for match, values in zip(matches, (q, k, v), strict=True):
        assert_rows_agree(match, values, scaled.astype(np.float32), 2e-3)


def test_fused_columns_and_fused_biases() -> None:
    a, b = random(12, 16, seed=1), random(12, 20, seed=2)
    matches = match_weights(outline({"a": a, "b": b}), outline({"x": np.concatenate([a, b], axis=1)}))
    assert [(m.reference, m.candidate_axis, m.candidate_rows) for m in matches] == [
        ("a", 1, (0, 16)),
        ("b", 1, (16, 36)),
    ]
    p, q = random(16, seed=3), random(20, seed=4)
    matches = match_weights(outline({"p": p, "q": q}), outline({"x": np.concatenate([q, p]).astype(np.float16)}))
    assert [(m.reference, m.candidate_rows) for m in matches] == [("q", (0, 20)), ("p", (20, 36))]


def test_one_weight_cut_into_several_constants() -> None:
    whole, bias = random(48, 40, seed=1), random(48, seed=2)
    parts = {f"w{i}": whole[16 * i : 16 * i + 16].T for i in range(3)}
    parts |= {f"b{i}": bias[16 * i : 16 * i + 16] for i in range(3)}
    matches = match_weights(outline({**DECOYS, "in_proj": whole, "bias": bias}), outline(parts))
    spans = {m.candidate: (m.reference, m.reference_rows) for m in matches}
    assert spans == {f"w{i}": ("in_proj", (16 * i, 16 * i + 16)) for i in range(3)} | {
        f"b{i}": ("bias", (16 * i, 16 * i + 16)) for i in range(3)
    }
    for match in matches[:3]:
        assert_rows_agree(match, whole, parts[match.candidate])


def test_summed_biases_in_another_order_of_gates() -> None:
    ih, hh = random(24, seed=1), random(24, seed=2)
    constant = (ih + hh).reshape(4, 6)[[0, 1, 3, 2]].ravel()
    reference = {"rnn.bias_ih_l0": ih, "rnn.bias_hh_l0": hh, "other.bias": random(24, seed=3)}
    match = only(match_weights(outline(reference), outline({"x": constant})))
    assert {match.reference, match.added} == {"rnn.bias_ih_l0", "rnn.bias_hh_l0"}
    assert match.blocks == 4
    np.testing.assert_allclose(reference_rows(match, ih, hh)[:, 0], constant, rtol=1e-6)


# ------------------------------------------------------------------ batch norms


def norm(channels: int, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    values = {
        "weight": rng.normal(0.5, 1, channels),
        "bias": rng.normal(0, 1, channels),
        "running_mean": rng.normal(0, 1, channels),
        "running_var": rng.uniform(1e-4, 2, channels),
    }
    return {f"bn{seed}.{role}": value.astype(np.float32) for role, value in values.items()}


def factors_of(values: Mapping[str, Array], seed: int, epsilon: float) -> tuple[Array, Array]:
    weight, bias, mean, var = (values[f"bn{seed}.{r}"] for r in ("weight", "bias", "running_mean", "running_var"))
    scale = weight / np.sqrt(var + epsilon)
    return scale, bias - mean * scale


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 0.007])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_norm_folded_into_the_rows_is_found_with_its_bias(epsilon: float, has_bias: bool) -> None:
    weight, bias = random(24, 7, 3, seed=1), random(24, seed=2)
    reference = {"conv.weight": weight, "conv.bias": bias, **norm(24, 5), **norm(24, 6)}
    scale, shift = factors_of(reference, 6, epsilon)
    folded = (bias if has_bias else 0) * scale + shift
    if not has_bias:
        del reference["conv.bias"]
    constants = {"x": (weight * scale[:, None, None]).astype(np.float16), "y": folded.astype(np.float16)}
    matches = match_weights(outline(reference), outline(constants, {"op": {"weight": "x", "bias": "y"}}))
    of_weight, of_bias = matches
    assert (of_weight.reference, of_bias.reference) == ("conv.weight", "conv.bias" if has_bias else "bn6.bias")
    assert of_weight.norm is not None
    assert of_weight.norm.running_var == "bn6.running_var"
    assert of_weight.norm.epsilon == pytest.approx(epsilon, rel=0.1)
    assert of_bias.norm == of_weight.norm
    assert of_bias.error < 3e-3


def test_a_norm_folded_into_the_next_convolution_is_found_with_its_bias() -> None:
    weight, bias = random(12, 24, 3, seed=1), random(12, seed=2)
    reference = {"conv.weight": weight, "conv.bias": bias, **norm(24, 5), **norm(24, 6)}
    scale, shift = factors_of(reference, 5, 1e-5)
    constants = {
        "x": (weight * scale[:, None]).astype(np.float16),
        "y": bias + np.einsum("oik,i->o", weight, shift),
    }
    of_weight, of_bias = match_weights(outline(reference), outline(constants, {"op": {"weight": "x", "bias": "y"}}))
    assert (of_weight.reference, of_weight.reference_axis) == ("conv.weight", 1)
    assert of_weight.norm is not None
    assert of_weight.norm.running_var == "bn5.running_var"
    assert of_bias.reference == "conv.bias"
    assert of_bias.error < 3e-3


def test_a_norm_as_a_product_and_a_sum() -> None:
    reference = {**norm(24, 5), **norm(24, 6)}
    scale, shift = factors_of(reference, 6, 1e-3)
    matches = match_weights(outline(reference), outline({"x": scale[None, :, None], "y": shift.astype(np.float16)}))
    assert [m.norm.running_var for m in matches if m.norm] == ["bn6.running_var"] * 2
    assert [m.reference for m in matches] == ["bn6.weight", "bn6.bias"]


# ------------------------------------------------------------------ what values cannot tell


def test_equal_weights_are_ambiguous_and_all_named() -> None:
    weight = random(24, 40, seed=1)
    matches = match_weights(outline({"a": weight, "b": weight.copy()}), outline({"x": weight}))
    assert {(m.reference, m.alternatives) for m in matches} == {("a", ("b",)), ("b", ("a",))}
    assert all(m.is_ambiguous and m.confidence <= 0.5 for m in matches)


def test_a_tied_weight_is_found_at_each_of_its_uses() -> None:
    weight = random(24, 40, seed=1)
    matches = match_weights(outline({**DECOYS, "w": weight}), outline({"x": weight, "y": weight.T}))
    assert [(m.reference, m.candidate) for m in matches] == [("w", "x"), ("w", "y")]


def test_zero_biases_are_told_apart_by_the_weights_beside_them() -> None:
    layers = {f"l{i}.weight": random(8, 8, seed=i) for i in range(4)}
    reference = layers | {f"l{i}.bias": np.zeros(8, np.float32) for i in range(4)}
    constants = {f"w{i}": layers[f"l{i}.weight"] for i in range(4)}
    constants |= {f"b{i}": np.zeros(8, np.float16) for i in range(4)}
    ops = {f"op{i}": {"weight": f"w{i}", "bias": f"b{i}"} for i in range(4)}
    alone = match_weights(outline(reference), outline(constants))
    assert {m.confidence < 0.3 for m in alone if m.candidate.startswith("b")} == {True}
    matches = match_weights(outline(reference), outline(constants, ops))
    assert {m.candidate: m.reference for m in matches} == {
        **{f"w{i}": f"l{i}.weight" for i in range(4)},
        **{f"b{i}": f"l{i}.bias" for i in range(4)},
    }
    assert min(m.confidence for m in matches) > 0.9


def test_a_bias_with_other_values_is_found_beside_its_weight() -> None:
    reference = {"l.weight": random(8, 8, seed=1), "l.bias": random(8, seed=2), "m.bias": random(8, seed=3)}
    constants = {"x": reference["l.weight"], "y": random(8, seed=4)}
    matches = match_weights(outline(reference), outline(constants, {"op": {"weight": "x", "bias": "y"}}))
    assert [(m.reference, m.candidate) for m in matches] == [("l.weight", "x"), ("l.bias", "y")]
    assert matches[1].confidence < 0.8
    assert matches[1].error > 0.5


def test_a_vector_that_differs_in_one_element_is_still_the_same() -> None:
    bias = random(32, seed=1)
    changed = bias.astype(np.float16)
    changed[7] += 1
    match = only(match_weights(outline({"a": bias, "b": random(32, seed=2)}), outline({"x": changed})))
    assert match.reference == "a"
    assert match.error == pytest.approx(1 / np.linalg.norm(bias), rel=0.01)


def test_norms_that_hardly_moved_are_told_apart_in_float16() -> None:
    rng = np.random.default_rng(0)
    norms = {f"n{i}": (1 + 0.01 * rng.standard_normal(64)).astype(np.float32) for i in range(20)}
    assert_all_found(norms, {n: v.astype(np.float16) for n, v in norms.items()}, confidence=0.5)


def test_values_that_are_not_finite_and_scalars_are_left_out() -> None:
    mask = np.where(np.tri(8) > 0, 0, -np.inf).astype(np.float32)
    assert (
        match_weights(outline({"m": mask, "s": np.float32([2.0])}), outline({"x": mask, "y": np.float32([2.0])})) == ()
    )


def test_fingerprints_are_enough_where_there_are_no_values() -> None:
    weight = random(24, 40, seed=1)
    full = outline({**DECOYS, "w": weight})
    kept = {n: Weight(n, w.dtype, w.shape, known_fingerprint=w.fingerprint) for n, w in full.weights.items()}
    match = only(match_weights(Outline("trace", (), (), (), kept), outline({"x": weight.T})))
    assert (match.reference, match.layout) == ("w", "transposed")
