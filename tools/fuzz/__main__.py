"""Damages small models in many ways; each must run, or be refused with a LayerdiffError.

    python -m tools.fuzz --seconds 600
    python -m tools.fuzz --examples 300 --models FOLDER     # as the tests call it

Anything else that comes out is a finding, also a run that takes long or wants much memory: the model is kept, the
traceback is printed once for each place, and the exit code is 1. Memory is limited where the operating system can
do it, so start this as a process of its own; a crash leaves the model that caused it in the work folder.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from layerdiff import mil
from layerdiff.errors import LayerdiffError
from layerdiff.mil import writer
from tools.fuzz.mutations import MUTATIONS, WEIGHTS

MEMORY_BYTES = 2 * 2**30
"""What a model may take beyond what the process has when it starts."""

LONGEST_S = 10
LARGEST_FEED = 10**7
MOST_ITERATIONS = 1000
"""After so many a loop counts as endless: a damaged one may be, and the engine has much more patience."""

BATCH = 50
SUFFIXES = (".mlpackage", ".mlmodelc")


class TooLong(BaseException):
    """A model took longer than `LONGEST_S`; no `except Exception` may keep it."""


class Fuzzer:
    """Damages the models of a folder, one after another, and keeps what should not have happened."""

    def __init__(self, models: Path, work: Path) -> None:
        self.models = sorted(p for p in models.iterdir() if p.suffix in SUFFIXES)
        self.work = work
        self.findings: dict[str, Path] = {}
        self.counts = {"ran": 0, "refused": 0}

    def one(self, rng: random.Random) -> None:
        """Damages one model, tries it, and puts it right again."""
        source = self.models[rng.randrange(len(self.models))]
        model = self.work / source.name
        if not model.exists():
            shutil.copytree(source, model)
        files = [name for name in MUTATIONS if (source / name).exists()]
        name = rng.choices(files, [WEIGHTS.get(file, 1) for file in files])[0]
        try:
            rng.choice(MUTATIONS[name])(rng, model / name)
            self.attempt(model)
        finally:
            shutil.copyfile(source / name, model / name)

    def attempt(self, model: Path) -> None:
        """Loads and runs a model; keeps it if something other than a LayerdiffError comes out."""
        try:
            with time_limit():
                run(model)
            self.counts["ran"] += 1
        except LayerdiffError:
            self.counts["refused"] += 1
        except (Exception, TooLong) as error:
            self.keep(model, error)

    def keep(self, model: Path, error: BaseException) -> None:
        """One model for each kind of error and place that it came from."""
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "layerdiff" in f.filename]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        key = f"{type(error).__name__} at {place}"
        if key not in self.findings:
            kept = self.work / "findings" / f"{len(self.findings)}-{model.name}"
            shutil.copytree(model, kept)
            self.findings[key] = kept
            traceback.print_exception(error, limit=-6)
            print(f"FINDING: {key}\n  in {kept}", flush=True)


def run(path: Path) -> None:
    """Loads a model and, if its inputs are of a size to try, runs it on zeros."""
    model: Any = mil.load(path)
    shapes = [spec.default_shape for spec in model.inputs.values()]
    if sum(map(prod, shapes)) > LARGEST_FEED:
        return
    feed = {name: np.zeros(spec.default_shape, spec.dtype) for name, spec in model.inputs.items()}
    model.predict(feed, state=model.make_state() if model.states else None)


@contextmanager
def time_limit() -> Iterator[None]:
    """Raises TooLong where the operating system can interrupt, after `LONGEST_S`."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _too_long(signum: int, frame: Any) -> None:
    raise TooLong(f"took more than {LONGEST_S} s")


def limit_memory() -> None:
    """Lets an absurd allocation fail, where the operating system can; else only time is limited."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        print("memory is not limited on this system", file=sys.stderr)


def explore(fuzzer: Fuzzer, *, number: int, examples: int) -> None:
    """A batch of examples, made by hypothesis from a number."""

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=True))
    def batch(rng: random.Random) -> None:
        fuzzer.one(rng)

    batch()


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long to go on")
    parser.add_argument("--examples", type=int, help="stop after so many examples")
    parser.add_argument("--seed", type=int, default=0, help="another number tries other examples")
    parser.add_argument("--models", type=Path, help="folder with the models to start from; made if not given")
    parser.add_argument("--work", type=Path, help="where damaged models are kept")
    parser.add_argument("--model", type=Path, help="only try this model, as it is")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 1 if there are findings."""
    options = parsed(arguments)
    work = options.work or Path(tempfile.mkdtemp(prefix="fuzz-"))
    models = options.models
    if models is None and options.model is None:
        from tools.fuzz import seeds

        models = work / "seeds"
        models.mkdir(parents=True)
        seeds.build(models)
    warnings.simplefilter("ignore")  # of numbers that overflow in damaged programs
    writer.MAX_ITERATIONS = MOST_ITERATIONS
    if options.model is not None:
        return run(options.model) or 0
    fuzzer = Fuzzer(models, work)
    for model in fuzzer.models:
        run(model)  # what is whole must run; and everything is imported before memory is limited
    limit_memory()
    started, number, left = time.monotonic(), options.seed * 10**6, options.examples or sys.maxsize
    while left > 0 and time.monotonic() - started < options.seconds:
        explore(fuzzer, number=number, examples=min(BATCH, left))
        number, left = number + 1, left - BATCH
    ran, refused = fuzzer.counts.values()
    print(f"{ran} ran, {refused} were refused, {len(fuzzer.findings)} findings ({time.monotonic() - started:.0f} s)")
    return bool(fuzzer.findings)


if __name__ == "__main__":
    sys.exit(main())
