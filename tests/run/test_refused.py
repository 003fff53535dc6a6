"""Two sides that can't be compared as they are: one clear message, an unknown with reasons, or a fault; no guess."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import layerdiff
from layerdiff import quiet
from layerdiff.errors import ConfigError, EngineError, FeedError
from layerdiff.records import CandidateResult
from layerdiff.sources.recorded_writer import record
from layerdiff.sources.torch_source import TorchSource
from tests.align.networks import convert

X = np.random.default_rng(0).standard_normal((1, 12, 8)).astype(np.float32)


class Net(torch.nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.a = torch.nn.Linear(8, width)
        self.norm = torch.nn.LayerNorm(width)
        self.b = torch.nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.norm(self.a(x))))


def net(width: int = 16) -> Net:
    torch.manual_seed(3)
    return Net(width).eval()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of the network, and of one that is twice as wide."""
    folder = tmp_path_factory.mktemp("refused")
    found = {"same": folder / "same.mlpackage", "wide": folder / "wide.mlpackage"}
    convert(net(), {"x": X}, found["same"])
    convert(net(32), {"x": X}, found["wide"])
    return found


def compared(reference: Any, candidate: Any, **feed: Any) -> CandidateResult:
    report = layerdiff.diff(reference=reference, candidates={"it": candidate}, feed=feed or {"x": X})
    return report.candidates["it"]


def test_a_reference_in_train_mode(packages: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="the reference is in train mode") as caught:
        compared(net().train(), packages["same"])
    assert ".eval()" in str(caught.value)


def test_a_single_layer_in_train_mode(packages: dict[str, Path]) -> None:
    module = net()
    module.norm.train()
    with pytest.raises(ConfigError, match=r"'norm' \(LayerNorm\) is training"):
        compared(module, packages["same"])


def test_an_input_that_the_reference_does_not_have(packages: dict[str, Path]) -> None:
    with pytest.raises(FeedError, match="the model has no input 'z'") as caught:
        compared(net(), packages["same"], z=X)
    assert "its inputs: x" in str(caught.value)


def test_an_input_that_the_reference_does_not_take(packages: dict[str, Path]) -> None:
    with pytest.raises(EngineError, match="failed on the feed with RuntimeError") as caught:
        compared(net(), packages["same"], x=X[..., :7])
    assert "mat1 and mat2" in str(caught.value)


def test_a_package_with_other_dimensions_is_no_part_of_itself(packages: dict[str, Path]) -> None:
    """Half of a tensor that is twice as wide is not what the reference computes, though it would fit."""
    found = compared(net(), packages["wide"])
    rows = {row.name: row for row in found.stages}
    assert (found.status, found.first_divergence) == ("fail", "a")
    assert (
        rows["a"].reason == "no layout brings the two sides together: [1, 12, 32] against the reference's [1, 12, 16]"
    )
    assert (rows["a"].reference.shape, rows["a"].candidate.shape) == ((1, 12, 16), (1, 12, 32))
    np.testing.assert_allclose(rows["a"].reference.max, net().a(torch.from_numpy(X)).max().item(), rtol=1e-6)
    assert found.findings[0].cause == "wrong_output_width"
    assert found.findings[0].evidence["reference_width"] == 16


def test_what_is_computed_from_another_width_has_no_own_error(packages: dict[str, Path]) -> None:
    """The reference's tensor can't be put in the place of one that is wider."""
    last = compared(net(), packages["wide"]).stages[-1]
    assert (last.name, last.status) == ("b", "fail")
    assert (last.own_error, last.inherited_error, last.confirmed_own_error) == (None, None, None)


def test_a_padded_input_is_cut_off_and_everything_has_its_own_error(packages: dict[str, Path]) -> None:
    short = X[:, :10]
    found = compared(net(), packages["same"], x=short)
    assert found.status == "pass"
    for row in found.stages:
        assert "surplus cut off; x padded from 10 to 12 along axis 1" in row.layout
        assert row.own_error is not None
        assert row.own_error < 1e-5


def test_a_trace_of_other_inputs(packages: dict[str, Path], tmp_path: Path) -> None:
    with quiet.third_party():
        trace = record(TorchSource.from_module(net(), name="Net"), [("feed", {"x": X + 1})], tmp_path / "x.trace")
    found = compared(net(), trace)
    assert found.status == "unknown"
    assert (
        "the trace was recorded on other inputs: 'x': expected float32[1, 12, 8] with sha256" in found.stages[0].reason
    )


def test_a_trace_of_another_model(tmp_path: Path) -> None:
    with quiet.third_party():
        trace = record(TorchSource.from_module(net(32), name="Net"), [("feed", {"x": X})], tmp_path / "x.trace")
    found = compared(net(), trace)
    assert found.status == "fail"
    assert found.findings[0].cause == "wrong_output_width"


class Slopes(torch.nn.Module):
    """Two activations of one kind on one tensor."""

    def __init__(self, *slopes: float) -> None:
        super().__init__()
        self.a = torch.nn.Linear(8, 8)
        self.slopes = slopes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        one, two = (torch.nn.functional.leaky_relu(h, slope) for slope in self.slopes)
        return one.tanh() + two * 3


def test_an_ambiguous_alignment_is_unknown_with_its_candidates(tmp_path: Path) -> None:
    """Neither order nor values tell which is which: it is said, and not guessed."""
    torch.manual_seed(0)
    reference, other = Slopes(0.1, 0.3).eval(), Slopes(0.2, 0.25).eval()
    other.load_state_dict(reference.state_dict())
    reference.forward = lambda x: _swapped(reference, x)  # type: ignore[method-assign]
    convert(other, {"x": X}, tmp_path / "slopes.mlpackage")
    found = compared(reference, tmp_path / "slopes.mlpackage")
    rows = {row.name: row for row in found.stages}
    assert rows["/leaky_relu"].status == rows["/leaky_relu_1"].status == "unknown"
    assert rows["/leaky_relu"].reason.startswith("ambiguous: it could be ")
    assert rows["/leaky_relu"].reason == rows["/leaky_relu_1"].reason
    assert {missing.stage for missing in found.coverage.missing} == {"/leaky_relu", "/leaky_relu_1"}


def _swapped(module: Slopes, x: torch.Tensor) -> torch.Tensor:
    """The same ops with their ends in other places, so that structure does not lead back to them."""
    h = module.a(x)
    one, two = (torch.nn.functional.leaky_relu(h, slope) for slope in module.slopes)
    return one + two * 2
