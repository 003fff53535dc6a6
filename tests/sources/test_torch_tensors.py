from __future__ import annotations

import gc
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerdiff.sources.torch_tensors import Known, KnownTensors, Storage, View, lent_array, part_names, shares_storage


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    """Any strided view of 40 elements that a model could make by slicing, transposing, expanding and reshaping."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    strides = draw(st.lists(st.integers(0, 6), min_size=len(shape), max_size=len(shape)))
    offset = draw(st.integers(0, 10))
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True) if size)
    return torch.zeros(max(64, last + 1)).as_strided(shape, strides, offset)


def elements(tensor: torch.Tensor) -> list[int]:
    """The positions in the storage that a view reads, in its order."""
    steps = [[i * stride for i in range(size)] for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    return [tensor.storage_offset() + sum(position) for position in product(*steps)]


def view_of(tensor: torch.Tensor) -> View:
    """As if all were at one storage, whose address doesn't matter."""
    strides = tuple(4 * stride for stride in tensor.stride())
    return View(4096 + 4 * tensor.storage_offset(), tuple(tensor.shape), strides, 4)


@given(views(), views())
def test_overlap_is_whether_any_element_belongs_to_both(one: torch.Tensor, other: torch.Tensor) -> None:
    expected = bool(set(elements(one)) & set(elements(other)))
    assert view_of(one).overlaps(view_of(other)) == expected


@given(views(), views())
def test_views_with_the_same_elements_have_them_in_the_same_order(one: torch.Tensor, other: torch.Tensor) -> None:
    if view_of(one).same_elements(view_of(other)):
        assert elements(one) == elements(other)


@pytest.mark.parametrize("shape", [(24,), (2, 12), (2, 3, 4), (1, 24, 1), (4, 6)])
def test_dense_views_of_any_shape_have_the_same_elements(shape: tuple[int, ...]) -> None:
    base = torch.zeros(4, 6)
    assert View.of(base.view(shape)).same_elements(View.of(base))
    assert not View.of(base.t()).same_elements(View.of(base))
    assert not View.of(base[1:]).same_elements(View.of(base))


def test_known_tensors_forget_what_is_freed() -> None:
    known = KnownTensors()
    kept = torch.zeros(1)
    known.put(kept, Known("kept", Storage()))
    for index in range(100):
        tensor = torch.zeros(1)
        assert known.find(tensor) is None  # though it has the id of a freed one
        known.put(tensor, Known(str(index), Storage()))
        found = known.find(tensor)
        assert found is not None
        assert found.name == str(index)
        del tensor
    gc.collect()
    assert len(known) == 1
    known.put(kept, Known("again", Storage()))
    found = known.find(kept)
    assert found is not None
    assert found.name == "again"
    assert len(known) == 1


def test_shared_storage() -> None:
    base = torch.zeros(4)
    assert shares_storage(base, base[2:].view(1, 2))
    assert not shares_storage(base, base.clone())


@pytest.mark.parametrize(
    ("places", "names"),
    [
        ([()], [["m"]]),
        ([("0",), ("1",)], [["m", "m:0"], ["m:1"]]),
        ([("0",), ("1", "0"), ("1", "1")], [["m", "m:0"], ["m:1.0", "m:1"], ["m:1.1"]]),
        ([("a", "b", "c")], [["m", "m:a", "m:a.b", "m:a.b.c"]]),
    ],
)
def test_part_names(places: list[tuple[str, ...]], names: list[list[str]]) -> None:
    assert part_names("m", places) == names


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        (torch.tensor([1.5, -2.0]), np.float32),
        (torch.tensor([1.5, -2.0], dtype=torch.float64), np.float64),
        (torch.tensor([1.5, -2.0], dtype=torch.bfloat16), np.float32),
        (torch.tensor([1.5, -2.0], dtype=torch.float16, requires_grad=True), np.float32),
        (torch.tensor([1, -2], dtype=torch.int16), np.int16),
        (torch.tensor([True, False]), np.bool_),
        (torch.tensor([1 + 2j, -2j]).conj(), np.complex64),
        (torch.tensor([1.5, 0.0]).to_sparse(), np.float32),
    ],
)
def test_values_are_lent_in_a_dtype_of_numpy(tensor: torch.Tensor, dtype: Any) -> None:
    array = lent_array(tensor)
    assert array.dtype == dtype
    assert array.tolist() == tensor.to_dense().tolist()
    assert not array.flags.writeable


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_values_are_lent_as_what_they_stand_for() -> None:
    tensor = torch.quantize_per_tensor(torch.tensor([1.5, -2.0]), 0.5, 0, torch.qint8)
    assert lent_array(tensor).tolist() == [1.5, -2.0]


def test_values_on_the_host_are_not_copied() -> None:
    tensor = torch.zeros(2, 3).t()
    array = lent_array(tensor)
    tensor[1, 1] = 5
    assert array[1, 1] == 5
