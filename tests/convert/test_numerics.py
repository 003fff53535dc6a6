"""The numbers of the packages, executed by the portable engine, against torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from layerdiff import mil, quiet
from layerdiff.convert import conversion, recipes, wrappers

Package = Callable[..., Path]
Array = NDArray[Any]

LENGTHS = [(5_000, 5_000), (40_000, 40_000), (40_001, 33_333)]
"""Samples given and samples that count; beyond 32 767 a length in INT16 would wrap around."""


def speech(samples: int) -> Array:
    """Something with the spectrum of a voice: harmonics of 120 Hz, modulated, with a little noise."""
    t = np.arange(samples) / 16000
    voice = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 20)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
    noise = np.random.default_rng(0).normal(scale=0.01, size=samples)
    return (0.1 * voice + noise).astype(np.float32)[None]


def run_torch(
    reference: Any, component: str, feed: Mapping[str, Array], *, recipe: str, debug: bool
) -> dict[str, Array]:
    """The outputs of the module that is converted, by their contract names."""
    found = recipes.find(component, recipe)[1]
    wrapper = getattr(wrappers, found.wrapper)(reference, debug=debug)
    inputs = [torch.from_numpy(feed[port.name]) for port in found.inputs]
    with torch.no_grad(), wrappers.export_state(getattr(reference, component), **found.attributes):
        values = wrapper(*inputs)
    names = recipes.outputs(found, reference, debug=debug)
    return {name: value.numpy() for name, value in zip(names, values, strict=True)}


def assert_close(found: Mapping[str, Array], expected: Mapping[str, Array], *, relative: float) -> None:
    """Same names, dtypes and shapes; integers equal, floats within a relative L2 error."""
    assert {name: (value.dtype, value.shape) for name, value in found.items()} == {
        name: (value.dtype, value.shape) for name, value in expected.items()
    }
    for name, value in expected.items():
        if value.dtype.kind == "i":
            assert np.array_equal(found[name], value), name
        else:
            error = np.linalg.norm(found[name].astype(np.float64) - value) / np.linalg.norm(value.astype(np.float64))
            assert error < relative, (name, error)


def joint_feed(points: int, frames: int, steps: int) -> dict[str, Array]:
    generator = np.random.default_rng(7)
    return {
        "encoder": generator.normal(size=(points, 96, frames)).astype(np.float32),
        "decoder": generator.normal(size=(points, 64, steps)).astype(np.float32),
    }


@pytest.mark.parametrize("recipe", ["raw_logits", "cpu_traced"])
@pytest.mark.parametrize(("precision", "relative"), [("float32", 1e-5), ("float16", 3e-3)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (50, 1, 1), (1, 20, 7), (2, 3, 4)])
def test_debug_joint(
    reference: Any, package: Package, recipe: str, precision: str, relative: float, shape: tuple[int, int, int]
) -> None:
    feed = joint_feed(*shape)
    expected = run_torch(reference, "joint", feed, recipe=recipe, debug=True)
    found = mil.load(package("joint", recipe, precision, True)).predict(feed)
    total = np.exp(found["logits"].astype(np.float64)).sum(axis=-1)
    assert np.allclose(total, 1, rtol=0.02) == (recipe == "cpu_traced")
    if (recipe, precision) == ("cpu_traced", "float16"):
        found, expected = without_underflow(found, expected)
    assert_close(found, expected, relative=relative)


def without_underflow(found: Mapping[str, Array], expected: Mapping[str, Array]) -> tuple[dict[str, Array], ...]:
    """Both without the log-probabilities that float16 cannot hold, because Core ML forms log(softmax(x))."""
    kept = {name: value > -8 if "logits" in name else np.ones(value.shape, bool) for name, value in expected.items()}
    assert kept["logits"].any(axis=-1).all()
    return tuple({name: np.where(kept[name], side[name], 0) for name in kept} for side in (found, expected))


def test_the_slices_are_the_logits(package: Package) -> None:
    for precision in ("float32", "float16"):
        found = mil.load(package("joint", "raw_logits", precision, True)).predict(joint_feed(3, 2, 2))
        assert np.array_equal(np.concatenate([found["vocab_logits"], found["duration_logits"]], -1), found["logits"])


@pytest.mark.parametrize("recipe", ["raw_logits", "cpu_traced"])
def test_plain_joint_is_the_debug_joint_without_taps(package: Package, recipe: str) -> None:
    feed = joint_feed(3, 2, 2)
    plain = mil.load(package("joint", recipe, "float32", False)).predict(feed)
    debug = mil.load(package("joint", recipe, "float32", True)).predict(feed)
    assert list(plain) == ["logits"]
    assert np.array_equal(plain["logits"], debug["logits"])


def test_cpu_traced_is_log_softmax_of_raw(package: Package) -> None:
    feed = joint_feed(30, 1, 1)
    raw, traced = (
        mil.load(package("joint", recipe, "float32", True)).predict(feed)["logits"].astype(np.float64)
        for recipe in ("raw_logits", "cpu_traced")
    )
    peak = raw.max(axis=-1, keepdims=True)
    expected = raw - peak - np.log(np.exp(raw - peak).sum(axis=-1, keepdims=True))
    assert np.abs(traced - expected).max() < 1e-4
    assert (traced[..., -5:] < 0).all()
    assert (raw[..., -5:] > 0).any()


def test_decision(reference: Any, package: Package) -> None:
    model = mil.load(package("joint", "decision", "float32"))
    for seed in range(5):
        generator = np.random.default_rng(seed)
        feed = {
            "encoder": generator.normal(size=(1, 96, 1)).astype(np.float32),
            "decoder": generator.normal(size=(1, 64, 1)).astype(np.float32),
        }
        expected = run_torch(reference, "joint", feed, recipe="decision", debug=False)
        assert_close(model.predict(feed), expected, relative=1e-5)


@pytest.mark.parametrize(("precision", "relative"), [("float32", 1e-5), ("float16", 5e-3)])
def test_decoder(reference: Any, package: Package, precision: str, relative: float) -> None:
    model = mil.load(package("decoder", "raw_logits", precision))
    states = np.random.default_rng(0).normal(scale=0.5, size=(2, 2, 1, 64)).astype(np.float32)
    for token in (0, 17, 96):  # 96 is blank, whose embedding is zero
        feed = {
            "targets": np.array([[token]], np.int32),
            "target_length": np.array([1], np.int32),
            "h_in": states[0],
            "c_in": states[1],
        }
        expected = run_torch(reference, "decoder", feed, recipe="raw_logits", debug=False)
        assert_close(model.predict(feed), expected, relative=relative)


@pytest.mark.parametrize(("precision", "relative"), [("float32", 1e-4), ("float16", 0.1)])
@pytest.mark.parametrize(("samples", "length"), LENGTHS)
def test_preprocessor(
    reference: Any, package: Package, precision: str, relative: float, samples: int, length: int
) -> None:
    feed = {"audio_signal": speech(samples), "audio_length": np.array([length], np.int32)}
    expected = run_torch(reference, "preprocessor", feed, recipe="raw_logits", debug=False)
    found = mil.load(package("preprocessor", "raw_logits", precision)).predict(feed)
    assert_close(found, expected, relative=relative)


@pytest.mark.parametrize(("precision", "relative"), [("float32", 2e-5), ("float16", 3e-3)])
@pytest.mark.parametrize(("frames", "length"), [(64, 64), (301, 301), (300, 217)])
def test_encoder_and_its_taps(
    reference: Any, package: Package, precision: str, relative: float, frames: int, length: int
) -> None:
    mel = np.random.default_rng(3).normal(size=(1, 128, frames)).astype(np.float32)
    mel[:, :, length:] = 0
    feed = {"mel": mel, "mel_length": np.array([length], np.int32)}
    expected = run_torch(reference, "encoder", feed, recipe="raw_logits", debug=True)
    # float16 positions would be rounded to multiples of 4: the error of 38 frames was 0.1, of 8 frames hardly any
    found = mil.load(package("encoder", "raw_logits", precision, True)).predict(feed)
    assert_close(found, expected, relative=relative)


@pytest.mark.parametrize("component", ["preprocessor", "encoder"])
@pytest.mark.parametrize("size", [2_000, 50_000])
def test_nothing_is_baked_in_by_tracing(reference: Any, component: str, size: int) -> None:
    """The traced module follows the length of its input, before coremltools sees it."""
    recipe = recipes.find(component, "raw_logits")[1]
    options = conversion.Options(component, "raw_logits", "float32")
    with quiet.third_party():
        traced = conversion._trace(reference, recipe, options)
    feed = {"audio_signal": speech(size), "audio_length": np.array([size - 150], np.int32)}
    if component == "encoder":
        feed = run_torch(reference, "preprocessor", feed, recipe="raw_logits", debug=False)
    expected = run_torch(reference, component, feed, recipe="raw_logits", debug=False)
    with torch.no_grad():
        values = traced(*(torch.from_numpy(feed[port.name]) for port in recipe.inputs))
    found = {name: value.numpy() for name, value in zip(expected, values, strict=True)}
    assert_close(found, expected, relative=1e-6)
