"""The fused metric pass against reading both tensors once, and against the definitions one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.measure import Measurement, in_turn, ratios

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHAPE = (188, 8198)
"""Encoder frames of 15 s of audio by the outputs of Parakeet-TDT-0.6B-v3's joint."""
ROUNDS = 9
AT_LEAST_TIMES_FASTER = 5.0


def run() -> list[Measurement]:
    """Both ratios in processor time; no shortcut of the pass applies to these tensors."""
    spent = in_turn(runs(*tensors()), rounds=ROUNDS, clock=time.process_time)
    elements = SHAPE[0] * SHAPE[1]
    against_read = ratios(spent["fused"], spent["read"])
    against_naive = ratios(spent["naive"], spent["fused"])
    per_element = [1e9 * s / elements for s in spent["fused"]]
    read, naive, fused = spent["read"], spent["naive"], spent["fused"]
    return [
        Measurement("metrics", "fused pass, per float32 element", median(per_element), "ns", min(per_element)),
        Measurement("metrics", "one read of both tensors", median(read), "s", min(read)),
        Measurement("metrics", "fused pass", median(fused), "s", min(fused), "one read", *against_read),
        Measurement(
            "metrics",
            "definitions one by one",
            median(naive),
            "s",
            min(naive),
            "fused pass",
            *against_naive,
            target=f"≥ {AT_LEAST_TIMES_FASTER:g}×",
            ok=against_naive[0] >= AT_LEAST_TIMES_FASTER,
        ),
    ]


def tensors() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A reference, and a candidate that is off by a little everywhere, outside the tolerance in places."""
    import numpy as np

    rng = np.random.default_rng(0)
    reference = 10 * rng.standard_normal(SHAPE, dtype=np.float32)
    return reference, reference + np.float32(1e-3) * rng.standard_normal(SHAPE, dtype=np.float32)


def runs(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> dict[str, Callable[[], object]]:
    """What is timed, each over the whole of both tensors."""
    from layerdiff.metrics import Accumulator
    from layerdiff.metrics.definitions import ATOL, RTOL, definitions

    functions = definitions(dtype="float32", atol=ATOL, rtol=RTOL)

    def fused() -> dict[str, float | None]:
        accumulator = Accumulator(dtype="float32", atol=ATOL, rtol=RTOL)
        accumulator.update(reference=reference, candidate=candidate)
        return accumulator.result()

    def naive() -> dict[str, float]:
        return {name: function(reference=reference, candidate=candidate) for name, function in functions.items()}

    return {"fused": fused, "read": lambda: (reference.max(), candidate.max()), "naive": naive}
