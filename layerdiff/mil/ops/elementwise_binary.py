"""Ops on pairs of elements of two tensors, broadcast as numpy does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A kernel with the inputs `x` and `y`."""

    def kernel(*, x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return kernel


add = binary(torch.add)
equal = binary(torch.eq)
floor_div = binary(torch.floor_divide)
greater = binary(torch.gt)
greater_equal = binary(torch.ge)
less = binary(torch.lt)
less_equal = binary(torch.le)
logical_and = binary(torch.logical_and)
logical_or = binary(torch.logical_or)
logical_xor = binary(torch.logical_xor)
maximum = binary(torch.maximum)
minimum = binary(torch.minimum)
mod = binary(torch.remainder)  # the sign of the divisor, as in numpy
mul = binary(torch.mul)
not_equal = binary(torch.ne)
sub = binary(torch.sub)


def real_div(*, x: Tensor, y: Tensor) -> Tensor:
    """`x / y`; of integers in float64 (torch would take float32), cut towards zero by the engine."""
    if x.is_floating_point():
        return torch.div(x, y)
    return torch.div(x.double(), y.double())


def pow_(*, x: Tensor, y: Tensor) -> Tensor:
    """`x ** y`; a square by multiplication, which rounds once and is much faster (torch's `x.pow(2)` does the same)."""
    if y.ndim == 0 and x.is_floating_point() and float(y) == 2.0:
        return x * x
    return torch.pow(x, y)
