"""A whole package on Core ML, with child processes in its place that run the portable engine or recorded values."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff import mil
from layerdiff.errors import EngineError, FeedError
from layerdiff.sources.coreml_model import PackageSource
from layerdiff.sources.coreml_native_model import NO_EFFECT, NativeModel, ObserverEffect, effect_between
from tests.sources import core_ml_stand_ins as stand_ins
from tests.sources.native_program import CHAIN, Program, X, build, leftovers, program, temporary

__all__ = ["build", "program", "temporary"]

FEED = {"x": X}


@pytest.fixture
def natives(program: Program, temporary: Path) -> Iterator[Any]:
    """`natives(**options)`: the program on a stand-in, a recorded one unless `load` is given; all are closed."""
    made: list[NativeModel] = []

    def native(*, load: Any = None, **options: Any) -> NativeModel:
        recorded = {k: options.pop(k) for k in ("refused", "crashing", "hanging", "disturbed") if k in options}
        made.append(NativeModel(program.model, load=load or program.recorded(**recorded), **options))
        return made[-1]

    yield native
    for each in made:
        each.close()
    assert list(temporary.iterdir()) == []


def test_every_tensor_is_that_of_the_portable_source_in_the_same_order(program: Program, natives: Any) -> None:
    expected = [(n, v) for n, v in PackageSource(program.model).trace(FEED) if n not in program.model.graph.nested]
    native = natives(chunk=8)
    found = list(native.trace(FEED))
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (name, value), (_, wanted) in zip(found, expected, strict=True):
        assert (value.dtype, value.shape, value.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes()), name
    assert native.missing == {}
    assert native.observed == {"result": NO_EFFECT}
    assert {node.name for node in native.outline(FEED).nodes} >= {*CHAIN, "result"}


def test_what_is_wanted_is_streamed_and_what_is_not_shown_is_named(program: Program, natives: Any) -> None:
    native = natives(refused=("t3",))
    seen: dict[str, np.ndarray] = {}
    native.stream(FEED, lambda name, value: seen.update({name: value}), ["t4", "x", "result", "t3", "doubled"])
    assert list(seen) == ["x", "t4", "result"]
    for name in ("t4", "result"):
        assert seen[name].tobytes() == program.expected(name).tobytes()
    assert set(native.missing) == {"t3", "doubled"}
    assert "Error in declaring network: t3" in native.missing["t3"]
    assert "inside a block" in native.missing["doubled"]


def test_outputs_alone_come_from_the_untouched_package(program: Program, natives: Any) -> None:
    native = natives()
    assert [name for name, _ in native.trace(FEED, ["result"])] == ["result"]
    assert program.loaded == [[]]
    assert native.observed == {}


def test_the_observer_effect_is_measured_on_the_packages_outputs(program: Program, natives: Any) -> None:
    native = natives(disturbed=0.125)
    effect = native.observer_effect(FEED, ["t0"])["result"]
    result = program.values["result"]
    disturbance = np.float64(result + np.float32(0.125)) - np.float64(result)
    assert effect.max_abs_error == np.abs(disturbance).max()
    assert effect.relative_l2_error == pytest.approx(np.linalg.norm(disturbance) / np.linalg.norm(np.float64(result)))
    assert dict(native.trace(FEED, ["result"]))["result"].tobytes() == result.tobytes()


def test_an_effect_is_none_for_equal_bits_and_the_worst_for_values_that_are_not_finite() -> None:
    one = np.array([1.0, np.nan], np.float32)
    assert effect_between(reference=one, candidate=one.copy()) == NO_EFFECT
    broken = effect_between(reference=one, candidate=np.array([1.0, 2.0], np.float32))
    assert broken.relative_l2_error is None
    assert math.isnan(broken.max_abs_error)
    assert effect_between(reference=one, candidate=one[:1]).relative_l2_error is None
    two = np.array([3.0, 4.0], np.float32)
    assert effect_between(reference=two, candidate=two + np.float32([0, 1])) == ObserverEffect(0.2, 1.0)


def test_wrong_requests_are_refused_before_a_process_starts(program: Program, natives: Any) -> None:
    native = natives()
    with pytest.raises(FeedError, match="did you mean 'result'"):
        list(native.trace(FEED, ["resullt"]))
    with pytest.raises(FeedError, match="'x'"):
        list(native.trace({"x": X[:1]}, ["t0"]))
    assert program.loaded == []


def test_placements_and_the_description_say_which_devices(natives: Any) -> None:
    native = natives(compute_unit="CPU_AND_GPU", place=stand_ins.everything_on_the_cpu)
    assert native.placement == {"inner": "CPU (also GPU)", "CPU_AND_GPU": "CPU"}
    assert native.description["compute_unit"] == "CPU_AND_GPU"
    with pytest.raises(EngineError, match="not supported"):
        _ = natives(place=stand_ins.no_plan).placement


def test_states_start_anew_with_every_call(tmp_path: Path, temporary: Path) -> None:
    import torch

    from tests.mil.test_states import Accumulator, converted

    model = converted(Accumulator(), {"x": torch.ones(1, 4)}, tmp_path / "accumulator.mlpackage")
    feed = {"x": np.ones((1, 4), np.float16)}
    expected = dict(PackageSource(model).trace(feed))
    with closing(NativeModel(model, load=stand_ins.engine)) as native:
        for _ in range(2):
            found = dict(native.trace(feed))
            assert set(found) == set(expected)
            for name, value in found.items():
                np.testing.assert_array_equal(value, expected[name].astype(np.float32))


OWNER = """
import sys
import numpy as np
from layerdiff import mil
from layerdiff.sources.coreml_native_model import NativeModel
from tests.sources.core_ml_stand_ins import Recorded

if __name__ == "__main__":
    package, values, log = sys.argv[1:]
    native = NativeModel(mil.load(package), load=Recorded(values, log, hanging=("t1",)))
    print("missing", native.missing, dict(native.trace({"x": np.zeros((2, 5), np.float32)}, ["t0", "t1"])))
"""


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_ctrl_c_ends_the_children_and_leaves_no_files(program: Program, tmp_path: Path, temporary: Path) -> None:
    program.recorded()
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    arguments = [program.model.path, program.folder / "values.npz", program.log]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": stand_ins.ROOT}
    owner = subprocess.Popen(
        [sys.executable, script, *arguments], env=environment, start_new_session=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 90
    while len(program.loaded) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert program.loaded == [[], ["t0", "t1"]]
    assert leftovers(temporary)
    time.sleep(0.3)
    os.killpg(owner.pid, signal.SIGINT)
    _, said = owner.communicate(timeout=30)
    assert owner.returncode in (1, -signal.SIGINT)
    assert said.decode().strip().endswith("KeyboardInterrupt")
    assert list(temporary.iterdir()) == []
    while running(owner.pid) and time.monotonic() < deadline:  # multiprocessing's own process ends a little later
        time.sleep(0.05)
    assert not running(owner.pid)


def running(group: int) -> bool:
    """Whether a process group has a process that has not ended."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return any(int(pgid) == group and not stat.startswith("Z") for pgid, stat in map(str.split, listed.splitlines()))


def test_the_function_that_was_opened_is_the_one_that_runs(build: Any, tmp_path: Path, temporary: Path) -> None:
    from coremltools.converters.mil import Builder as mb

    from layerdiff import quiet

    single = build(lambda x: mb.mul(x=mb.add(x=x, y=1.0, name="inner"), y=2.0), opset="iOS18", x=X)
    with quiet.third_party():
        import coremltools as ct

        descriptor = ct.utils.MultiFunctionDescriptor()
        for name in ("first", "second"):
            descriptor.add_function(str(single), "main", name)
        descriptor.default_function_name = "first"
        ct.utils.save_multifunction(descriptor, str(tmp_path / "two.mlpackage"))
    for function, expected in {"first": "", "second": "second"}.items():
        native = NativeModel(mil.load(tmp_path / "two.mlpackage", function=function), load=stand_ins.tells_function)
        with closing(native):
            assert dict(native.trace(FEED, ["inner"]))["inner"].tolist() == list(map(ord, expected))
