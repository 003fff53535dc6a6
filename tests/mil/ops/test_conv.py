"""Convolutions against explicit sums in float64, and the transposed one as the adjoint of the plain one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from layerdiff.mil.ops import conv

rng = np.random.default_rng(0)


def naive(x, weight, strides, before, after, dilations, groups):
    """Cross-correlation by its definition."""
    x = np.pad(x, [(0, 0), (0, 0), *zip(before, after, strict=True)])
    n, c_out, spatial = x.shape[0], weight.shape[0], weight.shape[2:]
    sizes = [
        (s - (k - 1) * d - 1) // t + 1 for s, k, d, t in zip(x.shape[2:], spatial, dilations, strides, strict=True)
    ]
    result = np.zeros((n, c_out, *sizes))
    per_group = c_out // groups
    for o in range(c_out):
        inputs = range(o // per_group * weight.shape[1], (o // per_group + 1) * weight.shape[1])
        for place in itertools.product(*map(range, sizes)):
            for k in itertools.product(*map(range, spatial)):
                at = tuple(p * t + i * d for p, t, i, d in zip(place, strides, k, dilations, strict=True))
                for ci, c in enumerate(inputs):
                    result[(slice(None), o, *place)] += x[(slice(None), c, *at)] * weight[(o, ci, *k)]
    return result


def tensors(*shapes):
    arrays = [rng.standard_normal(shape) for shape in shapes]
    return arrays, [torch.from_numpy(a) for a in arrays]


@pytest.mark.parametrize(
    ("size", "kernel", "strides", "dilations", "groups", "pad"),
    [
        ((7,), (3,), (2,), (1,), 1, (1, 2)),
        ((7,), (2,), (1,), (3,), 2, (0, 0)),
        ((5, 6), (3, 2), (2, 1), (1, 2), 1, (1, 1, 0, 3)),
        ((5, 6), (3, 3), (1, 1), (1, 1), 4, (1, 1, 1, 1)),
        ((3, 4, 3), (2, 2, 1), (1, 2, 1), (1, 1, 1), 1, (0, 1, 1, 0, 0, 0)),
    ],
)
def test_conv_with_custom_padding(size, kernel, strides, dilations, groups, pad):
    (x, w, b), (tx, tw, tb) = tensors((2, 4, *size), (4, 4 // groups, *kernel), (4,))
    parameters = {"strides": strides, "dilations": dilations, "groups": groups, "pad_type": "custom", "pad": pad}
    result = conv.conv(x=tx, weight=tw, bias=tb, **parameters).numpy()
    expected = naive(x, w, strides, pad[0::2], pad[1::2], dilations, groups) + b.reshape(-1, *[1] * len(size))
    np.testing.assert_allclose(result, expected, atol=1e-12)


@pytest.mark.parametrize("pad_type", ["same", "same_lower"])
@pytest.mark.parametrize(("size", "kernel", "stride"), [(7, 3, 2), (8, 3, 2), (8, 4, 1), (5, 1, 3), (6, 2, 2)])
def test_same_padding_keeps_the_length_over_the_stride(pad_type, size, kernel, stride):
    (x, w), (tx, tw) = tensors((1, 2, size), (3, 2, kernel))
    result = conv.conv(x=tx, weight=tw, strides=(stride,), pad_type=pad_type).numpy()
    assert result.shape[-1] == -(-size // stride)
    total = max((result.shape[-1] - 1) * stride + kernel - size, 0)
    before = total // 2 if pad_type == "same" else total - total // 2
    np.testing.assert_allclose(result, naive(x, w, (stride,), (before,), (total - before,), (1,), 1), atol=1e-12)


def test_defaults_are_no_padding_and_unit_strides():
    (x, w), (tx, tw) = tensors((1, 2, 5, 5), (3, 2, 3, 3))
    np.testing.assert_allclose(
        conv.conv(x=tx, weight=tw).numpy(), naive(x, w, (1, 1), (0, 0), (0, 0), (1, 1), 1), atol=1e-12
    )


@pytest.mark.parametrize(("pad_type", "pad"), [("valid", None), ("custom", (1, 2))])
@pytest.mark.parametrize("groups", [1, 2])
def test_conv_transpose_is_the_adjoint_of_conv(pad_type, pad, groups):
    """<conv(x), y> = <x, conv_transpose(y)> for every x and y of matching lengths."""
    (_, _, _), (w, y, _) = tensors((4, 4 // groups, 3), (1, 4, 5), (4,))
    z = conv.conv_transpose(x=y, weight=w, strides=(2,), pad_type=pad_type, pad=pad, groups=groups)
    x = torch.from_numpy(rng.standard_normal(z.shape))
    forward = conv.conv(x=x, weight=w, strides=(2,), pad_type=pad_type, pad=pad, groups=groups)
    assert forward.shape == y.shape
    torch.testing.assert_close((forward * y).sum(), (x * z).sum())


def test_conv_transpose_same_and_output_shape():
    (_, _, b), (x, w, tb) = tensors((1, 2, 4), (2, 3, 3), (3,))
    full = torch.nn.functional.conv_transpose1d(x, w, tb, stride=2)
    same = conv.conv_transpose(x=x, weight=w, bias=tb, strides=(2,), pad_type="same")
    assert same.shape == (1, 3, 8)
    torch.testing.assert_close(same, full[..., :8])
    longer = conv.conv_transpose(x=x, weight=w, bias=tb, strides=(2,), output_shape=(1, 3, 10))
    torch.testing.assert_close(longer[..., :9], full)
    np.testing.assert_allclose(longer[0, :, 9].numpy(), b)
