"""Selection, and lists as values, against numpy and Python lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.mil.ops import control_flow
from layerdiff.mil.ops.signature import Out

X = np.random.default_rng(0).standard_normal((2, 3, 4))
T = torch.from_numpy(X)
FLOATS = Out("ls", "float32", torch.float32)


def test_selection_broadcasts():
    chosen = control_flow.select(cond=T > 0, a=torch.tensor(1.0).double(), b=T)
    np.testing.assert_array_equal(chosen, np.where(X > 0, 1, X))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.data(), st.lists(st.integers(0, 3), max_size=3), st.lists(st.integers(0, 3), max_size=3))
def test_selection_agrees_with_numpy(data, left, right):
    """Over shapes that broadcast: a length is that of the other side, or 1."""
    rank = min(len(left), len(right))
    right = right[: len(right) - rank] + left[len(left) - rank :]
    ones = data.draw(st.lists(st.booleans(), min_size=len(right), max_size=len(right)))
    right = [1 if one else length for one, length in zip(ones, right, strict=True)]
    rng = np.random.default_rng(1)
    cond, a, b = rng.random(left) > 0.5, rng.standard_normal(right), rng.standard_normal(left)
    chosen = control_flow.select(cond=torch.tensor(cond), a=torch.tensor(a), b=torch.tensor(b))
    np.testing.assert_array_equal(chosen, np.where(cond, a, b))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 4), st.lists(st.tuples(st.integers(0, 6), st.integers(-9, 9)), max_size=8))
def test_a_growing_list_behaves_like_one_of_python(length, writes):
    expected: list[list[float]] = [[0.0, 0.0]] * length
    ls = control_flow.make_list(elem_shape=(2,), out=FLOATS, init_length=length)
    for index, value in writes:
        expected = [*expected, *[[0.0, 0.0]] * (index + 1 - len(expected))]
        expected[index] = [value, value + 1]
        ls = control_flow.list_write(ls=ls, index=index, value=torch.tensor([value, value + 1.0]))
    assert control_flow.list_length(ls=ls).tolist() == len(expected)
    assert control_flow.list_length(ls=ls).dtype == torch.int32
    assert ls.stacked().tolist() == expected
    for index, element in enumerate(expected):
        assert control_flow.list_read(ls=ls, index=index).tolist() == element
    backwards = torch.arange(len(expected) - 1, -1, -1)
    assert control_flow.list_gather(ls=ls, indices=backwards).tolist() == expected[::-1]


def test_a_write_leaves_the_list_that_it_was_made_from():
    ls = control_flow.make_list(elem_shape=(1,), out=FLOATS, init_length=2, dynamic_length=False)
    changed = control_flow.list_scatter(ls=ls, indices=torch.tensor([1, 0]), value=torch.tensor([[5.0], [6.0]]))
    assert changed.stacked().tolist() == [[6.0], [5.0]]
    assert ls.stacked().tolist() == [[0.0], [0.0]]


def test_a_fixed_list_cannot_grow_and_negative_indices_are_none():
    ls = control_flow.make_list(elem_shape=(1,), out=FLOATS, init_length=2, dynamic_length=False)
    for index in (2, -1):
        with pytest.raises(IndexError, match=f"index {index} is outside of a list of 2 tensors"):
            control_flow.list_write(ls=ls, index=index, value=torch.zeros(1))
        with pytest.raises(IndexError, match=f"index {index} is outside of a list of 2 tensors"):
            control_flow.list_read(ls=ls, index=index)


def test_an_unknown_length_is_that_of_what_was_written():
    ls = control_flow.make_list(elem_shape=(None, 2), out=FLOATS, init_length=2)
    with pytest.raises(ValueError, match="was read before anything was written"):
        control_flow.list_read(ls=ls, index=0)
    ls = control_flow.list_write(ls=ls, index=1, value=torch.ones(3, 2))
    assert control_flow.list_read(ls=ls, index=0).shape == (3, 2)


def test_an_empty_list_stacks_to_no_elements():
    ls = control_flow.make_list(elem_shape=(3,), out=FLOATS, init_length=0)
    assert ls.stacked().shape == (0, 3)
    assert control_flow.list_gather(ls=ls, indices=torch.zeros(0, dtype=torch.int32)).shape == (0, 3)
