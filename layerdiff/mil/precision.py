"""Which floating-point arithmetic a program is executed in.

| policy | a float16 tensor is held in | and its values are |
|---|---|---|
| `declared` | float32 | rounded to float16 after every op that can leave it |
| `float32` | float32 | not rounded: the same program with every float widened |
| `float64` | float64 | not rounded |
| `float16_unbounded` | float32 | rounded to float16's 11 bits of significand, but with float32's exponents |

A contraction of float16 tensors therefore accumulates in float32 and is rounded once, which is what torch
does on every device, and every op runs at the speed of float32 on a CPU. `float16_unbounded` has float16's
rounding without its overflow and underflow; with a `dither_seed` the float16 constants are shifted by a
uniform random half unit in the last place: together they measure what storing and computing in float16 must
cost at least. Under `float64` it is the float32 constants that are shifted, because a converter computes
tables and folds weights in float32: against `float32` that measures the rounding level of float32 itself.
What Apple's hardware does beyond the declared dtypes is not simulated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerdiff.errors import EngineError, UnsupportedOpError, known_names
from layerdiff.mil.program import Constant

Array = NDArray[Any]

CHUNK = 2**18
"""How many elements are rounded at a time: a copy of so many stays in the cache, and costs no memory to speak of."""

POLICIES = ("declared", "float32", "float64", "float16_unbounded")

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Floating-point dtypes by their numpy names."""

HELD = {
    "bool": torch.bool,
    "float16": torch.float32,
    "bfloat16": torch.float32,
    "float32": torch.float32,
    "float64": torch.float64,
    "int4": torch.int8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint1": torch.uint8,
    "uint2": torch.uint8,
    "uint3": torch.uint8,
    "uint4": torch.uint8,
    "uint6": torch.uint8,
    "uint8": torch.uint8,
    "uint16": torch.int32,  # torch lacks most arithmetic of uint16 and wider
    "uint32": torch.int64,
    "uint64": torch.int64,
}
"""Declared dtype → what such a tensor is held in under the policy `declared`."""

NUMPY = {"bfloat16": "float32", "int4": "int8"} | {f"uint{bits}": "uint8" for bits in (1, 2, 3, 4, 6)}
"""Declared dtypes that numpy lacks → the numpy dtype that callers get."""


@dataclass(frozen=True)
class Precision:
    """A policy, and whether constants are dithered."""

    policy: str = "declared"
    dither_seed: int | None = None
    """None leaves the constants as they are stored."""

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise EngineError(
                f"there is no precision policy '{self.policy}'.",
                detail=known_names("known policies", str(self.policy), POLICIES),
                action="'declared' computes in the dtypes that the program has, float16 among them",
            )

    def held(self, dtype: str) -> torch.dtype:
        """What a tensor declared as `dtype` is held in.

        Raises:
            UnsupportedOpError: the engine does not compute with such tensors.
        """
        if dtype not in HELD:
            raise UnsupportedOpError(
                f"the portable engine does not compute with tensors of dtype '{dtype}'.",
                detail=f"expected one of: {', '.join(HELD)}",
            )
        if dtype in FLOATS and self.policy == "float64":
            return torch.float64
        return HELD[dtype]

    def given(self, dtype: str) -> str:
        """numpy name of the dtype in which callers get and give a tensor declared as `dtype`."""
        if dtype in FLOATS and self.policy != "declared":
            return str(self.held(dtype)).removeprefix("torch.")
        return NUMPY.get(dtype, dtype)

    def rounding(self, dtype: str) -> Callable[[Tensor], Tensor] | None:
        """Rounds a new tensor to the values of `dtype`, in place; None if there is nothing to round."""
        if self.policy not in ("declared", "float16_unbounded"):
            return None
        return ROUNDING[self.policy].get(dtype)

    def dithers(self, constant: Constant) -> bool:
        """Whether a constant is shifted: of the dtype in question, and no scalar that looks exact, as 0.5 and 10 do."""
        shifted = "float32" if self.policy == "float64" else "float16"
        if self.dither_seed is None or constant.type.dtype != shifted:
            return False
        return bool(constant.shape) or not (constant.decompressed_by or is_short(constant.array()))


def is_short(value: Array) -> bool:
    """Whether a number needs at most half of its dtype's significand, as one that nobody rounded mostly does.

    >>> is_short(np.float16(0.5)), is_short(np.float16(0.97))
    (True, False)
    """
    bits = (np.finfo(value.dtype).nmant + 1) // 2
    scaled = np.ldexp(np.frexp(np.float64(value))[0], bits)
    return bool(scaled == np.rint(scaled))


# ------------------------------------------------------------------ rounding


def round_float16(x: Tensor) -> Tensor:
    """Rounds float32 to the nearest float16 value, in place; beyond 65504 that is infinity."""
    if x.numel() <= CHUNK or not x.is_contiguous():
        return x.copy_(x.half())
    for part in x.view(-1).split(CHUNK):
        part.copy_(part.half())
    return x


def round_bfloat16(x: Tensor) -> Tensor:
    """Rounds float32 to the nearest bfloat16 value, in place."""
    return x.copy_(x.bfloat16())


def round_significand(x: Tensor) -> Tensor:
    """Rounds float32 to 11 bits of significand, ties to even, in place; exponents stay as they are.

    Works on the bit pattern: 13 of the 24 bits go. Adding just under half of what goes, plus the last bit
    that stays, and clearing the rest is rounding to nearest even; a carry into the exponent is right too.
    """
    bits = x.view(torch.int32)
    rounded = (bits + ((bits >> 13) & 1) + 0xFFF) & ~0x1FFF
    return x.copy_(torch.where(torch.isfinite(x), rounded.view(torch.float32), x))


ROUNDING: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "declared": {"float16": round_float16, "bfloat16": round_bfloat16},
    "float16_unbounded": {"float16": round_significand, "bfloat16": round_bfloat16},
}
"""Policy → declared dtype → how a result is rounded."""


# ------------------------------------------------------------------ arrays and tensors


def tensor_of(array: Array, dtype: str, precision: Precision) -> Tensor:
    """A tensor declared as `dtype` from a caller's array; shares memory where nothing has to be converted."""
    held = precision.held(dtype)
    if held is torch.float32 and array.dtype == np.float32 and dtype == "float32" and array.flags.carray:
        return torch.from_numpy(array if min(array.strides, default=0) >= 0 else array.copy())
    source = np.ascontiguousarray(array).reshape(array.shape)
    if source.dtype in (np.uint16, np.uint32, np.uint64):
        source = source.astype(np.int64)
    if source.dtype == np.longdouble or not source.dtype.isnative:  # torch knows neither
        source = source.astype(np.float64 if source.dtype == np.longdouble else source.dtype.newbyteorder("="))
    if not source.flags.writeable or min(source.strides, default=0) < 0:
        source = source.copy()
    given = torch.from_numpy(source)
    tensor = given.to(held)
    rounding = precision.rounding(dtype)
    if rounding is None or str(source.dtype) == dtype:
        return tensor
    return rounding(tensor.clone() if tensor is given else tensor)


def array_of(tensor: Tensor, dtype: str, precision: Precision, *, owned: bool = False, lent: bool = False) -> Array:
    """A caller's array, in memory of its own unless it is lent, from a tensor declared as `dtype`.

    Args:
        tensor: the value.
        dtype: declared dtype.
        precision: decides the dtype of the array.
        owned: whether nothing else refers to the tensor's memory, so that it need not be copied.
        lent: whether the array may share that memory all the same, with any strides; it is read-only then.
    """
    given = np.dtype(precision.given(dtype))
    if given == np.float16:
        return tensor.half().contiguous().numpy()  # casting in torch is several times faster
    array = tensor.numpy()
    if array.dtype == given and (lent or (owned and array.flags.c_contiguous)):
        if lent:
            array.flags.writeable = False
        return array
    return np.array(array, given, order="C")
