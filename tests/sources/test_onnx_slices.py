"""Slices keep within the budget and run every node once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from layerdiff.errors import EngineError
from layerdiff.sources.onnx_graph import Graph, read_graph
from layerdiff.sources.onnx_slices import Slices, size_bytes
from tests.sources.onnx_models import model, saved, values

FLOAT = TensorProto.FLOAT


def chain(length: int, *, first: str = "Neg") -> Any:
    """x → t0 → t1 → …, each as large as x."""
    nodes = [
        helper.make_node(first if i == 0 else "Neg", [f"t{i - 1}" if i else "x"], [f"t{i}"]) for i in range(length)
    ]
    return model(nodes, inputs={"x": (FLOAT, ["N"])}, outputs=[f"t{length - 1}"])


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The results of the nodes of every slice that was loaded."""
    slices: list[list[str]] = []
    original = Graph.model_of

    def spy(self: Graph, nodes: Any, **options: Any) -> Any:
        slices.append([node.output[0] for node in nodes])
        return original(self, nodes, **options)

    monkeypatch.setattr(Graph, "model_of", spy)
    return slices


def run(slices: Slices, length: int, wanted: list[str]) -> list[str]:
    return [name for name, _ in slices.tensors({"x": values(length)}, wanted)]


@pytest.mark.parametrize(("budget_bytes", "sizes"), [(1, [1] * 5), (80, [2, 2, 1]), (119, [2, 2, 1]), (10**6, [5])])
def test_the_results_of_a_slice_stay_within_the_budget(
    tmp_path: Path, loaded: list[list[str]], budget_bytes: int, sizes: list[int]
) -> None:
    names = [f"t{i}" for i in range(5)]
    slices = Slices(read_graph(saved(chain(5), tmp_path)), budget_bytes=budget_bytes)
    assert run(slices, 10, names) == names  # 40 bytes each
    assert [len(part) for part in loaded] == sizes
    assert [name for part in loaded for name in part] == names, "every node runs once"


def test_a_graph_of_one_slice_is_loaded_once(tmp_path: Path, loaded: list[list[str]]) -> None:
    slices = Slices(read_graph(saved(chain(3), tmp_path)), budget_bytes=10**6)
    for length in (10, 20, 10):
        assert run(slices, length, ["t0", "t2"]) == ["t0", "t2"]
    assert len(loaded) == 1


def test_only_what_is_wanted_counts(tmp_path: Path, loaded: list[list[str]]) -> None:
    slices = Slices(read_graph(saved(chain(6), tmp_path)), budget_bytes=80)
    assert run(slices, 10, ["t1", "t3"]) == ["t1", "t3"]
    assert loaded == [["t0", "t1", "t2", "t3"]]


def test_the_sizes_that_were_learnt_make_larger_slices(tmp_path: Path, loaded: list[list[str]]) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["t0"]),
        helper.make_node("Neg", ["t0"], ["t1"]),
        helper.make_node("Neg", ["t1"], ["t2"]),
    ]
    graph = read_graph(saved(model(nodes, inputs={"x": (FLOAT, ["N"])}, outputs=["t2"]), tmp_path))
    slices = Slices(graph, budget_bytes=10**6)
    for _ in range(2):
        run(slices, 10, ["t0", "t1", "t2"])
    assert loaded == [["t0"], ["t1"], ["t2"], ["t0", "t1", "t2"]]


PEAK = """
import re, sys
from pathlib import Path
import numpy as np
from layerdiff.sources.onnx import OnnxSource
source = OnnxSource.open(sys.argv[1], slice_bytes=int(sys.argv[2]))
total = sum(float(value[0]) for _, value in source.trace({"x": np.ones(2 * 2**20, np.float32)}))
print(total, int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_memory_is_bounded_by_the_slice(tmp_path: Path) -> None:
    path = saved(chain(40), tmp_path)  # 40 tensors of 8 MB
    peaks = []
    for budget_mb in (16, 1000):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(path), str(budget_mb * 2**20)], capture_output=True, text=True, check=True
        )
        total, peak_mb = done.stdout.split()
        assert float(total) == 0.0
        peaks.append(int(peak_mb))
    assert peaks[1] - peaks[0] > 220, peaks


def test_a_tensor_from_constants_is_computed(tmp_path: Path) -> None:
    w = values(3, 2)
    nodes = [helper.make_node("Exp", ["w"], ["e"]), helper.make_node("Relu", ["x"], ["y"])]
    graph = read_graph(saved(model(nodes, inputs={"x": (FLOAT, [1])}, outputs=["y"], weights={"w": w}), tmp_path))
    slices = Slices(graph, budget_bytes=1)
    np.testing.assert_allclose(slices.compute(graph.nodes[:1], "e"), np.exp(w), rtol=1e-6)
    sequence = [helper.make_node("SequenceConstruct", ["w"], ["s"])]
    with pytest.raises(EngineError, match=r"'s' is a seq\(tensor\(float\)\)"):
        slices.compute(sequence, "s")


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        (("float32", (2, 3)), 24),
        (("bfloat16", (2, 3)), 12),
        (("bool", ()), 1),
        (("int64", (0, 3)), 0),
        (("int64", (None, 3)), None),
        (("int64", None), None),
        (("object", (2,)), None),
        (None, None),
    ],
)
def test_sizes(type_: Any, expected: int | None) -> None:
    assert size_bytes(type_) == expected
