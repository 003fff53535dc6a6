"""Constants as tensors: decoded, and decompressed, once each on first use, within a budget of bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerdiff.errors import FeedError
from layerdiff.mil.memory import require_room
from layerdiff.mil.ops import kernel_of
from layerdiff.mil.ops.signature import AS_PARAMETER, Out, Parameter
from layerdiff.mil.precision import Precision
from layerdiff.mil.program import Constant
from layerdiff.mil.weights import bits_per_value

Array = NDArray[Any]

Rounding = Callable[[Tensor], Tensor] | None

BUDGET_BYTES = 4 * 2**30
"""How many bytes of decoded constants are kept, unless the caller says otherwise."""


@dataclass
class Constants:
    """Constants as tensors: decoded once each, on first use, and kept while they fit the budget.

    Constants that need no conversion are views of the weight file and cost nothing.
    """

    budget_bytes: int = BUDGET_BYTES
    used_bytes: int = 0
    kept: dict[tuple[Constant, torch.dtype, int | None, Rounding], Tensor] = field(default_factory=dict)
    replaced: Mapping[str, Array] = field(default_factory=dict)
    """Values in the place of those that the program holds, by the constants' names."""

    def tensor(self, constant: Constant, precision: Precision) -> Tensor:
        """The constant as the engine computes with it; kept if there is room."""
        if constant.name in self.replaced:
            value = torch.from_numpy(np.ascontiguousarray(self.replaced[constant.name]))
            return value.to(precision.held(constant.type.dtype))
        key = self._key(constant, precision)
        if key not in self.kept:
            decoded = _decoded(constant, precision)
            if not self.keeps(constant, precision):
                return decoded
            self.kept[key] = decoded
            self.used_bytes += self._cost(constant, precision)
        return self.kept[key]

    def keeps(self, constant: Constant, precision: Precision) -> bool:
        """Whether it is kept already or there is room for it."""
        if self._key(constant, precision) in self.kept:
            return True
        return self.used_bytes + self._cost(constant, precision) <= self.budget_bytes

    def _key(self, constant: Constant, precision: Precision) -> tuple[Constant, torch.dtype, int | None, Rounding]:
        # What a compressed constant is made of may be shifted, though the constant itself is not.
        shifted = precision.dithers(constant) or constant.decompressed_by is not None
        seed = precision.dither_seed if shifted else None
        return constant, precision.held(constant.type.dtype), seed, _rounding(constant, precision)

    def _cost(self, constant: Constant, precision: Precision) -> int:
        held = precision.held(constant.type.dtype)
        stored = constant.decompressed_by is None and bits_per_value(constant.type.dtype) == held.itemsize * 8
        return 0 if stored else prod(constant.shape) * held.itemsize


def exchanged(known: Mapping[str, Constant], values: Mapping[str, Array], *, where: str) -> Constants:
    """Constants with other values in the place of some, which are not rounded to the dtype that is declared.

    Raises:
        FeedError: there is no such constant, or it has another shape.
    """
    for name, value in values.items():
        if name not in known:
            raise FeedError(f"'{name}' is no constant.", where=where)
        if tuple(value.shape) != tuple(known[name].shape):
            detail = f"expected {list(known[name].shape)}, got {list(value.shape)}"
            raise FeedError(f"the constant '{name}' has another shape.", where=where, detail=detail)
    return Constants(replaced=dict(values))


def _decoded(constant: Constant, precision: Precision) -> Tensor:
    require_room(constant.name, constant.type, precision.held(constant.type.dtype), where="a constant")
    if constant.decompressed_by is not None:
        return _decompressed(constant, precision)
    values = np.asarray(constant.array())
    tensor = _converted(constant, values, precision)
    if constant.file is not None and not np.shares_memory(tensor.numpy(), values):
        constant.file.forget(constant.offset)
    return tensor


def _converted(constant: Constant, values: Array, precision: Precision) -> Tensor:
    """The stored values in the dtype of computation; shares their memory if that is their own dtype."""
    if precision.dithers(constant):
        assert precision.dither_seed is not None
        values = dithered(values, seed=precision.dither_seed, name=constant.name)
    elif values.dtype in (np.uint16, np.uint32, np.uint64):
        values = values.astype(np.int64)
    return torch.from_numpy(values).to(precision.held(constant.type.dtype))


def _decompressed(constant: Constant, precision: Precision) -> Tensor:
    """A result of the op that decompresses it, rounded like any other result."""
    op, dtype = constant.decompressed_by, constant.type.dtype
    assert op is not None
    kernel, held = kernel_of(op.type, constant.opset), precision.held(dtype)
    given: dict[str, Any] = {}
    for name, parameter in kernel.parameters.items():
        if parameter.annotation is Out:
            given[name] = Out(constant.name, dtype, held)
        elif name in op.inputs:
            given[name] = _given(op.inputs[name], parameter, precision)
    result = kernel.function(**given)
    tensor: Tensor = (result[constant.result] if isinstance(result, tuple) else result).to(held)
    rounding = _rounding(constant, precision)
    return tensor if rounding is None else rounding(tensor)


def _rounding(constant: Constant, precision: Precision) -> Rounding:
    """How the values of a compressed constant are rounded after they are computed."""
    op = constant.decompressed_by
    if op is None or kernel_of(op.type, constant.opset).exact:
        return None
    return precision.rounding(constant.type.dtype)


def _given(bound: tuple[Any, ...], parameter: Parameter, precision: Precision) -> Any:
    if not parameter.is_static:
        return _decoded(bound[0], precision)
    return AS_PARAMETER[parameter.annotation](tuple(constant.array() for constant in bound))


def dithered(values: Array, *, seed: int, name: str) -> Array:
    """Values in the next wider dtype, each shifted by a uniform random half unit in the last place.

    A scalar is shifted by the whole half unit, up or down: a single draw may happen to be next to nothing.

    Float16 comes back as float32, float32 as float64. Zeros, infinities and NaN are left as they
    are. The same seed and name give the same values.
    """
    wide = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
    size = np.abs(values)
    moved = np.isfinite(size) & (size > 0)
    ulp = np.spacing(size, where=moved, out=np.zeros_like(size)).astype(wide.dtype)
    random = np.random.default_rng([seed, crc32(name.encode())])
    shift: Array = random.uniform(-0.5, 0.5, wide.shape).astype(wide.dtype)
    if not wide.shape:
        shift = np.copysign(np.asarray(0.5, wide.dtype), shift)
    return np.asarray(wide + ulp * shift)
