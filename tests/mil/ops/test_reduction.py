"""Reductions with corners; the rest is held to coremltools in test_value_inference."""

from __future__ import annotations

import numpy as np
import torch

from layerdiff.mil.ops import reduction

X = np.random.default_rng(0).standard_normal((2, 3, 4))
T = torch.from_numpy(X)


def test_reductions_over_everything_and_of_scalars():
    np.testing.assert_allclose(reduction.reduce_sum(x=T), X.sum())
    np.testing.assert_allclose(reduction.reduce_prod(x=T, keep_dims=True), X.prod(keepdims=True))
    np.testing.assert_allclose(reduction.reduce_max(x=torch.tensor(3.0)), 3.0)
    assert reduction.reduce_mean(x=torch.tensor([1, 2], dtype=torch.int32)).item() == 1.5
    np.testing.assert_allclose(reduction.reduce_log_sum_exp(x=T * 1000, axes=(1,)), (X * 1000).max(1), rtol=1e-3)
    assert reduction.reduce_l2_norm(x=torch.tensor([3, 4], dtype=torch.int32)).item() == 5.0
