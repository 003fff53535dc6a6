"""Rearrangements against numpy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.mil.ops import tensor_transformation as transformation

X = np.arange(2 * 8 * 4 * 6).reshape(2, 8, 4, 6)
T = torch.from_numpy(X)
bounds = st.integers(-6, 6)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    st.lists(
        st.tuples(bounds, bounds, st.sampled_from([-3, -2, -1, 1, 2, 3]), st.booleans(), st.booleans()),
        min_size=2,
        max_size=2,
    )
)
def test_slice_by_index_is_numpys(parts):
    array = np.arange(20).reshape(4, 5)
    begin, end, stride, begin_mask, end_mask = zip(*parts, strict=True)
    slices = tuple(slice(None if bm else b, None if em else e, s) for b, e, s, bm, em in parts)
    result = transformation.slice_by_index(
        x=torch.from_numpy(array), begin=begin, end=end, stride=stride, begin_mask=begin_mask, end_mask=end_mask
    )
    np.testing.assert_array_equal(result, array[slices])


def test_slice_by_index_with_squeezed_axes():
    for first in (0, -1, 2, -3):
        result = transformation.slice_by_index(
            x=T,
            begin=(0, first, 0, 0),
            end=(0, 0, 0, 0),
            end_mask=(True, False, True, True),
            squeeze_mask=(False, True, False, False),
        )
        np.testing.assert_array_equal(result, X[:, first])


def test_slice_by_index_of_one_element_backwards():
    """An example from coremltools' tests that Core ML itself gets wrong (rdar://99664032)."""
    x = torch.arange(6.0).reshape(1, 3, 2)
    result = transformation.slice_by_index(
        x=x,
        begin=(-1, 0, 0),
        end=(-2, 0, 0),
        stride=(-1, 1, 1),
        begin_mask=(False, True, True),
        end_mask=(False, True, True),
    )
    assert torch.equal(result, x)


def test_slice_update_writes_where_slice_reads():
    update = -np.ones((2, 3, 4, 2), np.int64)
    expected = X.copy()
    expected[:, 6:0:-2, :, 4:] = update
    arguments = {
        "begin": (0, 6, 0, 4),
        "end": (0, 0, 0, 0),
        "stride": (1, -2, 1, 1),
        "end_mask": (True, False, True, True),
    }
    np.testing.assert_array_equal(
        transformation.slice_update(x=T, update=torch.from_numpy(update), **arguments), expected
    )
    np.testing.assert_array_equal(T, X)


def test_reshape_matches_zeros_from_the_right():
    assert transformation.reshape(x=torch.zeros(2, 50), shape=(1, 0, -1, 0)).shape == (1, 1, 2, 50)
    assert transformation.reshape(x=torch.zeros(2, 3, 4), shape=(0, 0, 0)).shape == (2, 3, 4)
    assert transformation.reshape(x=torch.zeros(6), shape=(2, -1)).shape == (2, 3)
    assert transformation.reshape_ios15(x=torch.zeros(2, 3, 4), shape=(0, -1, 0)).shape == (2, 3, 4)
    with pytest.raises(ValueError, match="needs 2 entries, got 3"):
        transformation.reshape_ios15(x=torch.zeros(2, 50), shape=(1, 0, -1))


def test_reshape_like():
    refs = [torch.zeros(2, 3, 4), torch.zeros(1, 5, 6)]
    result = transformation.reshape_like(
        x=torch.zeros(180), ref_tensors=refs, begins=(0, 1), ends=(2, 0), end_masks=(False, True)
    )
    assert result.shape == (2, 3, 5, 6)


def test_space_and_depth():
    blocks = transformation.space_to_depth(x=T, block_size=2)
    assert blocks.shape == (2, 32, 2, 3)
    for n, c, h, w in ((0, 1, 2, 3), (1, 7, 3, 4)):
        assert blocks[n, (h % 2 * 2 + w % 2) * 8 + c, h // 2, w // 2] == X[n, c, h, w]
    assert torch.equal(transformation.depth_to_space(x=blocks, block_size=2), T)
    assert torch.equal(transformation.pixel_shuffle(x=T, upscale_factor=2), torch.nn.PixelShuffle(2)(T))
    assert torch.equal(
        transformation.pixel_unshuffle(x=transformation.pixel_shuffle(x=T, upscale_factor=2), downscale_factor=2), T
    )


def test_space_and_batch():
    batches = transformation.space_to_batch(x=T, block_shape=(2, 3), paddings=(0, 2, 1, 2))
    assert batches.shape == (12, 8, 3, 3)
    padded = np.pad(X, [(0, 0), (0, 0), (0, 2), (1, 2)])
    for n, i, j in ((0, 0, 0), (1, 1, 2), (0, 1, 1)):
        np.testing.assert_array_equal(batches[(i * 3 + j) * 2 + n], padded[n, :, i::2, j::3])
    assert torch.equal(transformation.batch_to_space(x=batches, block_shape=(2, 3), crops=(0, 2, 1, 2)), T)


def test_axes():
    assert transformation.expand_dims(x=torch.zeros(2, 3), axes=(0, -1, 2)).shape == (1, 2, 1, 3, 1)
    assert transformation.squeeze(x=torch.zeros(1, 2, 1), axes=(0, 1)).shape == (2, 1)
    assert transformation.squeeze(x=torch.zeros(1, 2, 1)).shape == (2,)
    assert transformation.reverse(x=torch.tensor([[1, 2], [3, 4]])).tolist() == [[4, 3], [2, 1]]


def test_reverse_sequence():
    x = np.arange(24).reshape(2, 3, 4)
    result = transformation.reverse_sequence(x=torch.from_numpy(x), lengths=(3, 0), seq_axis=2, batch_axis=0)
    expected = x.copy()
    expected[0, :, :3] = x[0, :, 2::-1]
    np.testing.assert_array_equal(result, expected)
    result = transformation.reverse_sequence(x=torch.from_numpy(x), lengths=(2, 1, 2), seq_axis=0, batch_axis=1)
    expected = x.copy()
    expected[:, [0, 2]] = x[::-1, [0, 2]]
    np.testing.assert_array_equal(result, expected)


def test_sliding_windows():
    result = transformation.sliding_windows(x=T, axis=1, size=3, stride=2)
    expected = np.lib.stride_tricks.sliding_window_view(X, 3, axis=1)[:, ::2]
    np.testing.assert_array_equal(result, np.moveaxis(expected, -1, 2))


def test_slice_by_size():
    np.testing.assert_array_equal(
        transformation.slice_by_size(x=T, begin=(0, -3, 1, 0), size=(1, 2, -1, 6)), X[:1, 5:7, 1:]
    )
