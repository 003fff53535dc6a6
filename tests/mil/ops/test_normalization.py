"""Normalisation by its formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerdiff.mil.ops import normalization

rng = np.random.default_rng(0)
X = rng.standard_normal((2, 3, 4, 5))
GAMMA, BETA, MEAN = rng.standard_normal((3, 3))
VARIANCE = rng.uniform(0.5, 2, 3)
T = {"x": torch.from_numpy(X), "gamma": torch.from_numpy(GAMMA), "beta": torch.from_numpy(BETA)}


def per_channel(values):
    return values.reshape(-1, 1, 1)


def test_batch_norm():
    result = normalization.batch_norm(
        **T, mean=torch.from_numpy(MEAN), variance=torch.from_numpy(VARIANCE), epsilon=0.1
    )
    normal = (X - per_channel(MEAN)) / np.sqrt(per_channel(VARIANCE) + 0.1)
    np.testing.assert_allclose(result, normal * per_channel(GAMMA) + per_channel(BETA))


def test_instance_norm():
    normal = (X - X.mean((2, 3), keepdims=True)) / np.sqrt(X.var((2, 3), keepdims=True) + 0.1)
    np.testing.assert_allclose(
        normalization.instance_norm(**T, epsilon=0.1), normal * per_channel(GAMMA) + per_channel(BETA)
    )
    np.testing.assert_allclose(normalization.instance_norm(x=T["x"], epsilon=0.1), normal)


@pytest.mark.parametrize("axes", [(-1,), (2, 3), (1,), (-1, 1), (0, 1, 2, 3), None])
def test_layer_norm(axes):
    reduced = tuple(range(4)) if axes is None else tuple(sorted(a % 4 for a in axes))
    shape = [X.shape[a] for a in reduced]
    gamma, beta = rng.standard_normal(shape), rng.standard_normal(shape)
    result = normalization.layer_norm(
        x=T["x"], axes=axes, gamma=torch.from_numpy(gamma), beta=torch.from_numpy(beta), epsilon=0.1
    )
    around = [n if a in reduced else 1 for a, n in enumerate(X.shape)]
    normal = (X - X.mean(reduced, keepdims=True)) / np.sqrt(X.var(reduced, keepdims=True) + 0.1)
    np.testing.assert_allclose(result, normal * gamma.reshape(around) + beta.reshape(around))


def test_l2_norm_and_local_response_norm():
    np.testing.assert_allclose(
        normalization.l2_norm(x=T["x"], epsilon=0.1), X / np.sqrt((X**2).sum((1, 2, 3), keepdims=True) + 0.1)
    )
    padded = np.pad(X**2, [(0, 0), (1, 1), (0, 0), (0, 0)])
    total = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    expected = X / (2 + 0.3 / 3 * total) ** 0.7
    result = normalization.local_response_norm(x=T["x"], size=3, alpha=0.3, beta=0.7, k=2.0)
    np.testing.assert_allclose(result, expected)
    np.testing.assert_allclose(
        normalization.local_response_norm(x=T["x"][0], size=3, alpha=0.3, beta=0.7, k=2.0), expected[0]
    )
