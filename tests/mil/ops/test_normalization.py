"""Normalisation by its formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff import mil
from layerdiff.mil.ops import normalization

TOLERANCE = {np.float32: {"rtol": 1e-4, "atol": 1e-5}, np.float64: {"rtol": 1e-10, "atol": 1e-12}}
EPSILON = st.sampled_from([1e-5, 0.1])
many = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def an_array(draw, low=3, high=5):
    shape = draw(st.lists(st.integers(1, 4), min_size=low, max_size=high))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return (3 * rng.standard_normal(shape) + 1).astype(draw(st.sampled_from([np.float32, np.float64])))


def parameters(shape, dtype, names):
    """Random `gamma` and `beta` of a shape; only those that are named."""
    values = np.random.default_rng(1).standard_normal((2, *shape)).astype(dtype)
    return {name: value for name, value in zip(("gamma", "beta"), values, strict=True) if name in names}


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def per_channel(values, x):
    return np.asarray(values, np.float64).reshape(-1, *[1] * (x.ndim - 2))


def normalised(x, mean, variance, epsilon, gamma=1.0, beta=0.0):
    return gamma * (x.astype(np.float64) - mean) / np.sqrt(variance + epsilon) + beta


def check(result, expected, x):
    assert result.numpy().dtype == x.dtype
    np.testing.assert_allclose(result, expected, **TOLERANCE[x.dtype.type])


GIVEN = st.sets(st.sampled_from(["gamma", "beta"]))


@many
@given(an_array(), GIVEN, EPSILON)
def test_batch_norm(x, given_names, epsilon):
    rng = np.random.default_rng(0)
    mean, variance = rng.standard_normal(x.shape[1]).astype(x.dtype), rng.uniform(0.5, 2, x.shape[1]).astype(x.dtype)
    learnt = parameters(x.shape[1:2], x.dtype, given_names)
    how = tensors({"x": x, "mean": mean, "variance": variance, **learnt})
    around = {name: per_channel(value, x) for name, value in learnt.items()}
    expected = normalised(x, per_channel(mean, x), per_channel(variance, x), epsilon, **around)
    check(normalization.batch_norm(**how, epsilon=epsilon), expected, x)


@many
@given(an_array(), GIVEN, EPSILON)
def test_instance_norm(x, given_names, epsilon):
    learnt = parameters(x.shape[1:2], x.dtype, given_names)
    wide, axes = x.astype(np.float64), tuple(range(2, x.ndim))
    around = {name: per_channel(value, x) for name, value in learnt.items()}
    expected = normalised(x, wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True), epsilon, **around)
    check(normalization.instance_norm(**tensors({"x": x, **learnt}), epsilon=epsilon), expected, x)


@many
@given(an_array(low=1), st.data(), GIVEN, EPSILON)
def test_layer_norm(x, data, given_names, epsilon):
    chosen = data.draw(st.lists(st.integers(0, x.ndim - 1), min_size=1, unique=True).map(tuple) | st.none(), "axes")
    reduced = tuple(range(x.ndim)) if chosen is None else tuple(sorted(chosen))
    axes = None if chosen is None else tuple(a - x.ndim * data.draw(st.integers(0, 1)) for a in chosen)
    learnt = parameters([x.shape[a] for a in reduced], x.dtype, given_names)
    shape = [n if a in reduced else 1 for a, n in enumerate(x.shape)]
    wide, around = x.astype(np.float64), {name: value.reshape(shape) for name, value in learnt.items()}
    expected = normalised(x, wide.mean(reduced, keepdims=True), wide.var(reduced, keepdims=True), epsilon, **around)
    check(normalization.layer_norm(**tensors({"x": x, **learnt}), axes=axes, epsilon=epsilon), expected, x)


@many
@given(an_array(), EPSILON)
def test_l2_norm_spans_the_last_three_axes(x, epsilon):
    squares = (x.astype(np.float64) ** 2).reshape(*x.shape[:-3], -1).sum(-1)
    expected = x / np.sqrt(squares + epsilon).reshape(*x.shape[:-3], 1, 1, 1)
    check(normalization.l2_norm(x=torch.from_numpy(x), epsilon=epsilon), expected, x)


@many
@given(an_array(high=4), st.integers(1, 5), st.sampled_from([(1e-4, 0.75, 1.0), (0.3, 0.7, 2.0)]))
def test_local_response_norm(x, size, constants):
    """Channel c is divided by a sum over the channels from c - size // 2, `size` of them; rank 3 has no batch."""
    alpha, beta, k = constants
    wide = x.astype(np.float64) if x.ndim > 3 else x.astype(np.float64)[None]
    expected = np.empty_like(wide)
    for c in range(wide.shape[1]):
        near = wide[:, max(0, c - size // 2) : c - size // 2 + size]
        expected[:, c] = wide[:, c] / (k + alpha / size * (near**2).sum(1)) ** beta
    result = normalization.local_response_norm(x=torch.from_numpy(x), size=size, alpha=alpha, beta=beta, k=k)
    check(result, expected if x.ndim > 3 else expected[0], x)


def test_the_default_constants(run):
    x = np.array([1.0, -2.0, 5.0]).reshape(1, 3, 1, 1)
    ones, zeros = np.ones(3), np.zeros(3)
    small = {"x": 1e-3 * x}
    plain = run("batch_norm", **small, mean=zeros, variance=1e-6 * ones)
    np.testing.assert_allclose(plain, 1e-3 * x / np.sqrt(1e-6 + 1e-5))
    centred = 1e-3 * (x - x.mean())
    np.testing.assert_allclose(run("layer_norm", **small), centred / np.sqrt((centred**2).mean() + 1e-5))
    flat = small["x"].reshape(1, 1, 3)
    expected = centred.reshape(1, 1, 3) / np.sqrt((centred**2).mean() + 1e-5)
    np.testing.assert_allclose(run("instance_norm", x=flat), expected)
    np.testing.assert_allclose(run("l2_norm", **small), 1e-3 * x / np.sqrt(30e-6 + 1e-6))
    np.testing.assert_allclose(run("local_response_norm", x=x, size=1), x / (1 + 1e-4 * x**2) ** 0.75)


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_a_large_mean_costs_float32_no_variance(run, offset):
    """The variance is that of the differences from the mean, not of squares minus a square."""
    x = (np.random.default_rng(0).standard_normal((1, 2, 64)) + offset).astype(np.float32)
    wide = x.astype(np.float64)
    expected = normalised(x, wide.mean(2, keepdims=True), wide.var(2, keepdims=True), 1e-5)
    for op, how in (("layer_norm", {"axes": (-1,)}), ("layer_norm", {"axes": (0, 2)}), ("instance_norm", {})):
        np.testing.assert_allclose(run(op, x=x, **how), expected, atol=2e-6 * offset)


@pytest.mark.parametrize("opset", ["iOS15", "iOS17"])
def test_normalisation_in_a_program(build, opset):
    rng = np.random.default_rng(0)
    x, gamma, beta = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 4, 5), 3, 3))
    wide, inner = rng.standard_normal((4, 5)).astype(np.float32), rng.standard_normal((4, 5)).astype(np.float32)

    def program(x):
        from coremltools.converters.mil import Builder as mb

        return (
            mb.batch_norm(x=x, mean=beta, variance=gamma**2, gamma=gamma, beta=beta, name="batch"),
            mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=1e-3, name="instance"),
            mb.layer_norm(x=x, axes=[2, -1], gamma=wide, beta=inner, name="layer"),
            mb.l2_norm(x=x, name="length"),
            mb.local_response_norm(x=x, size=3, alpha=0.5, name="response"),
        )

    found = mil.load(build(program, x=x, opset=opset)).predict({"x": x})
    channels = {"gamma": per_channel(gamma, x), "beta": per_channel(beta, x)}
    of_image = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)
    squares = np.pad(x**2, [(0, 0), (1, 1), (0, 0), (0, 0)])
    near = squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]
    expected = {
        "batch": normalised(x, per_channel(beta, x), per_channel(gamma**2, x), 1e-5, **channels),
        "instance": normalised(x, *of_image, 1e-3, **channels),
        "layer": normalised(x, *of_image, 1e-5, wide, inner),
        "length": x / np.sqrt((x**2).sum((1, 2, 3), keepdims=True) + 1e-6),
        "response": x / (1 + 0.5 / 3 * near) ** 0.75,
    }
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
