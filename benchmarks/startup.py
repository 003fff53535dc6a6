"""`layerdiff --help` as a whole process, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from benchmarks.measure import Measurement, in_turn, ratios

HEAVY = ("torch", "numpy", "nemo", "coremltools", "pandas")
"""Packages that `--help` must not import."""
HELP = [sys.executable, "-m", "layerdiff", "--help"]
ROUNDS = 10
LIMIT_S = 0.35


def run() -> list[Measurement]:
    """Time against an empty Python process, and the heavy modules."""
    bare = [sys.executable, "-c", "pass"]
    spent = in_turn({"help": lambda: call(HELP), "bare": lambda: call(bare)}, rounds=ROUNDS)
    ratio, ratio_of_fastest = ratios(spent["help"], spent["bare"])
    trace = call([sys.executable, "-X", "importtime", *HELP[1:]])
    heavy = heavy_imports(trace)
    return [
        Measurement(
            "help",
            "layerdiff --help",
            median(spent["help"]),
            "s",
            fastest=min(spent["help"]),
            against="python -c pass",
            ratio=ratio,
            ratio_of_fastest=ratio_of_fastest,
            target=f"≤ {LIMIT_S} s",
            ok=median(spent["help"]) <= LIMIT_S,
        ),
        Measurement(
            "help",
            "heavy imports: " + (", ".join(heavy) or "none"),
            len(heavy),
            "modules",
            target="none",
            ok=not heavy,
        ),
    ]


def call(command: list[str]) -> str:
    """Runs a process that must succeed; its stderr."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def heavy_imports(trace: str) -> list[str]:
    """The packages of HEAVY in what `python -X importtime` wrote: lines `import time: self | cumulative | name`."""
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in trace.splitlines() if "|" in line}
    return [name for name in HEAVY if name in names]
