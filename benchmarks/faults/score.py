"""Puts faults in, converts, compares, and counts what was found."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

import layerdiff
from benchmarks.faults import networks
from benchmarks.faults.faults import REGISTRY, Placed
from benchmarks.faults.networks import Network, wrapped
from layerdiff import convert, quiet
from layerdiff.config import ConvertConfig
from layerdiff.records import Report
from layerdiff.store import Cache

TIMES = 10
"""How often each cause is tried at least."""

PRECISIONS = ("float32", "float16")
HEALTHY_NAME = "healthy"
HEALTHY = ("joint", "full_joint", "encoder", "decoder", "preprocessor")


@dataclass(frozen=True)
class Outcome:
    """What layerdiff said of one conversion."""

    cause: str
    """The fault's; empty for a healthy conversion."""
    network: str
    words: str
    status: str
    first: str
    """The first bad stage that it named."""
    named: tuple[str, ...]
    """Its causes, the first one first."""
    is_stage_found: bool
    seconds: float
    """Of the comparison, the conversion not counted."""

    @property
    def is_cause_found(self) -> bool:
        return self.named[:1] == (self.cause,)

    @property
    def is_false_alarm(self) -> bool:
        """Whether something is said of a healthy conversion but what its precision costs."""
        return self.cause == "" and (set(self.named) - {"precision_only"} != set() or self._fails_without_reason)

    @property
    def _fails_without_reason(self) -> bool:
        return self.status == "fail" and not self.named


def faulty(cause: str, times: int = TIMES) -> Iterator[Outcome]:
    """A cause at several random places."""
    known = REGISTRY[cause]
    for index in range(times):
        name, put_in = known[index % len(known)]
        random = np.random.default_rng([crc32(cause.encode()), index])
        with quiet.third_party(), tempfile.TemporaryDirectory() as folder:
            network: Network = getattr(networks, name)()
            source = network.make()
            placed = put_in(source, random)
            report, seconds = compared(network, source, placed, Path(folder))
        yield outcome(cause, network, placed, report, seconds)


def healthy(names: Sequence[str] = HEALTHY, precisions: Sequence[str] = PRECISIONS) -> Iterator[Outcome]:
    """Networks as they are, in every precision."""
    for name in names:
        for precision in precisions:
            with quiet.third_party(), tempfile.TemporaryDirectory() as folder:
                network: Network = getattr(networks, name)()
                placed = Placed((), precision, precision)
                report, seconds = compared(network, network.make(), placed, Path(folder))
            yield outcome("", network, placed, report, seconds)


def compared(network: Network, source: networks.SimpleNamespace, placed: Placed, folder: Path) -> tuple[Report, float]:
    """The report of a conversion of the changed modules, and how long the comparison took."""
    recipe = (
        "cpu_traced" if getattr(getattr(source, "joint", None), "log_softmax", False) is not False else "raw_logits"
    )
    options = ConvertConfig(recipe=recipe, precision=placed.precision, debug=False)  # type: ignore[arg-type]
    path = convert.build(source, network.component, options, cache=Cache(folder))
    reference = wrapped(network.component, source) if placed.is_both else network.reference()
    feeds = [placed.feed(dict(feed)) for feed in network.feeds]
    began = time.perf_counter()
    report = layerdiff.diff(reference=reference, candidates={"it": str(path)}, feed=feeds)
    return report, time.perf_counter() - began


def outcome(cause: str, network: Network, placed: Placed, report: Report, seconds: float) -> Outcome:
    """The report in short."""
    result = report.candidates["it"]
    first = result.first_divergence or ""
    found = any(first == stage or first.startswith(_prefixes(stage)) for stage in placed.stages)
    named = tuple(finding.cause for finding in result.findings)
    return Outcome(cause, network.name, placed.words, result.status, first, named, found, seconds)


def _prefixes(stage: str) -> tuple[str, ...]:
    return (stage,) if stage.endswith("/") else (f"{stage}:", f"{stage} =", f"{stage}/", f"{stage}.")


@dataclass(frozen=True)
class Score:
    """What came of one cause, or of the healthy conversions."""

    cause: str
    tried: int
    stages: int
    """How often the first bad stage was found; of healthy conversions, how often nothing was blamed."""
    causes: int
    """How often the cause was named first; the same of healthy conversions."""
    seconds: float
    """Of a comparison, the median."""
    missed: tuple[Outcome, ...]

    @classmethod
    def of(cls, cause: str, outcomes: Sequence[Outcome]) -> Score:
        if cause == HEALTHY_NAME:
            right = [outcome for outcome in outcomes if not outcome.is_false_alarm]
            stages = causes = len(right)
            missed = [outcome for outcome in outcomes if outcome.is_false_alarm]
        else:
            stages = sum(outcome.is_stage_found for outcome in outcomes)
            causes = sum(outcome.is_cause_found for outcome in outcomes)
            missed = [o for o in outcomes if not (o.is_stage_found and o.is_cause_found)]
        median = float(np.median([outcome.seconds for outcome in outcomes]))
        return cls(cause, len(outcomes), stages, causes, median, tuple(missed))
