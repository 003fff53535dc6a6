"""The child process that runs Core ML: here its protocol, with stand-ins that answer, refuse, crash and hang.

The stand-ins live in a module of their own because a spawned process imports what it runs. What Core ML
itself answers is tested by tests/native on macOS.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from layerdiff.errors import EngineError
from layerdiff.sources.coreml_native import Child, NativeSource, load_core_ml

STAND_INS = """
import os, time

def answers(path, compute_unit):
    return lambda feed: {name: 2 * value for name, value in feed.items()}

def refuses(path, compute_unit):
    raise RuntimeError(f"cannot compile for {compute_unit}")

def crashes(path, compute_unit):
    return lambda feed: os._exit(9)

def hangs(path, compute_unit):
    return lambda feed: time.sleep(60)
"""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("stand_ins")
    (folder / "core_ml_stand_ins.py").write_text(STAND_INS)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("core_ml_stand_ins")
    sys.path.remove(str(folder))


def test_answers_come_back_as_they_are(stand_ins: ModuleType) -> None:
    child = Child("x.mlpackage", "ALL", stand_ins.answers)
    feed = {"x": np.arange(6, dtype=np.float16).reshape(2, 3)}
    try:
        for _ in range(2):
            answer = child.predict(feed)["x"]
            assert answer.dtype == np.float16
            np.testing.assert_array_equal(answer, 2 * feed["x"])
    finally:
        child.close()


def test_a_refusal_is_one_error_with_its_text(stand_ins: ModuleType) -> None:
    child = Child("x.mlpackage", "CPU_AND_NE", stand_ins.refuses)
    with pytest.raises(EngineError, match="cannot compile for CPU_AND_NE") as caught:
        child.predict({})
    assert "engine: portable" in str(caught.value)


def test_a_crash_does_not_take_us_along(stand_ins: ModuleType) -> None:
    child = Child("x.mlpackage", "ALL", stand_ins.crashes)
    with pytest.raises(EngineError, match="the process ended"):
        child.predict({})


def test_a_hung_prediction_is_ended(stand_ins: ModuleType) -> None:
    child = Child("x.mlpackage", "ALL", stand_ins.hangs, answer_within_s=0.5)
    with pytest.raises(EngineError, match="no answer within"):
        child.predict({})
    assert child._process is None


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML predicts there")
def test_without_core_ml_the_real_loader_says_so(tmp_path: Path) -> None:
    child = Child(str(tmp_path / "missing.mlpackage"), "ALL", load_core_ml)
    with pytest.raises(EngineError, match="Core ML could not run the package"):
        child.predict({})


def test_tensors_cannot_be_injected() -> None:
    with pytest.raises(ValueError, match="portable engine"):
        NativeSource({}).run(None, [], inject={"x": np.zeros(1)})  # type: ignore[arg-type]
