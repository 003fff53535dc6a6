"""Small families: products, reductions with corners, activations, selection, random tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerdiff.mil.ops import activation, control_flow, linear, random, reduction
from layerdiff.mil.ops.signature import Out

F32, I32 = Out("y", "float32", torch.float32), Out("y", "int32", torch.int32)
X = np.random.default_rng(0).standard_normal((2, 3, 4))
T = torch.from_numpy(X)


def test_products():
    w, b = np.random.default_rng(1).standard_normal((5, 4)), np.arange(5.0)
    np.testing.assert_allclose(linear.linear(x=T, weight=torch.from_numpy(w), bias=torch.from_numpy(b)), X @ w.T + b)
    np.testing.assert_allclose(linear.linear(x=T, weight=torch.from_numpy(w)), X @ w.T)
    np.testing.assert_allclose(linear.matmul(x=T, y=T, transpose_x=True), X.transpose(0, 2, 1) @ X)
    y = np.random.default_rng(2).standard_normal((2, 4, 5))
    np.testing.assert_allclose(
        linear.einsum(values=[T, torch.from_numpy(y)], equation="bij,bjk->bik"), np.einsum("bij,bjk->bik", X, y)
    )


def test_reductions_over_everything_and_of_scalars():
    np.testing.assert_allclose(reduction.reduce_sum(x=T), X.sum())
    np.testing.assert_allclose(reduction.reduce_prod(x=T, keep_dims=True), X.prod(keepdims=True))
    np.testing.assert_allclose(reduction.reduce_max(x=torch.tensor(3.0)), 3.0)
    assert reduction.reduce_mean(x=torch.tensor([1, 2], dtype=torch.int32)).item() == 1.5
    np.testing.assert_allclose(reduction.reduce_log_sum_exp(x=T * 1000, axes=(1,)), (X * 1000).max(1), rtol=1e-3)
    assert reduction.reduce_l2_norm(x=torch.tensor([3, 4], dtype=torch.int32)).item() == 5.0


def test_activations_that_coremltools_does_not_evaluate():
    np.testing.assert_allclose(activation.silu(x=T), X / (1 + np.exp(-X)))
    assert activation.softplus(x=torch.tensor([1000.0, -1000.0])).tolist() == [1000.0, 0.0]
    assert activation.thresholded_relu(x=torch.tensor([0.4, 0.5]), alpha=0.5).tolist() == [0.0, 0.5]


def test_selection_broadcasts():
    chosen = control_flow.select(cond=T > 0, a=torch.tensor(1.0).double(), b=T)
    np.testing.assert_array_equal(chosen, np.where(X > 0, 1, X))


@pytest.mark.parametrize(
    ("draw", "mean", "deviation"),
    [
        (lambda seed: random.random_uniform(shape=(40_000,), low=-1.0, high=3.0, seed=seed, out=F32), 1, 4 / 12**0.5),
        (lambda seed: random.random_normal(shape=(40_000,), mean=2.0, stddev=3.0, seed=seed, out=F32), 2, 3),
        (lambda seed: random.random_bernoulli(shape=(40_000,), prob=0.3, seed=seed, out=F32), 0.3, 0.21**0.5),
    ],
)
def test_random_tensors_have_their_moments_and_repeat_with_a_seed(draw, mean, deviation):
    values = draw(5)
    assert abs(values.mean().item() - mean) < 5 * deviation / 200
    assert abs(values.std().item() - deviation) < 0.03 * deviation
    assert torch.equal(values, draw(5))
    assert not torch.equal(values, draw(6))
    assert not torch.equal(draw(-1), draw(-1))


def test_categorical_draws_follow_logits_or_probabilities():
    probabilities = torch.tensor([[0.1, 0.6, 0.3]])
    for mode, x in (("probs", probabilities), ("logits", probabilities.log() + 2)):
        drawn = random.random_categorical(x=x, mode=mode, size=20_000, seed=1, out=I32)
        assert drawn.dtype == torch.int32
        shares = torch.bincount(drawn[0], minlength=3) / 20_000
        torch.testing.assert_close(shares, probabilities[0], atol=0.02, rtol=0)
