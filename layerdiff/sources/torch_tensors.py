"""What is known of the tensors that exist while a torch model runs: which op made them and what they share.

Tensors are found again by identity through weak references, so nothing here keeps one alive and no freed address is
ever mistaken for a tensor. Tensors that look at the same storage share one `Storage`, which logs who wrote to it: a
tensor that was read after another one wrote into its elements is no longer what its op made, and says so.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

WIDENED = frozenset({torch.float16, torch.bfloat16})
"""Floating dtypes that numpy can't compute with well: values are handed out as float32."""

OVERLAP_WORK = 100_000
"""How much work the exact test for an overlap of two strided views may take; beyond it they count as overlapping."""


@dataclass(slots=True, eq=False)
class Storage:
    """The memory behind one or more tensors."""

    version: int = 0
    """How often it was written to."""
    is_weight: bool = False
    """It holds a weight of the model."""
    writes: list[Write] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Known:
    """What is known of one tensor, without the tensor."""

    name: str
    storage: Storage
    version: int = 0
    """The storage's version when the tensor was made: what was written later is not in it."""
    computed: bool = False
    """It depends on what is fed."""
    from_weights: bool = False
    """It is a weight, or depends on nothing that is computed and on at least one weight."""
    is_weight: bool = False
    aliases: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class View:
    """How a tensor looks at its storage."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In bytes."""
    itemsize: int

    @classmethod
    def of(cls, tensor: torch.Tensor) -> View:
        itemsize = tensor.element_size()
        strides = tuple(stride * itemsize for stride in tensor.stride())
        return cls(tensor.data_ptr(), tuple(tensor.shape), strides, itemsize)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """For numpy's overlap test, which reads no element."""
        kind, address = f"|V{self.itemsize}", (self.address, True)
        return {"data": address, "shape": self.shape, "strides": self.strides, "typestr": kind, "version": 3}

    def overlaps(self, other: View) -> bool:
        """Whether any element belongs to both; True where finding out would take too long."""
        try:
            return bool(np.shares_memory(np.asarray(self), np.asarray(other), max_work=OVERLAP_WORK))
        except np.exceptions.TooHardError:
            return True

    @property
    def is_dense(self) -> bool:
        """Row-major without gaps."""
        expected = self.itemsize
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    def same_elements(self, other: View) -> bool:
        """Whether both hold the same elements in the same order, in whatever shape."""
        if self == other:
            return True
        same = self.address == other.address and self.itemsize == other.itemsize
        return same and np.prod(self.shape) == np.prod(other.shape) and self.is_dense and other.is_dense


@dataclass(frozen=True, slots=True)
class Write:
    """One write to a storage."""

    version: int
    """Of the storage, after it."""
    view: View
    known: Known
    """What was written, as the tensor that was written to."""


class _Reference(weakref.ref[torch.Tensor]):
    """A weak reference that knows its key, so that one callback serves all."""

    __slots__ = ("key", "known")

    key: int
    known: Known


class KnownTensors:
    """Tensor → what is known of it."""

    def __init__(self) -> None:
        self._references: dict[int, _Reference] = {}

    def find(self, tensor: torch.Tensor) -> Known | None:
        found = self._references.get(id(tensor))
        return found.known if found is not None and found() is tensor else None

    def put(self, tensor: torch.Tensor, known: Known) -> None:
        reference = _Reference(tensor, self._forget)
        reference.key, reference.known = id(tensor), known
        self._references[reference.key] = reference

    def _forget(self, reference: weakref.ref[torch.Tensor]) -> None:
        assert isinstance(reference, _Reference)
        if self._references.get(reference.key) is reference:
            del self._references[reference.key]

    def __len__(self) -> int:
        return len(self._references)


def later_writes(known: Known, tensor: torch.Tensor) -> tuple[bool, list[Write]]:
    """What was written into a tensor's elements since it was made.

    Returns:
        Whether the first of the writes replaced the whole tensor, and the writes, in order; () if there are none.
    """
    view = View.of(tensor)
    found: list[Write] = []
    for write in reversed(known.storage.writes):
        if write.version <= known.version:
            break
        if write.view.same_elements(view):
            return True, [write, *reversed(found)]
        if write.view.overlaps(view):
            found.append(write)
    return False, found[::-1]


def shares_storage(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors that both are alive look at the same storage."""
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)


# ------------------------------------------------------------------ nested values


def tensors_in(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    """The tensors of nested tuples, lists, mappings and dataclasses, each with its position, in order."""
    if isinstance(value, torch.Tensor):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, (*place, str(key)))
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from tensors_in(item, (*place, str(index)))
    elif is_dataclass(value):
        for part in fields(value):
            yield from tensors_in(getattr(value, part.name), (*place, part.name))


def part_names(call: str, places: list[tuple[str, ...]]) -> list[list[str]]:
    """The names of a nested value's tensors, `CALL[:PART]`, for each tensor the best one first.

    A position that holds several tensors names the first of them, so the first tensor of all is simply `CALL`.
    """
    taken: set[tuple[str, ...]] = set()
    names = []
    for place in places:
        own = [place[:length] for length in range(len(place) + 1) if place[:length] not in taken]
        taken.update(own)
        best = own[0] if own and not own[0] else place
        ordered = [best, *(part for part in own if part != best)]
        names.append([f"{call}:{'.'.join(part)}" if part else call for part in ordered])
    return names


# ------------------------------------------------------------------ values


def dtype_name(dtype: torch.dtype) -> str:
    """numpy's name of a dtype, and `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def lent_array(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor's values, read-only, without a copy where they are on the host and in a dtype of numpy.

    float16 and bfloat16 are widened to float32; every other dtype is kept.
    """
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype in WIDENED:
        tensor = tensor.to(torch.float32)
    is_plain = tensor.is_cpu and not (tensor.requires_grad or tensor.is_conj() or tensor.is_neg())
    array = tensor.numpy(force=not is_plain)
    array.flags.writeable = False
    return array
