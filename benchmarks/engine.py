"""The portable engine against torch eager: the same networks, inputs and threads, in turn.

A full-size FastConformer layer and joint with random weights, and the encoder of the bundled model, a graph of a
few hundred small ops. Each is also run as declared in float16, against the engine in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks import networks
from benchmarks.measure import Measurement, in_turn, ratios
from benchmarks.networks import Network
from layerdiff import mil

ROUNDS = 15
SECONDS = 0.5
"""How long a round of each side is; a single call is shorter than the noise of the machine."""
LIMITS = {networks.layer: 1.0, networks.joint: 1.0, networks.mini_encoder: 1.1}
"""Network → the largest ratio to torch."""
FLOAT16_LIMIT = 1.5


def run() -> list[Measurement]:
    """Of each network: the engine over torch, and declared float16 over float32 in the engine."""
    with tempfile.TemporaryDirectory() as folder:
        return [line for make, limit in LIMITS.items() for line in measured(make(Path(folder)), limit)]


def measured(network: Network, limit: float) -> list[Measurement]:
    """The three sides of a network in turn."""
    runs = sides(network)
    check(network, runs)
    calls = max(1, round(SECONDS / min(in_turn({"": runs["torch"]}, rounds=5)[""])))
    spent = in_turn({name: repeated(run, calls) for name, run in runs.items()}, rounds=ROUNDS)
    seconds = {name: [value / calls for value in values] for name, values in spent.items()}
    return [
        line(f"{network.name}, float32", seconds["float32"], "torch eager", seconds["torch"], limit),
        line(f"{network.name}, declared float16", seconds["float16"], "float32", seconds["float32"], FLOAT16_LIMIT),
    ]


def sides(network: Network) -> dict[str, Callable[[], np.ndarray]]:
    """Torch, and the engine in both precisions."""
    models = {precision: mil.load(package) for precision, package in network.packages.items()}

    def eager() -> np.ndarray:
        with torch.inference_mode():
            return network.eager().numpy()

    def engine(precision: str) -> Callable[[], np.ndarray]:
        return lambda: models[precision].run(network.feed, [network.output])[network.output]

    return {"torch": eager, "float32": engine("float32"), "float16": engine("float16")}


def check(network: Network, runs: dict[str, Callable[[], np.ndarray]]) -> None:
    """All sides must compute the same, or the times mean nothing."""
    reference = runs["torch"]()
    for name, tolerance in (("float32", 1e-4), ("float16", 1e-1)):
        error = np.linalg.norm(runs[name]() - reference) / np.linalg.norm(reference)
        if not error < tolerance:
            raise SystemExit(f"{network.name}: the engine in {name} is off by {error:.1e}")


def repeated(run: Callable[[], object], calls: int) -> Callable[[], object]:
    """Several calls in a row."""

    def runs() -> None:
        for _ in range(calls):
            run()

    return runs


def line(what: str, seconds: Sequence[float], against: str, base: Sequence[float], limit: float) -> Measurement:
    """One ratio with its limit."""
    ratio, of_fastest = ratios(seconds, base)
    return Measurement(
        "engine",
        what,
        median(seconds),
        "s",
        min(seconds),
        against=against,
        ratio=ratio,
        ratio_of_fastest=of_fastest,
        target=f"≤ {limit}×",
        ok=round(ratio, 2) <= limit,  # no measurement repeats to more digits
    )
