"""Activations that coremltools does not evaluate, and corners."""

from __future__ import annotations

import numpy as np
import torch

from layerdiff.mil.ops import activation

X = np.random.default_rng(0).standard_normal((2, 3, 4))
T = torch.from_numpy(X)


def test_activations_that_coremltools_does_not_evaluate():
    np.testing.assert_allclose(activation.silu(x=T), X / (1 + np.exp(-X)))
    assert activation.softplus(x=torch.tensor([1000.0, -1000.0])).tolist() == [1000.0, 0.0]
    assert activation.thresholded_relu(x=torch.tensor([0.4, 0.5]), alpha=0.5).tolist() == [0.0, 0.5]
