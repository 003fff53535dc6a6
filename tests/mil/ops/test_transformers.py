"""Attention against its formula in float64, element by element."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layerdiff import mil, quiet
from layerdiff.mil.ops import transformers

with quiet.third_party():
    import coremltools  # noqa: F401
    from coremltools.converters.mil import Builder as mb


def attention(query, key, value, mask=None):
    """The formula, one query at a time; a boolean mask leaves keys out instead of adding -inf to them."""
    batch, (length, keys) = query.shape[:-2], (query.shape[-2], key.shape[-2])
    result = np.zeros((*batch, length, value.shape[-1]))
    mask = np.zeros((*batch, length, keys)) if mask is None else np.broadcast_to(mask, (*batch, length, keys))
    for place in np.ndindex(*batch, length):
        head, row = place[:-1], mask[place]
        used = row if row.dtype == bool else np.ones(keys, bool)
        scores = key[head][used] @ query[place] / math.sqrt(query.shape[-1]) + (0 if row.dtype == bool else row)
        weights = np.exp(scores - scores.max())
        result[place] = weights @ value[head][used] / weights.sum()
    return result


@st.composite
def cases(draw):
    batch = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=3))
    length, keys, size, value_size = (draw(st.integers(1, 5)) for _ in range(4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    query, key, value = (
        rng.standard_normal((*batch, *shape)) for shape in ((length, size), (keys, size), (keys, value_size))
    )
    kind = draw(st.sampled_from(["none", "bool", "float"]))
    full = (*batch, length, keys)
    shape = full[draw(st.integers(0, len(full) - 1)) :]
    shape = tuple(1 if draw(st.booleans()) else n for n in shape[:-1]) + shape[-1:]
    mask = {"none": None, "bool": rng.random(shape) < 0.6, "float": rng.standard_normal(shape)}[kind]
    if kind == "bool":
        mask[..., rng.integers(keys)] = True
    return query, key, value, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(cases())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_attention_is_its_formula(dtype, case):
    names = ("query", "key", "value", "attn_mask")
    given_ = {
        name: torch.from_numpy(a) if a.dtype == bool else torch.from_numpy(a).to(dtype)
        for name, a in zip(names, case, strict=True)
        if a is not None
    }
    before = {name: tensor.clone() for name, tensor in given_.items()}
    result = transformers.scaled_dot_product_attention(**given_)
    assert result.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(result, attention(*case), rtol=tolerance, atol=tolerance)
    assert all(torch.equal(before[name], given_[name]) for name in given_)


def test_a_mask_of_minus_infinity_is_a_boolean_one():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, n, 4, generator=generator) for n in (3, 5, 5))
    mask = torch.tensor([True, False, True, True, False])
    floats = torch.where(mask, 0.0, -math.inf)
    both = [
        transformers.scaled_dot_product_attention(query=query, key=key, value=value, attn_mask=m)
        for m in (mask, floats)
    ]
    assert torch.equal(*both)


def test_a_row_that_sees_nothing_is_nan_as_the_formula_is():
    query = torch.ones(1, 2, 3)
    mask = torch.tensor([[True, False], [False, False]])
    result = transformers.scaled_dot_product_attention(query=query, key=query, value=query, attn_mask=mask)
    assert result[0, 0].tolist() == [1, 1, 1]
    assert result[0, 1].isnan().all()


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("masked", ["none", "bool", "float"])
def test_in_a_program(build, precision, masked):
    rng = np.random.default_rng(3)
    feed = {name: rng.standard_normal((2, 2, n, 4)).astype(precision) for name, n in (("q", 3), ("k", 5), ("v", 5))}
    mask = {"none": None, "bool": rng.random((3, 5)) < 0.7, "float": rng.standard_normal((3, 5)).astype(precision)}
    chosen = mask[masked]

    def function(q, k, v):
        extra = {} if chosen is None else {"attn_mask": chosen}
        return mb.scaled_dot_product_attention(query=q, key=k, value=v, **extra)

    model = mil.load(build(function, opset="iOS18", precision=precision, **feed))
    assert "scaled_dot_product_attention" in {t.op for t in model.tensors}
    (result,) = model.predict(feed).values()
    expected = attention(*(a.astype(np.float64) for a in feed.values()), chosen)
    tolerance = 1e-6 if precision == "float32" else 2**-11
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)
