"""Rearrangements against the index formulas of the ops, over arrays that hold every element once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
DTYPES = st.sampled_from(["float32", "float64", "int32", "int16", "int8", "uint8", "bool"])
bounded = settings(max_examples=40, derandomize=True, deadline=None)
sizes = st.integers(1, 3)


def numbered(shape, dtype="float32"):
    """Every element another value, as far as the dtype goes."""
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


arrays = st.builds(numbered, SHAPES, DTYPES)


def check(result, expected):
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(result, expected)


# ------------------------------------------------------------------ axes


@bounded
@given(x=arrays, data=st.data())
def test_transpose(run, x, data):
    perm = data.draw(st.permutations(range(x.ndim)))
    expected = np.empty([x.shape[axis] for axis in perm], x.dtype)
    for place in np.ndindex(*expected.shape):
        source = [0] * x.ndim
        for axis, i in zip(perm, place, strict=True):
            source[axis] = i
        expected[place] = x[tuple(source)]
    check(run("transpose", x=x, perm=tuple(perm)), expected)
    check(run("transpose", x=x, perm=tuple(axis - x.ndim for axis in perm)), expected)


@bounded
@given(x=arrays, data=st.data())
def test_expand_dims(run, x, data):
    """The axes are positions in the result."""
    rank = x.ndim + data.draw(st.integers(1, 3))
    axes = data.draw(st.lists(st.integers(0, rank - 1), min_size=rank - x.ndim, max_size=rank - x.ndim, unique=True))
    left = iter(x.shape)
    shape = [1 if axis in axes else next(left) for axis in range(rank)]
    signed = tuple(axis - rank if data.draw(st.booleans()) else axis for axis in axes)
    check(run("expand_dims", x=x, axes=signed), x.reshape(shape))


@bounded
@given(x=arrays, data=st.data())
def test_squeeze(run, x, data):
    """Axes longer than 1 stay, also where they are named."""
    axes = data.draw(st.lists(st.integers(0, max(0, x.ndim - 1)), max_size=x.ndim, unique=True)) if x.ndim else []
    kept = [n for axis, n in enumerate(x.shape) if n != 1 or axis not in axes]
    signed = tuple(axis - x.ndim if data.draw(st.booleans()) else axis for axis in axes)
    check(run("squeeze", x=x, axes=signed), x.reshape(kept))
    check(run("squeeze", x=x), x.reshape([n for n in x.shape if n != 1]))


@bounded
@given(x=arrays, data=st.data())
def test_reverse(run, x, data):
    axes = data.draw(st.lists(st.integers(-x.ndim, -1), max_size=x.ndim, unique=True)) if x.ndim else []
    check(
        run("reverse", x=x, axes=tuple(axes)),
        x[tuple(slice(None, None, -1 if a - x.ndim in axes else 1) for a in range(x.ndim))],
    )
    check(run("reverse", x=x), x[(slice(None, None, -1),) * x.ndim])


@bounded
@given(data=st.data(), shape=hnp.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=4), dtype=DTYPES)
def test_reverse_sequence(run, data, shape, dtype):
    """The first `lengths[i]` elements of the i-th sequence are turned round, the others stay."""
    x = numbered(shape, dtype)
    seq, batch = data.draw(st.permutations(range(x.ndim)))[:2]
    lengths = tuple(data.draw(st.integers(0, shape[seq])) for _ in range(shape[batch]))
    expected = x.copy()
    rows = np.moveaxis(expected, (batch, seq), (0, 1))
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = row[:length][::-1].copy()
    check(run("reverse_sequence", x=x, lengths=lengths, seq_axis=seq, batch_axis=batch), expected)
    check(run("reverse_sequence", x=x, lengths=lengths, seq_axis=seq - x.ndim, batch_axis=batch - x.ndim), expected)


def test_reverse_sequence_refuses_lengths_beyond_the_axis(run):
    for lengths in ((4, 1), (1, -1)):
        with pytest.raises(ValueError, match="leave an axis of length 3"):
            run("reverse_sequence", x=numbered((2, 3)), lengths=lengths, seq_axis=1, batch_axis=0)


@bounded
@given(data=st.data(), shape=hnp.array_shapes(max_dims=3, max_side=6), dtype=DTYPES, stride=sizes)
def test_sliding_windows(run, data, shape, dtype, stride):
    """(length - size) // stride + 1 windows; the elements of a window lie along the axis behind it."""
    x = numbered(shape, dtype)
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    size = data.draw(st.integers(1, shape[axis]))
    starts = range(0, shape[axis] - size + 1, stride)
    assert len(starts) == (shape[axis] - size) // stride + 1
    expected = np.stack([np.take(x, range(i, i + size), axis) for i in starts], axis % x.ndim)
    check(run("sliding_windows", x=x, axis=axis, size=size, stride=stride), expected)
    if stride == 1:
        check(run("sliding_windows", x=x, axis=axis, size=size), expected)


# ------------------------------------------------------------------ shapes


@bounded
@given(x=arrays, data=st.data())
def test_reshape(run, x, data):
    """To any order of the axes' lengths, one of them left to be worked out, under every opset."""
    shape = data.draw(st.permutations(x.shape))
    for opset in ("CoreML5", "CoreML6", "CoreML7", "CoreML8"):
        if 0 not in shape:
            check(run("reshape", opset=opset, x=x, shape=tuple(shape)), x.reshape(shape))
        if x.size and shape:
            unknown = data.draw(st.integers(0, len(shape) - 1))
            given_shape = tuple(-1 if axis == unknown else n for axis, n in enumerate(shape))
            check(run("reshape", opset=opset, x=x, shape=given_shape), x.reshape(shape))


@pytest.mark.parametrize(
    ("opset", "from_shape", "to_shape", "result"),
    [
        ("CoreML7", (2, 50), (1, 0, -1, 0), (1, 1, 2, 50)),  # the example of coremltools' documentation
        ("CoreML8", (2, 3, 4), (0, 0, 0), (2, 3, 4)),
        ("CoreML7", (2, 3, 4), (0, -1), (3, 8)),  # matched from the right
        ("CoreML7", (), (0, 0), (1, 1)),
        ("CoreML7", (0, 3), (0, 0), (0, 3)),
        ("CoreML5", (2, 3, 4), (0, -1, 0), (2, 3, 4)),
        ("CoreML6", (2, 3, 4), (4, 0, -1), (4, 3, 2)),
        ("CoreML5", (0, 4), (0, 0), (0, 4)),
        ("CoreML5", (0, 4), (2, 2, 0), (2, 2, 0)),  # nothing to inherit from: a length of zero
        ("CoreML5", (6,), (2, -1), (2, 3)),
    ],
)
def test_zeros_in_a_shape(run, opset, from_shape, to_shape, result):
    x = numbered(from_shape)
    check(run("reshape", opset=opset, x=x, shape=to_shape), x.reshape(result))


@pytest.mark.parametrize("opset", ["CoreML5", "CoreML6"])
def test_before_ios17_zeros_need_equal_ranks(run, opset):
    with pytest.raises(ValueError, match="needs 2 entries, got 3"):
        run("reshape", opset=opset, x=numbered((2, 50)), shape=(1, 0, -1))


def test_a_shape_of_another_volume_is_refused(run):
    with pytest.raises(RuntimeError, match="invalid for input of size 6"):
        run("reshape", x=numbered((2, 3)), shape=(4, 2))


def test_reshape_like(run):
    """The example of coremltools' documentation, and an end that counts from the right."""
    refs = [numbered((2, 3, 4)), numbered((1, 5, 6), "int32")]
    x = numbered((180,))
    given_parts = {"begins": (0, 1), "ends": (2, 0), "end_masks": (False, True)}
    check(run("reshape_like", x=x, ref_tensors=refs, **given_parts), x.reshape(2, 3, 5, 6))
    parts = {"begins": (-2, 0), "ends": (-1, 2), "end_masks": (False, False)}
    check(run("reshape_like", x=x[:15], ref_tensors=refs, **parts), x[:15].reshape(3, 1, 5))


# ------------------------------------------------------------------ blocks


@bounded
@given(n=sizes, c=sizes, h=sizes, w=sizes, b=sizes)
def test_space_and_depth(run, n, c, h, w, b):
    """`deep[n, (i·b + j)·C + c, h, w] = wide[n, c, h·b + i, w·b + j]`."""
    wide = numbered((n, c, h * b, w * b))
    deep = np.empty((n, c * b * b, h, w), np.float32)
    for i, j in np.ndindex(b, b):
        deep[:, (i * b + j) * c :][:, :c] = wide[:, :, i::b, j::b]
    check(run("space_to_depth", x=wide, block_size=b), deep)
    check(run("depth_to_space", x=deep, block_size=b), wide)


@bounded
@given(n=sizes, c=sizes, h=sizes, w=sizes, f=sizes)
def test_pixel_shuffle(run, n, c, h, w, f):
    """`wide[n, c, h·f + i, w·f + j] = deep[n, c·f² + i·f + j, h, w]`: here the channel comes first."""
    deep = numbered((n, c * f * f, h, w))
    wide = np.empty((n, c, h * f, w * f), np.float32)
    for channel, i, j in np.ndindex(c, f, f):
        wide[:, channel, i::f, j::f] = deep[:, (channel * f + i) * f + j]
    check(run("pixel_shuffle", x=deep, upscale_factor=f), wide)
    check(run("pixel_unshuffle", x=wide, downscale_factor=f), deep)


@bounded
@given(n=sizes, c=sizes, block=st.tuples(sizes, sizes), small=st.tuples(sizes, sizes), data=st.data())
def test_space_and_batch(run, n, c, block, small, data):
    """`batches[(i·b + j)·N + n, c, h, w] = padded[n, c, h·a + i, w·b + j]`."""
    a, b = block
    padded_shape = (n, c, small[0] * a, small[1] * b)
    edges = [data.draw(st.integers(0, size - 1)) for size in padded_shape[2:] for _ in range(2)]
    top, bottom, left, right = edges
    bottom, right = min(bottom, padded_shape[2] - 1 - top), min(right, padded_shape[3] - 1 - left)
    inner = numbered((n, c, padded_shape[2] - top - bottom, padded_shape[3] - left - right)) + 1
    padded = np.pad(inner, [(0, 0), (0, 0), (top, bottom), (left, right)])
    batches = np.concatenate([padded[:, :, i::a, j::b] for i, j in np.ndindex(a, b)])
    for opset in ("CoreML5", "CoreML8"):
        around = (top, bottom, left, right)
        check(run("space_to_batch", opset=opset, x=inner, block_shape=block, paddings=around), batches)
        check(run("batch_to_space", opset=opset, x=batches, block_shape=block, crops=around), inner)
