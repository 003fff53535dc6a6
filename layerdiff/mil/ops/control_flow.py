"""Ops that choose, and lists of tensors.

`cond` and `while_loop` are not here: they are statements of the generated function, because they run blocks.
A list is a value like a tensor: writing to it makes a new one, which shares its elements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from layerdiff.mil.ops.signature import Dims, Out


@dataclass(frozen=True, eq=False)
class TensorList:
    """A list of tensors of one shape and dtype."""

    elements: tuple[Tensor | None, ...]
    """None for what has not been written yet."""
    shape: Dims
    """Of an element; None for a length known only from what is written."""
    dtype: torch.dtype
    dynamic: bool
    """Whether a write behind the end makes it longer."""

    def element(self, index: int) -> Tensor:
        """An element; zeros if it was never written.

        Raises:
            IndexError: there is no such element.
            ValueError: it was never written, and nothing tells its shape.
        """
        if not 0 <= index < len(self.elements):
            raise IndexError(f"index {index} is outside of a list of {len(self.elements)} tensors")
        found = self.elements[index]
        return self._zeros() if found is None else found

    def _zeros(self) -> Tensor:
        written = next((e.shape for e in self.elements if e is not None), None)
        shape = self.shape if written is None else written
        if any(length is None for length in shape):
            raise ValueError(f"a list of elements {list(shape)} was read before anything was written to it")
        return torch.zeros([length or 0 for length in shape], dtype=self.dtype)

    def with_element(self, index: int, value: Tensor) -> TensorList:
        """The list with another element.

        Raises:
            IndexError: the index is negative, or behind the end of a list that cannot grow.
        """
        missing = index + 1 - len(self.elements)
        if index < 0 or (missing > 0 and not self.dynamic):
            raise IndexError(f"index {index} is outside of a list of {len(self.elements)} tensors")
        elements = [*self.elements, *[None] * missing]
        elements[index] = value
        return replace(self, elements=tuple(elements))

    def stacked(self) -> Tensor:
        """All elements, [length, *shape]; before anything is written, a length that nothing tells is 0."""
        if all(element is None for element in self.elements):
            return torch.zeros([len(self.elements), *(length or 0 for length in self.shape)], dtype=self.dtype)
        return torch.stack([self.element(index) for index in range(len(self.elements))])


def select(*, cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where `cond` is true, else `b`; broadcast as numpy does."""
    return torch.where(cond, a, b)


def make_list(
    *, elem_shape: Dims, out: Out, init_length: int = 1, dynamic_length: bool = True, dtype: str = "fp32"
) -> TensorList:
    """A list of `init_length` elements that are zeros until they are written; `dtype` is also its declared one."""
    return TensorList((None,) * init_length, elem_shape, out.held, dynamic_length)


def list_length(*, ls: TensorList) -> Tensor:
    """Number of elements, int32[]."""
    return torch.tensor(len(ls.elements), dtype=torch.int32)


def list_read(*, ls: TensorList, index: int) -> Tensor:
    """The element at `index`."""
    return ls.element(index)


def list_write(*, ls: TensorList, index: int, value: Tensor) -> TensorList:
    """The list with `value` at `index`."""
    return ls.with_element(index, value)


def list_gather(*, ls: TensorList, indices: Tensor) -> Tensor:
    """The elements at `indices` [K], stacked to [K, *shape]."""
    chosen = indices.reshape(-1).tolist()
    return torch.stack([ls.element(int(i)) for i in chosen]) if chosen else ls.stacked()[:0]


def list_scatter(*, ls: TensorList, indices: Tensor, value: Tensor) -> TensorList:
    """The list with `value[k]` at `indices[k]`; value is [K, *shape]."""
    for index, element in zip(indices.reshape(-1).tolist(), value.unbind(0), strict=True):
        ls = ls.with_element(int(index), element)
    return ls
