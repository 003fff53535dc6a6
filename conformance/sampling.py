"""Which tests of a suite run, and in which order: a function of their names and a seed alone.

The same seed gives the same tests on every machine, for any number of processes, and a larger sample contains every
smaller one, so that the records of a sample are the beginning of a full run.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """How much of a suite runs."""

    per_function: int = 0
    """Parametrisations of each test function, at most; 0 for all."""
    share: float = 1.0
    """Share of the test functions, in (0, 1]."""
    seed: int = 0


def rank(seed: int, *names: str) -> float:
    """A number in [0, 1) that looks random and depends on nothing but its arguments."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def function_of(test: str) -> str:
    """The test function, without its parameters."""
    return test.partition("[")[0]


def drawn(tests: Iterable[str], sample: Sample) -> list[str]:
    """The tests of a sample in a shuffled order, so that the finished part of a run is a fair sample as well."""
    functions: dict[str, list[str]] = defaultdict(list)
    for test in tests:
        functions[function_of(test)].append(test)
    kept: list[str] = []
    for function, members in functions.items():
        if rank(sample.seed, "function", function) < sample.share:
            ranked = sorted(members, key=lambda test: rank(sample.seed, "parameters", test))
            kept += ranked[: sample.per_function or None]
    return sorted(kept, key=lambda test: rank(sample.seed, "order", test))
