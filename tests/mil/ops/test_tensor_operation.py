"""Ops on whole tensors that coremltools does not evaluate itself, or that have corners."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerdiff.mil.ops import tensor_operation
from layerdiff.mil.ops.signature import Out

F32, I32 = Out("y", "float32", torch.float32), Out("y", "int32", torch.int32)


def test_sorting_is_stable():
    x = torch.tensor([1, 3, 1, 3, 2])
    values, indices = tensor_operation.topk(x=x, k=3)
    assert (values.tolist(), indices.tolist()) == ([3, 3, 2], [1, 3, 4])
    values, indices = tensor_operation.topk(x=x, k=3, ascending=True)
    assert (values.tolist(), indices.tolist()) == ([1, 1, 2], [0, 2, 4])
    assert tensor_operation.topk(x=x, k=1, return_indices=False).tolist() == [3]
    assert tensor_operation.argsort(x=x).tolist() == [1, 3, 4, 0, 2]


def test_topk_of_minus_one_sorts_everything():
    values, indices = tensor_operation.topk(x=torch.tensor([[1, 3], [2, 0]]), k=-1, axis=0)
    assert (values.tolist(), indices.tolist()) == ([[2, 3], [1, 0]], [[1, 0], [0, 1]])


def test_concat_of_scalars_and_interleaved():
    assert tensor_operation.concat(values=[torch.tensor(1), torch.tensor(2)], axis=0).tolist() == [1, 2]
    a, b = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5, 6], [7, 8]])
    assert tensor_operation.concat(values=[a, b], axis=0, interleave=True).tolist() == [[1, 2], [5, 6], [3, 4], [7, 8]]
    assert tensor_operation.concat(values=[a, b], axis=-1, interleave=True).tolist() == [[1, 5, 2, 6], [3, 7, 4, 8]]


@pytest.mark.parametrize("reverse", [False, True])
def test_exclusive_cumsum(reverse):
    x = np.random.default_rng(0).standard_normal((2, 5))
    y = x[:, ::-1] if reverse else x
    expected = np.concatenate([np.zeros((2, 1)), np.cumsum(y, 1)[:, :-1]], 1)
    result = tensor_operation.cumsum(x=torch.from_numpy(x), axis=1, exclusive=True, reverse=reverse)
    np.testing.assert_allclose(result, expected[:, ::-1] if reverse else expected)


def test_one_hot():
    indices = torch.tensor([[0, 2], [5, -1]])
    result = tensor_operation.one_hot(
        indices=indices,
        one_hot_vector_size=3,
        axis=1,
        out=F32,
        on_value=torch.tensor(2.0),
        off_value=torch.tensor(-1.0),
    )
    assert result.shape == (2, 3, 2)
    expected = -np.ones((2, 3, 2))
    expected[0, 0, 0] = expected[0, 2, 1] = 2
    np.testing.assert_array_equal(result, expected)
    assert tensor_operation.one_hot(indices=torch.tensor(1), one_hot_vector_size=2, out=I32).tolist() == [0, 1]


@pytest.mark.parametrize(("start", "end", "step"), [(0, 7, 2), (5, -1, -2), (0.0, 1.0, 0.3), (2, 2, 1)])
def test_range(start, end, step):
    out = F32 if isinstance(start, float) else I32
    scalars = (torch.tensor(v, dtype=out.held) for v in (start, end, step))
    result = tensor_operation.range_1d(**dict(zip(("start", "end", "step"), scalars, strict=True)), out=out)
    np.testing.assert_allclose(result, np.arange(start, end, step), rtol=1e-6)
    assert result.dtype == out.held
    assert tensor_operation.range_1d(
        start=torch.tensor([1]), end=torch.tensor([3]), step=torch.tensor([1]), out=I32
    ).tolist() == [1, 2]


def test_fill_shape_and_split():
    assert tensor_operation.fill(shape=(2, 1), value=torch.tensor(7), out=I32).tolist() == [[7], [7]]
    assert tensor_operation.fill_like(
        ref_tensor=torch.ones(2), value=torch.tensor(True), out=Out("y", "bool", torch.bool)
    ).all()
    assert tensor_operation.shape(x=torch.zeros(2, 0, 3)).tolist() == [2, 0, 3]
    parts = tensor_operation.split(x=torch.arange(6), axis=0, num_splits=3)
    assert [p.tolist() for p in parts] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ValueError, match="length 6 cannot be split into 4"):
        tensor_operation.split(x=torch.arange(6), axis=0, num_splits=4)


def test_reflection_needs_enough_elements():
    x = torch.arange(4.0)
    assert tensor_operation.pad(x=x, pad=(3, 2), mode="reflect").tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1]
    with pytest.raises(ValueError, match="reflecting 4 elements"):
        tensor_operation.pad(x=x, pad=(4, 0), mode="reflect")
