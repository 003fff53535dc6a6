"""Matrix products; float16 accumulates in float32 and is rounded once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from layerdiff.mil.ops.signature import Tensors


def linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`."""
    return functional.linear(x, weight, bias)


def matmul(*, x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """`x @ y` over the last two axes, the leading ones broadcast."""
    return torch.matmul(x.transpose(-1, -2) if transpose_x else x, y.transpose(-1, -2) if transpose_y else y)


def einsum(*, values: Tensors, equation: str) -> Tensor:
    """Einstein summation over two tensors."""
    return torch.einsum(equation, *values)
