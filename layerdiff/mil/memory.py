"""Refuses tensors that the machine cannot hold, before they are allocated.

A damaged or hostile program may declare a tensor of any size; an operating system may promise the memory and
end the process when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from math import prod

import torch

from layerdiff.errors import EngineError
from layerdiff.mil.program import TensorType


@cache
def machine_bytes() -> int:
    """Physical memory of the machine; 1 TiB where the operating system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 2**40


def require_elements(shape: Sequence[int], dtype: torch.dtype) -> None:
    """Raises MemoryError if a tensor whose shape an op was given is larger than the memory of the machine."""
    size = prod(max(0, length) for length in shape) * dtype.itemsize
    if size > machine_bytes():
        raise MemoryError(f"a tensor of {_of(size)} was asked for, the machine has {_of(machine_bytes())}")


def _of(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def require_room(name: str, type_: TensorType, held: torch.dtype, *, where: str) -> None:
    """Raises EngineError if a tensor of a known shape is larger than the memory of the machine."""
    if type_.shape is None or None in type_.shape:
        return
    size = prod(length or 0 for length in type_.shape) * held.itemsize
    if size > machine_bytes():
        raise EngineError(
            f"the tensor '{name}' does not fit into memory.",
            where=where,
            detail=f"{type_} takes {_of(size)}, the machine has {_of(machine_bytes())}",
        )
