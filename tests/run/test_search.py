"""The first bad op of a deep network is found, with a fraction of it compared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerdiff.run.aligned_trial import AlignedTrial
from layerdiff.run.diff import as_runs, as_source
from layerdiff.run.parts import WHOLE
from layerdiff.run.search import Search
from tests.align import faults
from tests.align.networks import convert

X = np.random.default_rng(0).standard_normal((1, 4, 8)).astype(np.float32)
LAYERS = 60


class Deep(torch.nn.Module):
    """Blocks with a branch around each, so that an error goes on along two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + 0.3 * torch.tanh(layer(x))
        return x


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    torch.manual_seed(1)
    module = Deep().eval()
    package = tmp_path_factory.mktemp("deep") / "deep.mlpackage"
    convert(module, {"x": X}, package)
    return module, package


def searched(module: torch.nn.Module, package: Path) -> Search:
    trial = AlignedTrial("it", WHOLE, as_source(module), as_runs(str(package), is_measured=True))
    search = Search(trial, {"x": X}, "feed")
    trial.search = search.run()
    return search


@pytest.mark.parametrize("layer", [0, 1, 23, LAYERS - 1])
def test_a_fault_at_any_depth_is_found(deep: tuple[torch.nn.Module, Path], layer: int, tmp_path: Path) -> None:
    module, package = deep
    tensor = faults.results(package, "linear")[layer]
    planted = faults.scaled(package, tmp_path / "bad.mlpackage", tensor=tensor, factor=1.2)
    search = searched(module, planted.package)
    assert search.trial.search.startswith(f"layers.{layer} fails though all that it is computed from passes; ")
    total = len(search.trial.meeting.stages)  # type: ignore[union-attr]
    assert total >= 4 * LAYERS
    assert len(search.known) <= 8 * (1 + math.ceil(math.log(total, 8))) + 8
    assert f"{len(search.known)} of {total} stages compared in {search.rounds} rounds" in search.trial.search


def test_a_model_without_a_fault_costs_one_round(deep: tuple[torch.nn.Module, Path]) -> None:
    search = searched(*deep)
    assert search.trial.search.startswith("no output fails; 1 of ")
    assert search.rounds == 1


def test_the_report_of_a_search_has_only_what_was_compared(deep: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    module, package = deep
    planted = faults.scaled(
        package, tmp_path / "bad.mlpackage", tensor=faults.results(package, "linear")[30], factor=1.2
    )
    search = searched(module, planted.package)
    rows = search.trial.results()
    assert {row.name for row in rows} == set(search.known)
    failing: list[Any] = [row.name for row in rows if row.status == "fail"]
    assert failing[0] == "layers.30"
