"""Ops on each element of one tensor.

Float16 is computed in float32 and rounded by the engine. Integer results are brought to the declared
dtype by the engine too, except in `cast`, where leaving the range has a meaning of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from layerdiff.mil.ops.signature import Census, Out

INTEGER_RANGE = {
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1),
}
"""Smallest and largest value of the integer dtypes."""


def unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A kernel with the single input `x`."""

    def kernel(*, x: Tensor) -> Tensor:
        return function(x)

    return kernel


abs_ = unary(torch.abs)
acos = unary(torch.acos)
asin = unary(torch.asin)
atan = unary(torch.atan)
atanh = unary(torch.atanh)
ceil = unary(torch.ceil)
cos = unary(torch.cos)
cosh = unary(torch.cosh)
erf = unary(torch.erf)
exp = unary(torch.exp)
exp2 = unary(torch.exp2)
floor = unary(torch.floor)
logical_not = unary(torch.logical_not)
round_ = unary(torch.round)  # halves go to the even neighbour, as in numpy
sin = unary(torch.sin)
sinh = unary(torch.sinh)
sqrt = unary(torch.sqrt)
square = unary(torch.square)
tan = unary(torch.tan)
tanh = unary(torch.tanh)


def clip(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    """`min(max(x, alpha), beta)`; NaN stays NaN."""
    return x.clamp(alpha, beta)


def inverse(*, x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """`1 / (x + epsilon)`."""
    return torch.reciprocal(x + epsilon)


def log(*, x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """`ln(x + epsilon)`; the smallest float32 as epsilon makes ln(0) -103.28, a float16 one is 0 and makes it -inf."""
    return torch.log(x + epsilon) if epsilon else torch.log(x)


def rsqrt(*, x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """`1 / sqrt(x + epsilon)`."""
    return torch.rsqrt(x + epsilon)


def sign(*, x: Tensor) -> Tensor:
    """-1, 0 or 1; NaN stays NaN, which torch makes 0."""
    return torch.where(x == x, torch.sign(x), x)


def threshold(*, x: Tensor, alpha: float) -> Tensor:
    """`max(x, alpha)`."""
    return x.clamp(min=alpha if x.is_floating_point() else int(alpha))


def cast(*, x: Tensor, dtype: str, out: Out, census: Census) -> Tensor:
    """Conversion to another dtype; floats are cut towards zero.

    The declared dtype of the result decides, not the string, so a precision policy that widens floats
    widens `fp16` here as well. A value outside an integer range wraps around, as in C, and is counted:
    what Apple's runtime does with it is not documented.
    """
    return wrap_integer(x, out, census) if out.dtype in INTEGER_RANGE else x.to(out.held, copy=True)


def fit_integer(x: Tensor, out: Out, census: Census) -> Tensor:
    """A result of any op as its declared integer dtype; torch returns indices and sums as int64."""
    return x if x.dtype is out.held else wrap_integer(x, out, census)


FEW = 8
"""Elements that Python looks at faster than torch does: those of a shape or a position."""


def _lies_within(x: Tensor, low: int, high: int) -> bool:
    """Whether all elements lie in [low, high], which NaN does not."""
    if x.numel() <= FEW:
        return all(low <= value <= high for value in x.reshape(-1).tolist())
    smallest, largest = (value.item() for value in torch.aminmax(x))
    return bool(low <= smallest and largest <= high)


def wrap_integer(x: Tensor, out: Out, census: Census) -> Tensor:
    """`x` as the declared integer dtype in memory of its own, wrapped around; values that do not fit are counted."""
    exact = out.held is getattr(torch, out.dtype, None)  # not so of uint16, which is held in int32
    if x.dtype is torch.bool or (x.dtype is out.held and exact):
        return x.to(out.held, copy=True)
    low, high = INTEGER_RANGE[out.dtype]
    if _lies_within(x, low, high):
        return x.to(out.held, copy=True)
    wide = x.to(torch.int64)
    outside = (wide < low) | (wide > high)
    if x.is_floating_point():
        outside |= ~torch.isfinite(x)
    overflows = int(outside.count_nonzero())
    if not overflows:
        return wide.to(out.held)
    census.overflow(out.name, overflows)
    return (((wide - low) & (high - low)) + low).to(out.held)
