"""The child process that runs Core ML: its protocol, with stand-ins that answer, refuse, crash and hang.

What Core ML itself answers is tested by tests/native on macOS.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from layerdiff import quiet
from layerdiff.errors import ConfigError, EngineError
from layerdiff.sources.coreml_native_process import (
    COMPUTE_UNITS,
    Child,
    NativePackage,
    Placement,
    load_core_ml,
    place_core_ml,
    placements,
    require_compute_unit,
)
from tests.mil.conftest import build
from tests.sources import core_ml_stand_ins as stand_ins

__all__ = ["build"]

PACKAGE = NativePackage("x.mlpackage")


def test_answers_come_back_as_they_are() -> None:
    child = Child(PACKAGE, stand_ins.doubles)
    feed = {"x": np.arange(6, dtype=np.float16).reshape(2, 3)}
    try:
        for _ in range(2):
            answer = child.predict(feed)["x"]
            assert answer.dtype == np.float16
            np.testing.assert_array_equal(answer, 2 * feed["x"])
    finally:
        child.close()


def test_a_refusal_is_one_error_with_its_text() -> None:
    child = Child(NativePackage("x.mlpackage", "CPU_AND_NE"), stand_ins.refuses)
    with pytest.raises(EngineError, match="cannot compile for CPU_AND_NE") as caught:
        child.predict({})
    assert "engine: portable" in str(caught.value)
    assert child._process is None


@pytest.mark.parametrize(
    ("load", "said"),
    [(stand_ins.crashes, r"ended \(exit code 9\)"), (stand_ins.is_killed, "ended by the signal SIGKILL")],
)
def test_a_crash_does_not_take_us_along(load: Callable[[NativePackage], Any], said: str) -> None:
    child = Child(PACKAGE, load)
    with pytest.raises(EngineError, match=said):
        child.predict({})
    assert child._process is None


def test_a_hung_prediction_is_ended() -> None:
    child = Child(PACKAGE, stand_ins.hangs, answer_within_s=0.5)
    with pytest.raises(EngineError, match=r"no answer within 0\.5 s"):
        child.predict({})
    assert child._process is None


def test_temporary_files_go_where_the_owner_says(tmp_path: Path) -> None:
    child = Child(PACKAGE, stand_ins.leaves_files, scratch=tmp_path)
    place = Path(str(child.predict({"x": np.zeros(1)})["place"]))
    assert place.parent == tmp_path
    with pytest.raises(EngineError, match="exit code 1"):
        child.predict({})
    assert place.is_dir()


def test_ctrl_c_is_the_owners_business() -> None:
    child = Child(PACKAGE, stand_ins.interrupts_itself)
    assert list(child.predict({"x": np.zeros(1)})) == ["x"]
    child.close()


def test_an_idle_child_ends_by_itself_when_told_to() -> None:
    child = Child(PACKAGE, stand_ins.doubles)
    child.predict({})
    process = child._process
    assert process is not None
    number = process.pid
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(str(number)), 0)
    child.close()


def test_placements_come_from_the_child_too() -> None:
    child = Child(NativePackage("x.mlpackage", "CPU_AND_GPU"), stand_ins.doubles)
    found = child.placements(stand_ins.everything_on_the_cpu)
    assert found == {"inner": Placement("CPU", ("CPU", "GPU")), "CPU_AND_GPU": Placement("CPU", ("CPU",))}
    assert [str(placement) for placement in found.values()] == ["CPU (also GPU)", "CPU"]
    with pytest.raises(EngineError, match="MLComputePlan is not supported"):
        child.placements(stand_ins.no_plan)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML predicts there")
def test_without_core_ml_the_real_loader_says_so(tmp_path: Path) -> None:
    child = Child(NativePackage(str(tmp_path / "missing.mlpackage")), load_core_ml)
    with pytest.raises(EngineError, match="Core ML could not run the package"):
        child.predict({})


def test_a_compute_plan_says_where_each_tensor_is_made() -> None:
    with quiet.third_party():
        from coremltools.models import compute_device as devices
        from coremltools.models import compute_plan as theirs

    cpu, gpu, ne = (
        object.__new__(kind)
        for kind in (devices.MLCPUComputeDevice, devices.MLGPUComputeDevice, devices.MLNeuralEngineComputeDevice)
    )

    def operation(name: str, *blocks: Any) -> Any:
        outputs = [theirs.MLModelStructureProgramNamedValueType(name, None)]
        return theirs.MLModelStructureProgramOperation({}, "op", outputs, list(blocks), None)

    inner = theirs.MLModelStructureProgramBlock([], [operation("nested")], [])
    block = theirs.MLModelStructureProgramBlock([], [operation("const"), operation("cond", inner), operation("y")], [])
    usages = {
        "const": None,
        "cond": theirs.MLComputePlanDeviceUsage(cpu, [cpu]),
        "nested": theirs.MLComputePlanDeviceUsage(gpu, [gpu, cpu]),
        "y": theirs.MLComputePlanDeviceUsage(ne, [cpu, gpu, ne]),
    }
    plan = SimpleNamespace(get_compute_device_usage_for_mlprogram_operation=lambda op: usages[op.outputs[0].name])
    found = placements(plan, theirs.MLModelStructureProgramFunction([], block))
    assert {name: str(placement) for name, placement in found.items()} == {
        "cond": "CPU",
        "nested": "GPU (also CPU)",
        "y": "Neural Engine (also CPU, GPU)",
    }


def test_what_runs_on_macos_runs_on_the_portable_binding(build: Any, tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder as mb

    from layerdiff import mil

    def program(x: Any) -> Any:
        halved = mb.mul(x=x, y=0.5, name="halved")
        return mb.select(cond=mb.greater(x=halved, y=0.0, name="positive"), a=halved, b=x)

    feed = {"x": np.array([-1.0, 0.5, 2.0], np.float32)}
    package = mil.expose(build(program, precision="float16", **feed), None, tmp_path / "out.mlpackage").path
    child = Child(NativePackage(str(package), "CPU_ONLY"), stand_ins.through_coremltools)
    found = child.predict(feed)
    child.close()
    expected = mil.load(package).predict(feed)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == (np.float32 if value.dtype == np.float16 else value.dtype)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML has a plan there")
def test_without_core_ml_there_is_no_plan() -> None:
    with pytest.raises(ValueError, match="not supported"):
        place_core_ml(NativePackage("x.mlmodelc"))


def test_the_compute_units_are_those_of_coremltools() -> None:
    with quiet.third_party():
        import coremltools as ct
    assert set(COMPUTE_UNITS) == {unit.name for unit in ct.ComputeUnit}
    with pytest.raises(ConfigError, match="did you mean 'CPU_AND_NE'"):
        require_compute_unit("CPU_AND_ANE")
