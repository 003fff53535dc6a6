"""Runs in turn, and the measurements that come of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Measurement:
    """One line of the result."""

    benchmark: str
    what: str
    """What was measured."""
    value: float
    """The median, in `unit`."""
    unit: str
    fastest: float | None = None
    """The smallest value, in `unit`; None where there was one run."""
    against: str = ""
    """What the ratios are relative to; empty if there are none."""
    ratio: float | None = None
    """Median of the ratios of neighbouring runs, this one over the one it is held against."""
    ratio_of_fastest: float | None = None
    """Ratio of the smallest values."""
    target: str = ""
    """What the project demands, in words; empty if it demands nothing."""
    ok: bool | None = None
    """Whether the target is met; None without one."""


Clock = Callable[[], float]


def in_turn(
    runs: Mapping[str, Callable[[], object]], *, rounds: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every run in every round; the runs take turns, so that a busy moment hits all of them.

    One round before the first is not counted: it fills caches. With `clock=time.process_time` only the time
    counts in which this process ran, which is right for a single thread that waits for nothing.
    """
    for run in runs.values():
        run()
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = clock()
            run()
            spent[name].append(clock() - start)
    return spent


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float]:
    """Median of the ratios round by round, and the ratio of the smallest values."""
    paired = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return median(paired), min(numerators) / min(denominators)
