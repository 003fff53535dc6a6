"""Pooling against loops over its windows in float64, and against torch where torch has such padding."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from layerdiff import mil, quiet
from layerdiff.mil.ops import pool

RTOL = {np.float32: 1e-5, np.float64: 1e-12}


@pytest.fixture(scope="session")
def declared_shape():
    """coremltools' own inference of the spatial shape."""
    with quiet.third_party():
        from coremltools.converters.mil.mil.ops.defs._utils import spatial_dimensions_out_shape
    return spatial_dimensions_out_shape


@st.composite
def geometry(draw):
    """An array and the parameters of a small pooling: 1 to 3 axes, every pad type, `ceil_mode` where MIL has it."""
    axes = draw(st.integers(1, 3))
    size, kernel, strides = (draw(st.tuples(*[st.integers(1, high)] * axes)) for high in (6, 3, 4))
    pad_type = draw(st.sampled_from(["valid", "same", "same_lower", "custom"]))
    pad = [draw(st.integers(0, 2)) for _ in range(2 * axes)] if pad_type == "custom" else [0] * 2 * axes
    ceil_mode = axes < 3 and not pad_type.startswith("same") and draw(st.booleans())
    if ceil_mode:  # MIL wants the padding to be the same on both sides
        pad[1::2] = pad[0::2]
    covered = [n + b + a - k for n, b, a, k in zip(size, pad[::2], pad[1::2], kernel, strict=True)]
    assume(pad_type.startswith("same") or min(covered) >= 0)
    x = np.random.default_rng(draw(st.integers(0, 99))).standard_normal((2, 2, *size))
    x = x.astype(draw(st.sampled_from(sorted(RTOL, key=str))))
    how = {"kernel_sizes": kernel, "strides": strides, "pad_type": pad_type, "pad": tuple(pad)}
    return x, how, {"ceil_mode": ceil_mode}


def axis_windows(length, size, stride, before, after, pad_type, ceil_mode):
    """The windows of one axis: which elements each holds, and how many it has together with padding."""
    if pad_type.startswith("same"):
        total = max(0, (-(-length // stride) - 1) * stride + size - length)
        before, after = total // 2, total - total // 2
        before, after = (before, after) if pad_type == "same" else (after, before)
    padded = length + before + after
    count = (math.ceil if ceil_mode else math.floor)((padded - size) / stride) + 1
    if ceil_mode and before + after and (count - 1) * stride >= length + before:
        count -= 1
    starts = [i * stride - before for i in range(count)]
    return [
        ([i for i in range(start, start + size) if 0 <= i < length], max(0, min(start + size, length + after) - start))
        for start in starts
    ]


def windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode):
    """Shape of the result, and for each place of it the elements of its window and its area with padding."""
    axes = [
        axis_windows(*axis, pad_type, ceil_mode)
        for axis in zip(x.shape[2:], kernel_sizes, strides, pad[0::2], pad[1::2], strict=True)
    ]
    for place in itertools.product(*(range(len(axis)) for axis in axes)):
        elements, areas = zip(*(axis[i] for axis, i in zip(axes, place, strict=True)), strict=True)
        yield place, x[(slice(None), slice(None), *np.ix_(*elements))].reshape(*x.shape[:2], -1), math.prod(areas)


def pooled(x, how, reduce):
    """`reduce(elements [N, C, n], area)` of each window, in float64."""
    found = list(windows(x.astype(np.float64), **how))
    shape = [n + 1 for n in found[-1][0]]
    result = np.empty((*x.shape[:2], *shape))
    for place, elements, area in found:
        result[(slice(None), slice(None), *place)] = reduce(elements, area)
    return result


def largest(elements, area):
    return elements.max(-1, initial=-np.inf)


def ratio(total, count):
    return total / count if count else np.full_like(total, np.nan)


REDUCTIONS = [
    (pool.max_pool, {}, largest),
    (pool.avg_pool, {}, lambda elements, area: ratio(elements.sum(-1), area)),
    (
        pool.avg_pool,
        {"exclude_padding_from_average": True},
        lambda elements, area: ratio(elements.sum(-1), elements.shape[-1]),
    ),
    (pool.l2_pool, {}, lambda elements, area: np.sqrt((elements**2).sum(-1))),
]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(geometry(), st.sampled_from(REDUCTIONS))
def test_pooling_by_its_definition(case, reduction):
    x, how, ceil = case
    kernel, parameters, reduce = reduction
    result = kernel(x=torch.from_numpy(x), **how, **ceil, **parameters).numpy()
    assert result.dtype == x.dtype
    expected = pooled(x, {**how, **ceil}, reduce)
    np.testing.assert_allclose(result, expected, rtol=RTOL[x.dtype.type], atol=1e-6 if x.dtype == np.float32 else 1e-14)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(geometry())
def test_shapes_are_those_that_coremltools_declares(declared_shape, case):
    x, how, ceil = case
    shape = declared_shape(how["pad_type"], x.shape[2:], how["kernel_sizes"], how["strides"], None, how["pad"], **ceil)
    assert pool.max_pool(x=torch.from_numpy(x), **how, **ceil).shape[2:] == tuple(shape)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("kernel", "strides", "pad"), [((2, 3), (2, 2), (0, 1)), ((3, 3), (2, 3), (1, 1)), ((3, 2), (3, 3), (1, 0))]
)
def test_symmetric_padding_is_torchs(run, kernel, strides, pad, ceil_mode):
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 8))
    explicit = {"pad_type": "custom", "pad": (pad[0], pad[0], pad[1], pad[1]), "ceil_mode": ceil_mode}
    shared = {"x": x, "kernel_sizes": kernel, "strides": strides, **explicit}
    tx = torch.from_numpy(x)
    largest_of = functional.max_pool2d(tx, kernel, strides, pad, ceil_mode=ceil_mode)
    np.testing.assert_array_equal(run("max_pool", **shared), largest_of)
    for exclude in (False, True):
        mean = functional.avg_pool2d(tx, kernel, strides, pad, ceil_mode=ceil_mode, count_include_pad=not exclude)
        result = run("avg_pool", **shared, exclude_padding_from_average=exclude)
        np.testing.assert_allclose(result, mean, rtol=1e-12)


@pytest.mark.parametrize("op", ["avg_pool", "max_pool", "l2_pool"])
def test_defaults_are_unit_strides_and_no_padding(run, op):
    x = np.abs(np.random.default_rng(0).standard_normal((1, 2, 5)))
    pairs = np.stack([x[..., :-1], x[..., 1:]])
    expected = {"avg_pool": pairs.mean(0), "max_pool": pairs.max(0), "l2_pool": np.sqrt((pairs**2).sum(0))}[op]
    np.testing.assert_allclose(run(op, x=x, kernel_sizes=(2,), pad_type="valid"), expected)
    np.testing.assert_allclose(run(op, x=x, kernel_sizes=(2,), pad_type="CUSTOM"), expected)


@pytest.mark.parametrize("op", ["avg_pool", "max_pool", "l2_pool"])
def test_what_is_no_number_stays_in_its_windows(run, op):
    x = np.array([[[1.0, np.nan, 2.0, 3.0]]])
    result = run(op, x=x, kernel_sizes=(2,), pad_type="valid")
    np.testing.assert_array_equal(np.isnan(result), [[[True, True, False]]])


def test_ceil_mode_without_padding_keeps_a_window_of_nothing(run):
    how = {"x": np.arange(1.0, 5.0).reshape(1, 1, 4), "kernel_sizes": (1,), "strides": (5,), "pad_type": "valid"}
    np.testing.assert_array_equal(run("max_pool", **how, ceil_mode=True).ravel(), [1, -np.inf])
    np.testing.assert_array_equal(run("l2_pool", **how, ceil_mode=True).ravel(), [1, 0])
    np.testing.assert_array_equal(run("avg_pool", **how, ceil_mode=True).ravel(), [1, np.nan])


def test_an_unknown_pad_type_is_refused():
    with pytest.raises(ValueError, match="the pad type 'full' is none of"):
        pool.max_pool(x=torch.ones(1, 1, 2), kernel_sizes=(1,), pad_type="full")


@pytest.mark.parametrize("opset", ["iOS15", "iOS17"])
def test_pooling_in_a_program(build, opset):
    x = np.random.default_rng(0).standard_normal((1, 2, 7, 6)).astype(np.float32)
    how = {"kernel_sizes": [3, 2], "strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 0, 0]}

    def program(x):
        from coremltools.converters.mil import Builder as mb

        excluding = {"exclude_padding_from_average": True}
        return (
            mb.max_pool(x=x, **how, ceil_mode=True, name="largest"),
            mb.avg_pool(x=x, **how, **excluding, name="mean"),
            mb.l2_pool(x=x, **how, name="length"),
        )

    found = mil.load(build(program, x=x, opset=opset)).predict({"x": x})
    for name, ceil, reduction in (("largest", True, 0), ("mean", False, 2), ("length", False, 3)):
        expected = pooled(x, {**how, "ceil_mode": ceil}, REDUCTIONS[reduction][2])
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)
