"""Pooling against torch, and against explicit windows where torch has no such padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from layerdiff.mil.ops import pool

X = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 7, 8)))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("kernel", "strides", "pad"), [((2, 3), (2, 2), (0, 1)), ((3, 3), (2, 3), (1, 1)), ((3, 2), (3, 3), (1, 0))]
)
def test_symmetric_padding_is_torchs(kernel, strides, pad, ceil_mode):
    explicit = (pad[0], pad[0], pad[1], pad[1])
    shared = {
        "x": X,
        "kernel_sizes": kernel,
        "strides": strides,
        "pad_type": "custom",
        "pad": explicit,
        "ceil_mode": ceil_mode,
    }
    torch.testing.assert_close(
        pool.max_pool(**shared), functional.max_pool2d(X, kernel, strides, pad, ceil_mode=ceil_mode)
    )
    for exclude in (False, True):
        torch.testing.assert_close(
            pool.avg_pool(**shared, exclude_padding_from_average=exclude),
            functional.avg_pool2d(X, kernel, strides, pad, ceil_mode=ceil_mode, count_include_pad=not exclude),
        )


def windows(x, kernel, stride, before, after, fill):
    padded = np.pad(x, [(0, 0), (0, 0), (before, after)], constant_values=fill)
    count = (padded.shape[-1] - kernel) // stride + 1
    return np.stack([padded[..., i * stride : i * stride + kernel] for i in range(count)], axis=2)


@pytest.mark.parametrize(("pad_type", "before", "after"), [("same", 0, 1), ("same_lower", 1, 0), ("valid", 0, 0)])
def test_uneven_padding_by_its_definition(pad_type, before, after):
    x = X[:, :, 0].numpy()
    shared = {"x": X[:, :, 0], "kernel_sizes": (2,), "strides": (1,), "pad_type": pad_type}
    np.testing.assert_allclose(pool.max_pool(**shared), windows(x, 2, 1, before, after, -np.inf).max(-1))
    np.testing.assert_allclose(pool.avg_pool(**shared), windows(x, 2, 1, before, after, 0).mean(-1))
    nan = np.nanmean(windows(x, 2, 1, before, after, np.nan), -1)
    np.testing.assert_allclose(pool.avg_pool(**shared, exclude_padding_from_average=True), nan)
    squares = np.sqrt((windows(x, 2, 1, before, after, 0) ** 2).sum(-1))
    np.testing.assert_allclose(pool.l2_pool(**shared), squares)
