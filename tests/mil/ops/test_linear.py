"""Products against numpy."""

from __future__ import annotations

import numpy as np
import torch

from layerdiff.mil.ops import linear

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


def test_an_integer_operand_is_promoted():
    whole = np.random.default_rng(3).integers(-9, 9, (5, 4))
    y = torch.from_numpy(whole.astype(np.int32))
    np.testing.assert_allclose(linear.matmul(x=T, y=y, transpose_y=True), X @ whole.T)
    np.testing.assert_allclose(linear.linear(x=T, weight=y, bias=torch.ones(5, dtype=torch.int32)), X @ whole.T + 1)
    product = linear.matmul(x=y, y=y, transpose_y=True)
    assert product.dtype == torch.int32
    np.testing.assert_array_equal(product, whole @ whole.T)
