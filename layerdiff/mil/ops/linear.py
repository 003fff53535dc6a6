"""Matrix products; float16 accumulates in float32 and is rounded once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from layerdiff.mil.ops.signature import Tensors


def linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`; since iOS17 the dtypes may differ."""
    if x.dtype is not weight.dtype:
        x, weight = _promoted(x, weight)
        bias = None if bias is None else bias.to(x.dtype)
    return functional.linear(x, weight, bias)


def matmul(*, x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """`x @ y` over the last two axes, the leading ones broadcast; since iOS17 the dtypes may differ."""
    if x.dtype is not y.dtype:
        x, y = _promoted(x, y)
    return torch.matmul(_transposed(x, transpose_x), _transposed(y, transpose_y))


def einsum(*, values: Tensors, equation: str) -> Tensor:
    """Einstein summation over two tensors."""
    return torch.einsum(equation, *values)


def _transposed(x: Tensor, wanted: bool) -> Tensor:
    """The last two axes swapped; a vector has only one."""
    return x.transpose(-1, -2) if wanted and x.dim() > 1 else x


def _promoted(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype that holds either: an integer operand becomes a float one."""
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)
