"""Products against loops and numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

lengths = st.integers(0, 4)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
bounded = settings(max_examples=25, derandomize=True, deadline=None)


def array(data, dtype, shape):
    """Small whole numbers and halves: every product and sum of them is exact in every dtype."""
    whole = data.draw(hnp.arrays(np.int8, shape, elements=st.integers(-8, 8)))
    return whole.astype(dtype) if dtype == "int32" else (whole / 2).astype(dtype)


@dtypes
@bounded
@given(data=st.data(), lead=st.lists(lengths, max_size=3), inner=lengths, outer=lengths, with_bias=st.booleans())
def test_linear(run, dtype, data, lead, inner, outer, with_bias):
    x, weight = array(data, dtype, (*lead, inner)), array(data, dtype, (outer, inner))
    bias = {"bias": array(data, dtype, outer)} if with_bias else {}
    result = run("linear", x=x, weight=weight, **bias)
    expected = (x[..., None, :] * weight).sum(-1) + bias.get("bias", 0)
    assert (result.dtype, result.shape) == (dtype, (*lead, outer))
    np.testing.assert_array_equal(result, expected)


@dtypes
@bounded
@given(data=st.data(), flips=st.tuples(st.booleans(), st.booleans()), inner=lengths)
def test_matmul_broadcasts_what_leads(run, dtype, data, flips, inner):
    batch = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, min_side=0, max_side=3))
    m, n = data.draw(lengths), data.draw(lengths)
    x = array(data, dtype, (*batch.input_shapes[0], m, inner))
    y = array(data, dtype, (*batch.input_shapes[1], inner, n))
    given_x, given_y = (np.swapaxes(v, -1, -2) if flip else v for v, flip in zip((x, y), flips, strict=True))
    result = run("matmul", x=given_x, y=given_y, transpose_x=flips[0], transpose_y=flips[1])
    assert (result.dtype, result.shape) == (dtype, (*batch.result_shape, m, n))
    np.testing.assert_array_equal(result, (x[..., :, :, None] * y[..., None, :, :]).sum(-2))


@dtypes
def test_matmul_of_vectors(run, dtype):
    """A vector has no axes to transpose: the flags have no effect on it."""
    vector, matrix = np.arange(3).astype(dtype), np.arange(24).reshape(2, 3, 4).astype(dtype)
    for flag in (False, True):
        np.testing.assert_array_equal(run("matmul", x=vector, y=vector, transpose_x=flag, transpose_y=flag), 5)
        np.testing.assert_array_equal(run("matmul", x=vector, y=matrix, transpose_x=flag), vector @ matrix)
        np.testing.assert_array_equal(
            run("matmul", x=matrix, y=vector, transpose_x=True, transpose_y=flag), matrix.swapaxes(1, 2) @ vector
        )


def test_float32_products_accumulate_in_float32_at_least(run):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1, 4096)), rng.standard_normal((4096, 1))
    result = run("matmul", x=x.astype(np.float32), y=y.astype(np.float32))
    np.testing.assert_allclose(result, x @ y, atol=4096 * np.finfo(np.float32).eps)


def test_nan_and_infinity_reach_only_their_row(run):
    x = np.array([[np.nan, 1], [np.inf, 1], [1, 1]], np.float32)
    result = run("matmul", x=x, y=np.array([[1, 0], [0, 1]], np.float32))
    np.testing.assert_array_equal(result, [[np.nan, np.nan], [np.inf, np.nan], [1, 1]])


def test_an_integer_operand_is_promoted(run):
    """iOS17: a constant operand may have another dtype than the computed one."""
    rng = np.random.default_rng(3)
    x, whole = rng.standard_normal((2, 3, 4)), rng.integers(-9, 9, (5, 4)).astype(np.int32)
    np.testing.assert_allclose(run("matmul", x=x, y=whole, transpose_y=True), x @ whole.T)
    np.testing.assert_allclose(run("linear", x=x, weight=whole, bias=np.ones(5, np.int32)), x @ whole.T + 1)
    np.testing.assert_allclose(run("linear", x=whole, weight=x[0], bias=np.ones(3)), whole @ x[0].T + 1)


@pytest.mark.parametrize("equation", ["nchw,nwhu->nchu", "abcd,adce->abce", "chw,whr->chr"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@bounded
@given(data=st.data(), sizes=st.tuples(*[lengths] * 5), ones=st.tuples(*[st.sampled_from(["", "x", "y"])] * 2))
def test_einsum(run, equation, dtype, data, sizes, ones):
    """`sum over w of x[n, c, h, w] * y[n, w, h, u]`; n and h of length 1 are broadcast."""
    n, c, h, w, u = sizes
    x_shape = [1 if ones[0] == "x" else n, c, 1 if ones[1] == "x" else h, w]
    y_shape = [1 if ones[0] == "y" else n, w, 1 if ones[1] == "y" else h, u]
    rank = len(equation.split(",")[0])
    x, y = array(data, dtype, x_shape[-rank:]), array(data, dtype, y_shape[-rank:])
    products = np.moveaxis(x, -1, -3)[..., None] * y[..., :, None, :, :]  # [n, w, c, h, u]
    result = run("einsum", values=[x, y], equation=equation)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, products.sum(-4))
