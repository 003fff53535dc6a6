"""Each cause, put into random tensors, is named first; an error without a cause is not given one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.diagnose.evidence import Evidence, confined, removed
from layerdiff.diagnose.functions import ACTIVATIONS
from layerdiff.diagnose.rules import RULES, diagnose

ROWS, CHANNELS = 60, 24


def evidence(reference: Any, candidate: Any, **known: Any) -> Evidence:
    return Evidence("stage", np.asarray(reference), np.asarray(candidate), "a.wav", "None", **known)


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 2, shape or (1, ROWS, CHANNELS)).astype(np.float32)


def permuted(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    order = rng.permutation(x.shape[-1])
    return x[..., np.roll(order, 1) if (order == np.arange(len(order))).all() else order]


def shifted(x: np.ndarray, by: int, axis: int) -> np.ndarray:
    moved = np.roll(x, by, axis)
    place = [slice(None)] * x.ndim
    place[axis] = slice(0, by) if by > 0 else slice(by, None)
    moved[tuple(place)] = 0.123
    return moved


PLANTED: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "sign_flip": lambda x, rng: -x,
    "scale": lambda x, rng: x * rng.choice([0.5, 1.1, 3.0]),
    "channel_scale": lambda x, rng: x * rng.uniform(0.7, 1.4, x.shape[-1]).astype(np.float32),
    "row_offset": lambda x, rng: x + rng.normal(0, 3, (*x.shape[:-1], 1)).astype(np.float32),
    "bias_changed": lambda x, rng: x + rng.normal(0, 1, x.shape[-1]).astype(np.float32),
    "channel_permutation": permuted,
    "slice_shift": lambda x, rng: shifted(x, int(rng.choice([-2, -1, 1, 3])), 2),
    "frame_shift": lambda x, rng: shifted(x, int(rng.choice([-2, -1, 1, 3])), 1),
    "softmax_baked": lambda x, rng: torch.from_numpy(x).softmax(-1).numpy(),
    "log_softmax_baked": lambda x, rng: torch.from_numpy(x).log_softmax(-1).numpy(),
    "constant_output": lambda x, rng: np.broadcast_to(x[:, :1], x.shape),
    "wrong_output_width": lambda x, rng: x[..., : -int(rng.integers(1, 5))],
    "nan_source": lambda x, rng: np.where(rng.random(x.shape) < 0.1, np.nan, x),
}


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("cause", PLANTED)
@pytest.mark.parametrize("noise", [0.0, 2e-4], ids=["float32", "float16"])
def test_a_planted_fault_is_named(cause: str, noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = drawn(seed)
    candidate = PLANTED[cause](reference, rng)
    if cause != "constant_output":  # which stays constant when it is rounded
        candidate = candidate * (1 + noise * rng.standard_normal(candidate.shape))
    found = diagnose(evidence(reference, candidate))
    assert found[0].cause == cause
    assert found[0].confidence >= 0.99
    assert found[0].advice


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("cause", ["sign_flip", "scale", "channel_scale", "bias_changed", "channel_permutation"])
def test_a_fault_of_the_durations_alone_is_named_with_its_channels(cause: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = drawn(seed, 1, ROWS, 102)
    candidate = reference.copy()
    candidate[..., -5:] = PLANTED[cause](reference[..., -5:], rng)
    (found, *_) = diagnose(evidence(reference, candidate))
    assert found.cause == cause
    assert 97 <= found.evidence["first_channel"] <= 100
    assert found.evidence["first_channel"] + found.evidence["channels_at_fault"] <= 102
    assert found.summary.startswith("in channels ")


def test_the_channels_of_a_convolution_are_its_second_axis() -> None:
    reference = drawn(1, 2, CHANNELS, ROWS)
    factors = np.linspace(0.5, 2, CHANNELS, dtype=np.float32)[:, None]
    (found, *_) = diagnose(evidence(reference, reference * factors, channel_axis=1))
    assert found.cause == "channel_scale"
    assert found.evidence["factor_min"] == pytest.approx(0.5)
    assert found.evidence["factor_max"] == pytest.approx(2)


def test_a_bias_that_was_left_out_is_told_from_one_that_changed() -> None:
    linear = torch.nn.Linear(8, CHANNELS)
    x = torch.from_numpy(drawn(2, 1, ROWS, 8))
    with torch.no_grad():
        reference, candidate = linear(x).numpy(), (x @ linear.weight.T).numpy()
    weights = {"bias": linear.bias.detach().numpy(), "weight": linear.weight.detach().numpy()}
    assert diagnose(evidence(reference, candidate, weights=weights))[0].cause == "bias_missing"
    assert diagnose(evidence(reference, candidate))[0].cause == "bias_changed"


@pytest.mark.parametrize("zeroed", [False, True])
def test_weights_that_changed_are_found_with_their_rows(zeroed: bool) -> None:
    linear = torch.nn.Linear(8, CHANNELS)
    x = torch.from_numpy(drawn(3, 1, ROWS, 8))
    with torch.no_grad():
        reference = linear(x).numpy()
        weight = linear.weight.numpy().copy()
        linear.weight[[2, 7]] = 0.0 if zeroed else torch.from_numpy(drawn(4, 2, 8))
        candidate = linear(x).numpy()
    known = {"kind": "linear", "operands": (x.numpy(),), "weights": {"weight": weight}}
    found = diagnose(evidence(reference, candidate, **known))[0]
    assert found.cause == ("weight_missing" if zeroed else "weight_changed")
    assert found.evidence["rows"] == [2, 7]


@pytest.mark.parametrize("theirs", ["identity", *sorted(set(ACTIVATIONS) - {"identity", "silu", "gelu", "exp"})])
def test_another_activation_is_named(theirs: str) -> None:
    x = drawn(5)
    reference = torch.nn.functional.silu(torch.from_numpy(x)).numpy()
    found = diagnose(evidence(reference, ACTIVATIONS[theirs](x.astype(np.float64)), operands=(x,)))[0]
    assert found.cause == ("activation_missing" if theirs == "identity" else "activation_changed")
    assert (found.evidence["reference_function"], found.evidence["candidate_function"]) == ("silu", theirs)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", torch.relu),
        ("silu", torch.nn.functional.silu),
        ("gelu", torch.nn.functional.gelu),
        ("gelu (tanh)", lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
        ("sigmoid", torch.sigmoid),
        ("tanh", torch.tanh),
        ("softplus", torch.nn.functional.softplus),
        ("leaky_relu", torch.nn.functional.leaky_relu),
        ("elu", torch.nn.functional.elu),
        ("relu6", torch.nn.functional.relu6),
        ("hardswish", torch.nn.functional.hardswish),
        ("exp", torch.exp),
    ],
)
def test_activations_are_torchs(name: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = torch.from_numpy(drawn(6)).double()
    np.testing.assert_allclose(ACTIVATIONS[name](x.numpy()), function(x).numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("theirs", [1e-3, 1e-1, 1e-12])
def test_the_epsilon_of_a_norm_is_recovered(theirs: float) -> None:
    x = torch.from_numpy(drawn(7)).double() * torch.logspace(-3, 0, ROWS)[:, None]
    gain, bias = torch.linspace(0.5, 2, CHANNELS).double(), torch.linspace(-1, 1, CHANNELS).double()
    reference = torch.nn.functional.layer_norm(x, (CHANNELS,), gain, bias, 1e-5).numpy()
    candidate = torch.nn.functional.layer_norm(x, (CHANNELS,), gain, bias, theirs).numpy()
    weights = {"weight": gain.numpy(), "bias": bias.numpy()}
    found = diagnose(evidence(reference, candidate, kind="layer_norm", operands=(x.numpy(),), weights=weights))[0]
    assert found.cause == "epsilon_changed"
    assert found.evidence["reference_epsilon"] == pytest.approx(1e-5, rel=1e-3)
    assert found.evidence["candidate_epsilon"] == pytest.approx(theirs, rel=1e-3, abs=1e-10)


def test_two_axes_of_one_length_that_were_exchanged() -> None:
    reference = drawn(8, 2, 12, 12)
    found = diagnose(evidence(reference, reference.swapaxes(1, 2)))[0]
    assert found.cause == "axis_transposed"
    assert found.evidence["axes"] == [1, 2]


@pytest.mark.parametrize("masked", ["reference", "candidate"])
def test_a_mask_that_only_one_side_has(masked: str) -> None:
    full, cut = drawn(9), drawn(9)
    cut[:, 40:] = 0
    sides = (cut, full) if masked == "reference" else (full, cut)
    found = diagnose(evidence(*sides))[0]
    assert found.cause == "length_mask"
    assert (found.evidence["first_frame"], found.evidence["masked_side"]) == (40, masked)


def test_what_float16_cannot_hold() -> None:
    reference = drawn(10) * 30_000
    with np.errstate(over="ignore"):
        found = diagnose(evidence(reference, reference.astype(np.float16).astype(np.float32)))[0]
    assert found.cause == "overflow"
    assert found.evidence["overflowed"] == int((np.abs(reference) >= 65520).sum())


def test_an_overflow_of_a_right_conversion_comes_before_its_precision() -> None:
    reference = drawn(10) * 30_000
    with np.errstate(over="ignore"):
        rounded = np.clip(reference.astype(np.float16), -65504, 65504).astype(np.float32)
    causes = [f.cause for f in diagnose(evidence(reference, rounded, conversion_error=1e-8, conversion_limit=1e-6))]
    assert causes == ["overflow", "precision_only"]


@pytest.mark.parametrize("floor", [-np.inf, -45440.0, -103.25])
def test_logarithms_of_what_became_zero(floor: float) -> None:
    reference = np.log(np.random.default_rng(11).random((1, ROWS, CHANNELS)) ** 60)
    candidate = np.where(reference < -17, floor, reference)
    found = diagnose(evidence(reference, candidate))[0]
    assert found.cause == "underflow_log_zero"
    assert found.evidence["lost_share"] == pytest.approx(float((reference < -17).mean()))


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_whole_numbers_that_wrapped(bits: int) -> None:
    reference = np.random.default_rng(12).integers(0, 2 ** (bits + 2), (4, 9))
    candidate = np.mod(reference, 2**bits)
    found = diagnose(evidence(reference, candidate))[0]
    assert found.cause == "integer_overflow"
    assert found.evidence["bits"] == bits


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    rows=st.sampled_from([1, 2, 3, 20, ROWS]),
    channels=st.sampled_from([1, 2, 5, CHANNELS]),
    size=st.sampled_from([1e-6, 1e-2, 1.0, 30.0]),
)
def test_noise_has_no_cause(seed: int, rows: int, channels: int, size: float) -> None:
    """A false alarm is as bad as a miss: whatever has as many parameters as values explains nothing."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(0, 2, (1, rows, channels))
    if reference.size == 1:
        return
    candidate = reference + size * rng.standard_normal(reference.shape)
    known = {"operands": (rng.normal(0, 1, reference.shape),), "weights": {"bias": rng.normal(0, 1, channels)}}
    causes = [found.cause for found in diagnose(evidence(reference, candidate, **known))]
    assert causes == ["unexplained"]


def test_the_share_that_is_removed_counts_what_was_fitted() -> None:
    error = np.ones((4, 2))
    assert removed(error, 0.1 * error) == pytest.approx(0.9)
    assert removed(error, 0.1 * error, parameters=4) == pytest.approx(1 - 0.1 * np.sqrt(2))
    assert removed(error, 0 * error, parameters=5) == 0
    assert removed(0 * error, 0 * error) == 0


def test_an_error_everywhere_is_confined_to_nothing() -> None:
    reference = drawn(13)
    whole = evidence(reference, reference + 1)
    assert confined(whole) is whole


def test_every_cause_is_documented_and_nothing_else() -> None:
    """Those that rules are named after, and those that two of them tell apart."""
    folder = Path(__file__).parents[2] / "docs" / "causes"
    page = (folder / "index.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| \[`(\w+)`\]\(\1\.md\) \|", page, flags=re.MULTILINE))
    assert {path.stem for path in folder.glob("*.md")} - {"index"} == documented
    ruled = {cause for level in RULES for cause in level} - {
        "activation",
        "activation_before",
        "constant_operand",
        "exponential_overflow",
    }
    told = {"activation_missing", "activation_changed", "weight_missing", "weight_quantization"}
    told |= {"precision_only", "unexplained"}
    assert documented == ruled | told
