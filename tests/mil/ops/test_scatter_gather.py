"""Gathering and scattering against loops over numpy arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerdiff.mil.ops import scatter_gather

rng = np.random.default_rng(0)
X = rng.standard_normal((3, 4, 5))
T = torch.from_numpy(X)
COMBINE = {
    "update": lambda old, new: new,
    "add": lambda old, new: old + new,
    "sub": lambda old, new: old - new,
    "mul": lambda old, new: old * new,
    "div": lambda old, new: old / new,
    "max": np.maximum,
    "min": np.minimum,
}


def index(*values, shape=None):
    return torch.tensor(values, dtype=torch.int32).reshape(shape or (len(values),))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_gather(axis, shape):
    indices = rng.integers(-3, 3, shape)
    result = scatter_gather.gather(x=T, indices=torch.from_numpy(indices), axis=axis)
    np.testing.assert_array_equal(result, np.take(X, indices, axis))


@pytest.mark.parametrize(("axis", "batch_dims"), [(1, 1), (2, 1), (2, 2)])
def test_gather_with_batches(axis, batch_dims):
    indices = rng.integers(0, 4, (*X.shape[:batch_dims], 2, 2))
    result = scatter_gather.gather(x=T, indices=torch.from_numpy(indices), axis=axis, batch_dims=batch_dims)
    expected = np.stack([np.take(x, i, axis - 1) for x, i in zip(X, indices, strict=True)])
    if batch_dims == 2:
        expected = np.stack(
            [[np.take(X[b, c], indices[b, c], 0) for c in range(X.shape[1])] for b in range(X.shape[0])]
        )
    np.testing.assert_array_equal(result, expected)


def test_gather_nd():
    indices = rng.integers(0, 3, (2, 6, 2))
    result = scatter_gather.gather_nd(x=T, indices=torch.from_numpy(indices))
    np.testing.assert_array_equal(result, X[indices[..., 0], indices[..., 1]])
    batched = rng.integers(0, 4, (3, 6, 1))
    result = scatter_gather.gather_nd(x=T, indices=torch.from_numpy(batched), batch_dims=1)
    np.testing.assert_array_equal(result, np.stack([x[i[:, 0]] for x, i in zip(X, batched, strict=True)]))


@pytest.mark.parametrize("mode", COMBINE)
def test_scatter(mode):
    updates = rng.standard_normal((3, 2, 5))
    expected = X.copy()
    for i, place in enumerate((2, 0)):
        expected[:, place] = COMBINE[mode](expected[:, place], updates[:, i])
    result = scatter_gather.scatter(data=T, indices=index(2, 0), updates=torch.from_numpy(updates), axis=1, mode=mode)
    np.testing.assert_allclose(result, expected)


@pytest.mark.parametrize("mode", ["add", "sub", "mul", "max", "min"])
def test_repeated_indices_combine(mode):
    updates = rng.standard_normal((3, 4, 5))
    expected = X.copy()
    for i, place in enumerate((1, 1, 2)):
        expected[place] = COMBINE[mode](expected[place], updates[i])
    result = scatter_gather.scatter(data=T, indices=index(1, 1, -1), updates=torch.from_numpy(updates), mode=mode)
    np.testing.assert_allclose(result, expected)


@pytest.mark.parametrize("mode", COMBINE)
def test_scatter_along_axis(mode):
    indices = np.stack([rng.permutation(4)[:2] for _ in range(15)]).reshape(3, 5, 2).transpose(0, 2, 1)
    updates, expected = rng.standard_normal((3, 2, 5)), X.copy()
    for i, j, k in np.ndindex(*indices.shape):
        at = (i, indices[i, j, k], k)
        expected[at] = COMBINE[mode](expected[at], updates[i, j, k])
    result = scatter_gather.scatter_along_axis(
        data=T, indices=torch.from_numpy(indices.copy()), updates=torch.from_numpy(updates), axis=1, mode=mode
    )
    np.testing.assert_allclose(result, expected)


@pytest.mark.parametrize("mode", COMBINE)
def test_scatter_nd(mode):
    indices = np.array([[0, 1], [2, -1], [1, 0]])
    updates, expected = rng.standard_normal((3, 5)), X.copy()
    for (i, j), update in zip(indices, updates, strict=True):
        expected[i, j] = COMBINE[mode](expected[i, j], update)
    result = scatter_gather.scatter_nd(
        data=T, indices=torch.from_numpy(indices), updates=torch.from_numpy(updates), mode=mode
    )
    np.testing.assert_allclose(result, expected)


def test_validation_refuses_negative_indices_too():
    for bad in (-1, 3):
        with pytest.raises(IndexError, match="leave an axis of length 3"):
            scatter_gather.gather(x=T, indices=index(0, bad), validate_indices=True)
        with pytest.raises(IndexError, match="leave an axis of length 3"):
            scatter_gather.scatter(data=T, indices=index(0, bad), updates=T[:2], validate_indices=True)


def test_without_validation_a_scatter_leaves_out_what_is_outside():
    result = scatter_gather.scatter(data=T, indices=index(-1, 7, 1), updates=T, mode="update", validate_indices=False)
    expected = X.copy()
    expected[1] = X[2]
    np.testing.assert_array_equal(result, expected)


def test_nothing_to_gather():
    empty = torch.zeros(0, dtype=torch.int32)
    assert scatter_gather.gather(x=T, indices=empty, axis=1).shape == (3, 0, 5)
