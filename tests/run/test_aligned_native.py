"""An aligned comparison on Core ML itself, in whose place a child process runs the portable engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from layerdiff import mil
from layerdiff.progress import SILENT
from layerdiff.run.aligned import compare_feeds
from layerdiff.run.aligned_trial import AlignedTrial
from layerdiff.run.diff import as_source
from layerdiff.run.runs import PackageRuns
from layerdiff.sources.coreml_native_model import NativeModel
from tests.align.networks import Pair, convert, feed_of, module_of
from tests.sources import core_ml_stand_ins as stand_ins


@pytest.fixture(scope="module")
def reused(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A small network and its float32 package."""
    package = tmp_path_factory.mktemp("native") / "reused.mlpackage"
    module, feed = module_of("reused"), feed_of("reused")
    convert(module, feed, package)
    return Pair(module, package, feed)


@dataclass(frozen=True)
class Refusing:
    """The portable engine, but for packages that return one tensor."""

    tensor: str

    def __call__(self, package: Any) -> Any:
        if self.tensor in mil.load(package.path).outputs:  # type: ignore[union-attr]
            raise RuntimeError("cannot compile")
        return stand_ins.engine(package)


def result_on(pair: Pair, load: Any, place: Any = stand_ins.no_plan) -> Any:
    model: Any = mil.load(pair.package)
    native = NativeModel(model, "CPU_ONLY", load=load, place=place)
    source: Any = as_source(pair.module)
    trial = AlignedTrial("it", "model", source, PackageRuns(model, True, native))
    walk = iter([("model", "feed", {n: np.asarray(v) for n, v in pair.feed.items()})])
    return compare_feeds({"it": [trial]}, walk, parts=("model",), total=1, progress=SILENT)["it"]


def test_core_ml_shows_every_stage_with_its_runtime_error(reused: Pair) -> None:
    result = result_on(reused, stand_ins.engine)
    assert result.status == "pass"
    assert {row.runtime_error for row in result.stages} == {0.0}
    assert result.description["engine"] == "native"
    assert result.description["compute_unit"] == "CPU_ONLY"
    assert set(result.description["observer_effect"].values()) == {0.0}


def test_what_core_ml_refuses_is_unknown_and_not_the_portable_engines(reused: Pair) -> None:
    plain = result_on(reused, stand_ins.engine)
    inner = next(row for row in plain.stages if row.candidate.tensor not in mil.load(reused.package).outputs)
    result = result_on(reused, Refusing(inner.candidate.tensor))
    rows = {row.name: row for row in result.stages}
    assert rows[inner.name].status == "unknown"
    assert "cannot compile" in rows[inner.name].reason
    assert result.status == "unknown"
    assert all(row.status == "pass" for name, row in rows.items() if name != inner.name)


@dataclass(frozen=True)
class Everywhere:
    """A compute plan that places every op on the Neural Engine."""

    def __call__(self, package: Any) -> Any:
        from layerdiff.sources.coreml_native_process import Placement

        model: Any = mil.load(package.path)
        return {tensor.name: Placement("Neural Engine", ("CPU",)) for tensor in model.tensors}


def test_the_placement_stands_beside_the_error(reused: Pair) -> None:
    result = result_on(reused, stand_ins.engine, Everywhere())
    assert {row.placement.split(" (")[0] for row in result.stages} == {"Neural Engine"}
