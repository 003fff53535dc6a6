"""Memory of the portable engine on a full-size encoder: 24 layers, 609 M parameters, 15 s of audio.

The encoder has random weights and is converted once; each measurement is a process of its own. The peak of a
process, less what it takes when the model is loaded and no weight has been read, is held against the weights and the
largest live set: the memory that the tensors alive at one time take, tensors that share it counted once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Measurement
from benchmarks.memory import own_peak_bytes
from benchmarks.networks import MEL_FRAMES
from layerdiff.mil.ops.signature import Census

LIVE_SETS = {"predict": 1.5, "trace": 2.5}
"""How many times the largest live set may be taken on top of the weights; a trace also holds the caller's copy."""
PRECISIONS = ("float32", "float16")


def run() -> list[Measurement]:
    """Peaks of a prediction and of a trace of every tensor."""
    with tempfile.TemporaryDirectory() as folder:
        packages = json.loads(child("build", folder))
        return [
            line(what, precision, json.loads(child(what, packages[precision])))
            for precision in PRECISIONS
            for what in LIVE_SETS
        ]


def line(what: str, precision: str, measured: dict[str, int]) -> Measurement:
    """One peak with its limit."""
    limit = measured["weights"] + LIVE_SETS[what] * measured["live"]
    peak = measured["peak"] - measured["loaded"]
    return Measurement(
        "encoder",
        f"{what} of {measured['tensors']} tensors, {precision}",
        peak,
        "bytes",
        against=f"weights of {measured['weights'] / 2**20:.0f} MiB + live set of {measured['live'] / 2**20:.0f} MiB",
        ratio=peak / (measured["weights"] + measured["live"]),
        target=f"≤ weights + {LIVE_SETS[what]} live",
        ok=peak <= limit,
    )


def child(what: str, argument: str) -> str:
    """Runs one of the functions below in a fresh process; the last line that it prints."""
    code = f"from benchmarks import encoder; encoder.{what}({argument!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr}")
    return done.stdout.splitlines()[-1]


def build(folder: str) -> None:
    """Converts the encoder; prints compute precision → package."""
    from benchmarks import networks

    network = networks.full_encoder(Path(folder))
    print(json.dumps({precision: str(path) for precision, path in network.packages.items()}))


def predict(package: str) -> None:
    """Runs the package once; prints the peak and what it is held against."""
    report(package, lambda model, feed: model.predict(feed))


def trace(package: str) -> None:
    """Traces every tensor of the package, keeping none; prints the same."""

    def traced(model: Any, feed: dict[str, np.ndarray]) -> None:
        for tensor in model.trace(feed):
            del tensor

    report(package, traced)


def report(package: str, execute: Any) -> None:
    """Executes, then measures the live set in the same process, when the peak has been read."""
    from layerdiff import mil

    model = mil.load(package)  # maps the weights and reads none of them
    loaded = own_peak_bytes()
    feed = {
        "mel": np.random.default_rng(0).standard_normal((1, 128, MEL_FRAMES)).astype(np.float32),
        "mel_length": np.array([MEL_FRAMES], np.int32),
    }
    execute(model, feed)
    found = {
        "peak": own_peak_bytes(),
        "loaded": loaded,
        "weights": weight_bytes(model),
        "live": live_bytes(model, feed),
        "tensors": len(model.tensors),
    }
    print(json.dumps(found))


def weight_bytes(model: Any) -> int:
    """What the constants take in the dtype in which they are computed with."""
    constants = model.graph.function.block.constants.values()
    numbers = [constant for constant in constants if constant.type.dtype != "str"]
    return sum(prod(c.shape) * model.precision.held(c.type.dtype).itemsize for c in numbers)


def live_bytes(model: Any, feed: dict[str, np.ndarray]) -> int:
    """The most memory that tensors of a prediction take at one time; those that share memory count once."""
    storages = {name: (0, array.nbytes) for name, array in feed.items()}
    engine = model._engine
    compiled = engine.compiled(list(model.graph.producers), traced=True)
    for _, output, tensor, _ in engine.trace(compiled, model._tensors(feed, list(feed)), {}, Census(), {}):
        storage = tensor.untyped_storage()
        storages[output.name] = (storage.data_ptr(), storage.nbytes())
    alive, most = set(feed), 0
    for step in model.graph.plan(list(model.outputs)).steps:
        alive.update(output.name for output in step.op.outputs)
        most = max(most, sum(size for _, size in {storages[name] for name in alive}))
        alive.difference_update(step.releases)
    return most
