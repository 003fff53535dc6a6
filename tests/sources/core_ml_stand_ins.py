"""What runs in the child in the place of Core ML: real processes that answer, refuse, crash and hang on purpose.

A spawned process imports what it runs, so these live in a module of their own, with nothing heavy at its top.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layerdiff.sources.coreml_native_process import NativePackage, Placement, Predictor, load_core_ml

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:  # the child gets this path
    sys.path.append(ROOT)


def doubles(package: NativePackage) -> Predictor:
    return lambda feed: {name: 2 * value for name, value in feed.items()}


def refuses(package: NativePackage) -> Predictor:
    raise RuntimeError(f"cannot compile for {package.compute_unit}")


def crashes(package: NativePackage) -> Predictor:
    return lambda feed: os._exit(9)


def is_killed(package: NativePackage) -> Predictor:
    return lambda feed: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[return-value]


def hangs(package: NativePackage) -> Predictor:
    return lambda feed: time.sleep(60)  # type: ignore[return-value]


def leaves_files(package: NativePackage) -> Predictor:
    """Says where temporary files go, leaves one there, and dies at an empty feed."""
    place = tempfile.mkdtemp(suffix=".mlmodelc")
    (Path(place) / "weight.bin").write_bytes(b"x" * 1000)
    return lambda feed: {"place": np.array(place)} if feed else os._exit(1)


def interrupts_itself(package: NativePackage) -> Predictor:
    """Gets the signal that Ctrl-C sends to every process of a terminal."""

    def predict(feed: Mapping[str, Any]) -> Mapping[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        return feed

    return predict


def tells_function(package: NativePackage) -> Predictor:
    """`inner` is the name of the function that is asked for, as numbers."""
    return lambda feed: {"inner": np.array(list(map(ord, package.function or "")))}


def engine(package: NativePackage) -> Predictor:
    """The portable engine, with what Core ML's binding makes of its outputs."""
    from layerdiff import mil

    model = mil.load(package.path, function=package.function)

    def predict(feed: Mapping[str, Any]) -> Mapping[str, Any]:
        outputs = model.predict(feed, state=model.make_state() if package.stateful else None)
        return {name: as_core_ml_returns(value) for name, value in outputs.items()}

    return predict


def through_coremltools(package: NativePackage) -> Predictor:
    """What loads and predicts on macOS, on coremltools' binding to the portable engine."""
    import layerdiff

    layerdiff.enable_predict(force=True)
    return load_core_ml(package)


def as_core_ml_returns(value: Any) -> Any:
    array = np.atleast_1d(value)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def everything_on_the_cpu(package: NativePackage) -> Mapping[str, Placement]:
    return {"inner": Placement("CPU", ("CPU", "GPU")), package.compute_unit: Placement("CPU", ("CPU",))}


def no_plan(package: NativePackage) -> Mapping[str, Placement]:
    raise ValueError("MLComputePlan is not supported.")


@dataclass(frozen=True)
class Recorded:
    """Answers with values that were computed before, of the outputs that the package has; loads in a moment."""

    values: str
    """An `.npz` file: output → value."""
    log: str
    """A file that gets a line for each loaded package: its outputs."""
    refused: tuple[str, ...] = ()
    """A package with one of these outputs is not loaded."""
    crashing: tuple[str, ...] = ()
    hanging: tuple[str, ...] = ()
    disturbed: float = 0.0
    """What is added to `result` where there are more outputs beside it."""

    def __call__(self, package: NativePackage) -> Predictor:
        from layerdiff.mil import schema
        from layerdiff.mil.package import specification_path

        spec = schema.model_module().Model()
        spec.ParseFromString(specification_path(Path(package.path)).read_bytes())
        names = [feature.name for feature in spec.description.output]
        with open(self.log, "a", encoding="utf-8") as log:
            print(*names, sep=",", file=log)
        if wrong := [name for name in names if name in self.refused]:
            raise RuntimeError(f"Error in declaring network: {wrong[0]}")
        return self.answering(names)

    def answering(self, names: list[str]) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        values = dict(np.load(self.values))
        if len(names) > 1 and "result" in values:
            values["result"] = values["result"] + np.float32(self.disturbed)

        def predict(feed: Mapping[str, Any]) -> Mapping[str, Any]:
            if set(names) & set(self.crashing):
                os._exit(9)
            if set(names) & set(self.hanging):
                time.sleep(60)
            return {name: values[name] for name in names}

        return predict
