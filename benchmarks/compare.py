"""Every tensor of the 609 M-parameter encoder compared: time against running both sides once, and memory.

The encoder has random weights; it is converted in a process of its own. In another one torch runs it, the engine runs
its float32 package, and both are compared in lockstep, taking turns. The time of the alignment, which is made once, is
shown apart. Memory is held against what the engine may take for a trace plus what torch took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.encoder import LIVE_SETS, live_bytes, weight_bytes
from benchmarks.measure import Measurement, in_turn, ratios
from benchmarks.memory import own_peak_bytes
from benchmarks.networks import MEL_FRAMES

LIMIT = 1.3
"""How much longer the comparison may take than both sides alone."""
ROUNDS = 7
LAYERS = int(os.environ.get("LAYERDIFF_BENCHMARK_LAYERS", "24"))


def run() -> list[Measurement]:
    """Time and memory of the comparison, and the time of the alignment."""
    with tempfile.TemporaryDirectory() as folder:
        package = child("build", folder)
        found = json.loads(child("measure", package))
    seconds = found["seconds"]
    both = [a + b for a, b in zip(seconds["torch"], seconds["engine"], strict=True)]
    ratio, fastest = ratios(seconds["compare"], both)
    what = f"{found['stages']} stages of {found['tensors']} tensors, {LAYERS} layers, float32"
    return [
        Measurement(
            "compare",
            what,
            float(np.median(seconds["compare"])),
            "s",
            min(seconds["compare"]),
            "torch, then the engine, alone",
            ratio,
            fastest,
            f"≤ {LIMIT}×",
            ratio <= LIMIT,
        ),
        Measurement("compare", "aligning them, once", found["alignment_s"], "s"),
        Measurement(
            "compare",
            "peak of the comparison",
            found["peak"],
            "bytes",
            against="the engine's bound for a trace + what torch takes",
            ratio=found["peak"] / found["bound"],
            target="≤ 1×",
            ok=found["peak"] <= found["bound"],
        ),
    ]


def child(what: str, argument: str) -> str:
    """Runs one of the functions below in a fresh process; the last line that it prints."""
    code = f"from benchmarks import compare; compare.{what}({argument!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr}")
    return done.stdout.splitlines()[-1]


def build(folder: str) -> None:
    """Converts the encoder; prints the package's path."""
    from benchmarks.networks import full_encoder_module
    from layerdiff.config import ConvertConfig
    from layerdiff.convert import build as convert
    from layerdiff.store import Cache

    source: Any = SimpleNamespace(encoder=full_encoder_module(LAYERS))
    options = ConvertConfig(precision="float32", debug=False)
    print(convert(source, "encoder", options, cache=Cache(Path(folder))))


def measure(package: str) -> None:
    """Runs both sides and their comparison in turn; prints seconds, peak and bound."""
    import torch

    from benchmarks.networks import full_encoder_module
    from layerdiff import mil
    from layerdiff.run.aligned import compare_feed
    from layerdiff.run.aligned_trial import AlignedTrial
    from layerdiff.run.runs import PackageRuns
    from layerdiff.sources.torch_source import TorchSource

    start = own_peak_bytes()
    module = full_encoder_module(LAYERS)
    loaded = own_peak_bytes()
    mel = np.random.default_rng(0).standard_normal((1, 128, MEL_FRAMES)).astype(np.float32)
    feed = {"mel": mel, "mel_length": np.array([MEL_FRAMES], np.int32)}

    def call(module: Any, feed: Any) -> Any:
        return module(audio_signal=feed["mel"], length=feed["mel_length"].long())

    @torch.inference_mode()
    def alone() -> None:
        call(module, {name: torch.from_numpy(value) for name, value in feed.items()})

    alone()
    torch_bytes = own_peak_bytes() - start
    model: Any = mil.load(package)
    model.predict(feed)
    source = TorchSource.from_module(module, name="encoder", call=call)
    trial = AlignedTrial("package", "encoder", source, PackageRuns(model, is_measured=False))
    began = time.perf_counter()
    meeting = trial.meet(feed)
    alignment_s = time.perf_counter() - began
    seconds = in_turn(
        {"torch": alone, "engine": lambda: model.predict(feed), "compare": lambda: compare_feed([trial], feed, "mel")},
        rounds=ROUNDS,
    )
    live = live_bytes(model, feed)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "alignment_s": alignment_s,
                "stages": len(meeting.stages),
                "tensors": len(model.tensors),
                "peak": own_peak_bytes() - start,
                "bound": torch_bytes + weight_bytes(model) + LIVE_SETS["trace"] * live,
                "loaded": loaded - start,
            }
        )
    )
