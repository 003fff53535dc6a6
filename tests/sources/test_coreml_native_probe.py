"""Chunks, halving and temporary packages, with child processes that refuse, crash and hang at chosen tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerdiff.errors import ConfigError, EngineError, OutputError
from layerdiff.mil.program import TensorType
from layerdiff.sources.coreml_native_probe import (
    Group,
    Probe,
    as_declared,
    chunks,
    halves,
    is_running,
    remove_abandoned,
    workplace,
)
from layerdiff.sources.coreml_native_process import Child
from tests.sources.native_program import CHAIN, Program, X, build, leftovers, program, temporary

__all__ = ["build", "program", "temporary"]

FEED = {"x": X}


@pytest.fixture
def probes(program: Program, temporary: Path) -> Iterator[Any]:
    """`probes(**options)`: a probe of the program with a recorded stand-in; all are closed, and leave nothing."""
    made: list[Probe] = []

    def probe(*, chunk: int = 50, answer_within_s: float = 60.0, **options: Any) -> Probe:
        load = program.recorded(**options)
        made.append(Probe(program.model, load=load, chunk=chunk, answer_within_s=answer_within_s))
        return made[-1]

    yield probe
    for each in made:
        each.close()
    assert list(temporary.iterdir()) == []


def shown(probe: Probe, tensors: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What the groups of `each` show of the tensors."""
    found: dict[str, np.ndarray] = {}

    def use(child: Child, group: Group) -> Mapping[str, np.ndarray]:
        return probe.declared(child.predict(FEED), group)

    for group, values in probe.each(tensors, use):
        found |= {name: values[name] for name in group}
    return found


def assert_true(program: Program, found: Mapping[str, np.ndarray], names: tuple[str, ...]) -> None:
    assert tuple(found) == names
    for name, value in found.items():
        expected = program.expected(name)
        assert (value.dtype, value.shape, value.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


def test_each_chunk_is_one_package_in_one_process(program: Program, probes: Any) -> None:
    probe = probes(chunk=4)
    names = (*CHAIN, "flag", "total")
    assert_true(program, shown(probe, names[::-1]), names)
    assert program.loaded == [list(CHAIN[:4]), list(CHAIN[4:8]), [CHAIN[8], "flag_as_int32", "total"]]
    assert probe.refused == {}


@pytest.mark.parametrize(
    ("how", "culprits", "said"),
    [
        ("refused", ("t0", "t5"), "ALL: RuntimeError: Error in declaring network: {}"),
        ("crashing", ("t2", "t3"), "ALL: the process ended (exit code 9)"),
    ],
)
def test_culprits_are_isolated_and_all_others_delivered(
    program: Program, probes: Any, how: str, culprits: tuple[str, ...], said: str
) -> None:
    probe = probes(**{how: culprits})
    assert_true(program, shown(probe, CHAIN[:6]), tuple(name for name in CHAIN[:6] if name not in culprits))
    assert probe.refused == {name: said.format(name) for name in culprits}
    assert probe.why_not(culprits[0]) == f"Core ML does not show '{culprits[0]}': {probe.refused[culprits[0]]}"


def test_halving_is_the_same_each_time_and_remembered(program: Program, probes: Any) -> None:
    probe = probes(refused=("t3",))
    shown(probe, CHAIN[:5])
    first = [["t0", "t1", "t2", "t3", "t4"], ["t0", "t1", "t2"], ["t3", "t4"], ["t3"], ["t4"]]
    assert program.loaded == first
    shown(probe, CHAIN[:5])
    assert program.loaded[len(first) :] == [["t0", "t1", "t2"], ["t4"]]


def test_a_tensor_at_which_core_ml_hangs_is_isolated(program: Program, probes: Any) -> None:
    probe = probes(hanging=("t1",), answer_within_s=8.0)
    assert_true(program, shown(probe, CHAIN[:2]), ("t0",))
    assert "no answer within 8 s" in probe.why_not("t1")


def test_a_package_that_shows_all_that_is_asked_is_kept_for_the_next_call(program: Program, probes: Any) -> None:
    probe = probes()
    for _ in range(3):
        assert_true(program, shown(probe, CHAIN), CHAIN)
    assert len(program.loaded) == 1


def test_one_temporary_package_exists_at_a_time_with_linked_weights(
    program: Program, probes: Any, temporary: Path
) -> None:
    probe = probes(chunk=5)
    weights = program.model.path / "Data/com.apple.CoreML/weights/weight.bin"
    for _ in probe.each(CHAIN, lambda child, group: child.predict(FEED)):
        packages = list(temporary.rglob("*.mlpackage"))
        assert len(packages) == 1
        linked = packages[0] / "Data/com.apple.CoreML/weights/weight.bin"
        assert not weights.exists() or os.path.samefile(linked, weights)
    assert list(temporary.rglob("*.mlpackage")) == []


def test_what_cannot_be_an_output_is_not_tried(program: Program, probes: Any) -> None:
    probe = probes()
    assert shown(probe, ("doubled",)) == {}
    assert program.loaded == []
    assert "inside a block of the op 'choice'" in probe.why_not("doubled")
    assert probe.why_not("t0") == ""


def test_leaving_or_an_error_of_another_kind_ends_all_children(program: Program, probes: Any, temporary: Path) -> None:
    probe = probes(chunk=3)
    probe.plain.predict(FEED)
    steps = probe.each(CHAIN, lambda child, group: child.predict(FEED))
    next(steps)
    assert leftovers(temporary)
    steps.close()
    assert leftovers(temporary) == []
    assert probe._plain is None

    def interrupted(child: Child, group: Group) -> None:
        child.predict(FEED)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(probe.each(CHAIN, interrupted))
    assert leftovers(temporary) == []
    assert probe.refused == {}


def test_no_room_for_a_temporary_package_is_no_fault_of_its_tensors(
    program: Program, probes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    probe = probes()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        shown(probe, CHAIN)
    assert probe.refused == {}


def test_an_unknown_compute_unit_is_refused(program: Program) -> None:
    with pytest.raises(ConfigError, match="no compute unit 'GPU'"):
        Probe(program.model, "GPU")


def test_no_outputs_are_added_to_what_is_no_package(program: Program, tmp_path: Path) -> None:
    from layerdiff import mil
    from tests.mil.mlmodelc import compiled

    probe = Probe(mil.load(compiled(program.model.path, tmp_path / "program.mlmodelc")))
    assert probe.exposures == {}
    inner = next(t.name for t in probe.model.tensors if t.name not in probe.model.outputs)
    assert "no .mlpackage" in probe.why_not(inner)


def test_the_untouched_package_failing_is_an_error(program: Program, probes: Any) -> None:
    with pytest.raises(EngineError, match="Error in declaring network"):
        probes(refused=("result",)).plain.predict(FEED)


# ------------------------------------------------------------------ parts of it


@given(st.lists(st.integers(), min_size=1, max_size=40, unique=True), st.integers(1, 12))
def test_chunks_and_halves_lose_nothing(numbers: list[int], size: int) -> None:
    names = tuple(map(str, numbers))
    assert sum(chunks(names, size), ()) == names
    assert all(0 < len(chunk) <= size for chunk in chunks(names, size))
    if len(names) > 1:
        first, second = halves(names)
        assert first + second == names
        assert 0 <= len(first) - len(second) <= 1


@pytest.mark.parametrize(
    ("value", "type_", "expected"),
    [
        (np.array([1], np.int32), TensorType("bool", ()), np.array(True)),
        (np.array([[3]], np.int32), TensorType("int16", (1, 1)), np.array([[3]], np.int16)),
        (np.array([0.5], np.float32), TensorType("float16", (1,)), np.array([0.5], np.float32)),
        (np.array([0.5], np.float16), TensorType("float16", ()), np.array(0.5, np.float32)),
        (np.array([2], np.int32), TensorType("int32", (None,)), np.array([2], np.int32)),
    ],
)
def test_values_come_as_the_program_declares_them(value: Any, type_: TensorType, expected: Any) -> None:
    found = as_declared(value, type_)
    assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for number in (gone.pid, os.getpid()):
        (tmp_path / f"layerdiff-native-{number}-x").mkdir()
        (tmp_path / f"layerdiff-native-{number}-x" / "file").write_text("")
    (tmp_path / "layerdiff-native-notes-2024").mkdir()
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"layerdiff-native-{os.getpid()}-x",
        "layerdiff-native-notes-2024",
    }
    assert is_running(os.getpid())
    assert not is_running(gone.pid)


def test_temporary_packages_lie_where_weights_can_be_linked(program: Program, temporary: Path) -> None:
    assert workplace(program.model.path) == temporary
