"""Selection."""

from __future__ import annotations

import numpy as np
import torch

from layerdiff.mil.ops import control_flow

X = np.random.default_rng(0).standard_normal((2, 3, 4))
T = torch.from_numpy(X)


def test_selection_broadcasts():
    chosen = control_flow.select(cond=T > 0, a=torch.tensor(1.0).double(), b=T)
    np.testing.assert_array_equal(chosen, np.where(X > 0, 1, X))
