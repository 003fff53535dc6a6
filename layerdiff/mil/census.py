"""What went wrong with the values of a tensor: NaN, infinities, values that float16 cannot hold, log(0).

A tensor is looked at alone. In the order of execution the first tensor with a NaN is the one that produced it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FLOAT16_MAX = 65504.0
"""Largest finite float16."""

KINDS = ("nan", "inf", "beyond_float16", "log_of_zero")
"""NaN; ±infinity; a finite value whose magnitude is above 65504; a zero that a logarithm was taken of."""


@dataclass(frozen=True)
class Anomaly:
    """Values of one kind in one tensor."""

    kind: str
    """One of `KINDS`."""
    tensor: str
    op: str
    """MIL type of the op that made the tensor; `input` for what was fed."""
    count: int
    """How many values are of the kind; of a `log_of_zero`, in the operand of the logarithm."""
    size: int
    """How many values there are."""
    first_index: tuple[int, ...]
    """Index of the first of them, in row-major order."""

    def __str__(self) -> str:
        where = f"'{self.tensor}' of {self.op}" if self.op != "input" else f"the input '{self.tensor}'"
        return f"{self.kind}: {self.count} of {self.size} values of {where}, first at {list(self.first_index)}"


def anomalies(value: object, *, tensor: str, op: str, operand: Tensor | None = None) -> tuple[Anomaly, ...]:
    """What is wrong with a tensor.

    Args:
        value: the tensor; anything else has no anomalies.
        tensor: its name.
        op: MIL type of the op that made it.
        operand: of a logarithm, what it was taken of.
    """
    found = []
    for kind, mask in _masks(value, operand):
        count = int(mask.sum())
        if count:
            first = np.unravel_index(int(mask.reshape(-1).to(torch.uint8).argmax()), tuple(mask.shape))
            found.append(Anomaly(kind, tensor, op, count, mask.numel(), tuple(int(i) for i in first)))
    return tuple(found)


def _masks(value: object, operand: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
        return
    low, high = torch.aminmax(value)  # NaN if there is one
    if not (low >= -FLOAT16_MAX and high <= FLOAT16_MAX):
        yield "nan", torch.isnan(value)
        yield "inf", torch.isinf(value)
        yield "beyond_float16", torch.isfinite(value) & (value.abs() > FLOAT16_MAX)
    if operand is not None:
        yield "log_of_zero", operand == 0
