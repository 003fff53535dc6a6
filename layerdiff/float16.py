"""What float16 would do to a tensor: its headroom, the share of small values, and the risks of the op that makes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from layerdiff.outline import MOVEMENT

if TYPE_CHECKING:
    from layerdiff.outline import Node
    from layerdiff.records import Array

LARGEST, SMALLEST_NORMAL, SMALLEST = 65504.0, 2.0**-14, 2.0**-24
"""The numbers of float16."""

TIGHT = 4.0
"""Headroom below which louder or longer input may overflow."""
MANY_SMALL = 0.25
"""Share of values that lose digits from which on it is worth saying."""
MUCH = 0.05
"""The same of values that are lost."""

LOG_LARGEST = 10.39
"""Where the Neural Engine's exp(x) was seen to overflow, a little below log(65504) = 11.09 (coremltools #2687)."""
EXPONENTIAL = frozenset({"softplus", "logsumexp"})
"""Kinds of op that may be computed by way of exp(x)."""

NORMS = frozenset({"layer_norm", "group_norm", "instance_norm", "rms_norm", "batch_norm"})
"""Kinds of op that square their operand on the way, unless their kernel scales it first."""


@dataclass
class Extent:
    """How large and how small the values of one tensor are, over all inputs."""

    largest: float = 0.0
    count: int = 0
    nonzero: int = 0
    small: int = 0
    """Values below the smallest normal number, zeros left out."""
    vanishing: int = 0
    """Those of them that round to zero."""
    below_log: int = 0
    """Values below the logarithm of the smallest normal number."""
    not_finite: int = 0

    @property
    def headroom(self) -> float:
        """By how much all values could grow before the first one overflows."""
        return LARGEST / self.largest if self.largest else float("inf")

    def share(self, part: int) -> float:
        """A count as a share of the values that are not 0."""
        return part / self.nonzero if self.nonzero else 0.0

    def update(self, value: Array) -> None:
        """Takes in a tensor of floats."""
        size = np.abs(value)
        finite = np.isfinite(size)
        self.count += size.size
        self.not_finite += int(size.size - finite.sum())
        size = size[finite]
        if size.size:
            self.largest = max(self.largest, float(size.max()))
        self.nonzero += int((size > 0).sum())
        self.small += int(((size > 0) & (size < SMALLEST_NORMAL)).sum())
        self.vanishing += int(((size > 0) & (size <= SMALLEST / 2)).sum())
        self.below_log += int((value[finite] < np.log(SMALLEST_NORMAL)).sum())


@dataclass(frozen=True)
class Headroom:
    """What float16 would do to one tensor of the reference."""

    component: str
    tensor: str
    kind: str
    absmax: float
    headroom: float
    """65504, float16's largest number, over the largest value; below 1 it overflows."""
    small_share: float
    """Of values that are not 0, those below float16's smallest normal number: they lose digits."""
    vanishing_share: float
    """Those of them that become 0."""
    overflows: bool
    risks: tuple[str, ...]
    """In words; empty if nothing can go wrong."""


def risks_of(extent: Extent, node: Node | None, known: Mapping[str, Extent]) -> Iterator[str]:
    """What can go wrong, in words."""
    kind = node.kind if node is not None else "other"
    if kind in MOVEMENT:
        return  # what it moves is at risk, or not
    if extent.largest > LARGEST:
        yield f"overflows: {extent.largest:.4g} is infinite in float16"
    elif extent.largest > LARGEST / TIGHT:
        yield f"tight: {extent.headroom:.2g} times as large would overflow"
    small, vanishing = extent.share(extent.small), extent.share(extent.vanishing)
    if kind == "softmax":
        if vanishing > MUCH:
            yield f"{vanishing:.0%} of the probabilities become 0; a logarithm of them would be -45440"
    elif small > MANY_SMALL or vanishing > MUCH:
        yield f"{small:.0%} of the values lose digits, {vanishing:.0%} become 0"
    share = extent.below_log / extent.count if extent.count else 0.0
    if kind == "log" and share > MUCH / 10:
        yield f"{share:.1%} are logarithms of what float16 hardly holds"
    if kind == "log_softmax" and share > MUCH:
        yield f"{share:.0%} would be lost if it is computed as log(softmax(x))"
    operands = [known[name] for name in (node.inputs if node is not None else ()) if name in known]
    if kind in EXPONENTIAL and any(operand.largest > LOG_LARGEST for operand in operands):
        yield "exp(x) of its operand overflows, unless its kernel subtracts the maximum first"
    if kind in NORMS and any(operand.largest**2 > LARGEST for operand in operands):
        yield "the squares of its operand overflow, unless its kernel scales them"
