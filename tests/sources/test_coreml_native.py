"""Components on Core ML: the same calls as on the portable engine, which runs in the child in its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff import mil
from layerdiff.errors import ConfigError, EngineError
from layerdiff.records import Call, Points
from layerdiff.sources.coreml_native import NativeSource, core_ml_available
from layerdiff.sources.coreml_portable import PortableSource
from tests.mil.conftest import joints
from tests.sources import core_ml_stand_ins as stand_ins
from tests.sources.native_program import temporary

__all__ = ["joints", "temporary"]


@pytest.fixture
def call() -> Call:
    """Five points on three steps of the prediction network."""
    rng = np.random.default_rng(0)
    steps = np.array([0, 0, 1, 1, 2])
    points = Points(frames=np.arange(5), steps=steps, tokens=np.arange(3), frame_s=0.08)
    feed = {
        "encoder": rng.standard_normal((5, 24, 1)).astype(np.float32),
        "decoder": rng.standard_normal((3, 20, 1)).astype(np.float32)[steps],
    }
    return Call("joint", feed, points)


@pytest.fixture
def source(joints: Any, temporary: Path) -> Iterator[NativeSource]:
    native = NativeSource({"joint": mil.load(joints["float16"].package)}, load=stand_ins.engine)
    yield native
    native.close()
    assert list(temporary.iterdir()) == []


def test_inner_tensors_and_outputs_are_those_of_the_portable_source(source: NativeSource, call: Call) -> None:
    portable = PortableSource(source.packages)
    inner = [name for name in source.tensor_names("joint") if "linear" in name]
    assert len(inner) == 3
    assert set(source.tensor_names("joint")) == set(portable.tensor_names("joint"))
    wanted = [inner[-1], "logits", *inner[:-1]]
    for _ in range(2):
        found, expected = source.run(call, wanted), portable.run(call, wanted)
        assert list(found.tensors) == wanted
        for name, value in {**expected.outputs, **expected.tensors}.items():
            got = {**found.outputs, **found.tensors}[name]
            np.testing.assert_array_equal(got, value)
            assert got.dtype == (np.float32 if value.dtype == np.float16 else value.dtype)
        assert found.layouts == expected.layouts


def test_what_is_not_shown_is_absent_and_the_reason_is_kept(source: NativeSource, call: Call) -> None:
    source.probe("joint").refused["linear_0_cast_fp16"] = "it crashed"
    found = source.run(call, ["logits", "linear_0_cast_fp16", "nothing"])
    assert list(found.tensors) == ["logits"]
    assert source.why_missing("joint", "linear_0_cast_fp16").endswith("'linear_0_cast_fp16': it crashed")
    assert source.why_missing("joint", "nothing") == source.why_missing("joint", "logits") == ""


def test_a_package_that_does_not_run_at_all_is_an_error(joints: Any, call: Call) -> None:
    source = NativeSource({"joint": mil.load(joints["float32"].package)}, "CPU_ONLY", stand_ins.refuses)
    with pytest.raises(EngineError, match="cannot compile for CPU_ONLY"):
        source.run(call, ["logits"])
    source.close()


def test_the_compute_unit_is_checked_and_described(joints: Any) -> None:
    with pytest.raises(ConfigError, match="no compute unit 'ANE'"):
        NativeSource({}, compute_unit="ANE")
    source = NativeSource({"joint": mil.load(joints["float32"].package)}, "CPU_AND_NE")
    assert source.description["compute_unit"] == "CPU_AND_NE"
    assert source.description["precision"] == {"joint": "float32"}


def test_tensors_cannot_be_injected() -> None:
    with pytest.raises(ValueError, match="portable engine"):
        NativeSource({}).run(None, [], inject={"x": np.zeros(1)})  # type: ignore[arg-type]


def test_only_macos_has_core_ml(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for platform, expected in {"darwin": True, "linux": False, "win32": False}.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert core_ml_available() is expected
