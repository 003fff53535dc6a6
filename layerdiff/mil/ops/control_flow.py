"""Ops that choose. Ops with nested blocks (`cond`, `while_loop`) are not kernels: the engine runs blocks."""

from __future__ import annotations

import torch
from torch import Tensor


def select(*, cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where `cond` is true, else `b`; broadcast as numpy does."""
    return torch.where(cond, a, b)
