"""Weights of one op on both sides, in one layout, whatever the package made of them."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

import layerdiff
from layerdiff import quiet
from layerdiff.errors import FeedError
from layerdiff.mil import Model, load
from layerdiff.records import Finding


class Net(nn.Module):
    """Everything whose weights can be told: convolutions with and without a norm, linear, norm, LSTM, embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.mix = nn.Conv1d(8, 8, 1)
        self.lstm = nn.LSTM(8, 5, num_layers=2, batch_first=True)
        self.layer_norm = nn.LayerNorm(5)
        self.out = nn.Linear(5, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.norm(self.conv(x)))
        x = torch.tanh(self.mix(x)).transpose(1, 2)
        x, _ = self.lstm(x)
        return self.out(torch.relu(self.layer_norm(x)))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(3)
    made = Net().eval()
    made.norm.running_mean.normal_()  # type: ignore[union-attr,operator]
    made.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr,operator]
    made.norm.weight.data.uniform_(0.5, 2)
    return made


X = torch.randn(1, 6, 30, generator=torch.Generator().manual_seed(0))


def converted(net: Net, folder: Path) -> Path:
    path = folder / "net.mlpackage"
    with torch.no_grad(), quiet.third_party(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing an LSTM compares sizes
        traced = torch.jit.trace(net, (X,), check_trace=False)
    ct.convert(
        traced,
        inputs=[ct.TensorType(name="x", shape=tuple(X.shape))],
        outputs=[ct.TensorType(name="y")],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    ).save(str(path))
    return path


def finding(net: Net, damaged: Net, folder: Path) -> Finding:
    report = layerdiff.diff(reference=net, candidates={"it": str(converted(damaged, folder))}, feed={"x": X.numpy()})
    return report.findings[0]


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("conv.weight", "norm"),
        ("mix.weight", "mix"),
        ("mix.bias", "mix"),
        ("lstm.weight_ih_l0", "lstm"),
        ("lstm.weight_hh_l1", "lstm"),
        ("lstm.bias_hh_l0", "lstm"),
        ("layer_norm.weight", "layer_norm"),
        ("layer_norm.bias", "layer_norm"),
        ("out.weight", "out"),
    ],
)
def test_a_changed_weight_is_found_and_proved(net: Net, tmp_path: Path, path: str, stage: str) -> None:
    damaged = copy.deepcopy(net)
    value = damaged.get_parameter(path).data
    rng = np.random.default_rng(5)
    value[:3] += 0.2 * torch.from_numpy(rng.standard_normal(tuple(value[:3].shape)).astype(np.float32))
    found = finding(net, damaged, tmp_path)
    expected = "bias_changed" if "bias" in path else "weight_changed"
    assert found.cause == ("channel_scale" if path == "layer_norm.weight" else expected)  # a gain is a factor each
    assert found.stage == stage
    assert found.evidence["proved_by_running_it"]
    assert found.confidence > 0.999


def test_a_fault_in_front_of_a_folded_norm_is_seen_without_the_norm(net: Net, tmp_path: Path) -> None:
    damaged = copy.deepcopy(net)
    damaged.conv.weight.data *= 3
    damaged.conv.bias.data *= 3  # type: ignore[union-attr]
    found = finding(net, damaged, tmp_path)
    assert (found.cause, found.stage) == ("scale", "norm")
    assert found.evidence["factor"] == pytest.approx(3, rel=1e-4)


def test_a_constant_is_exchanged_in_one_model_alone(net: Net, tmp_path: Path) -> None:
    model = load(converted(net, tmp_path))
    assert isinstance(model, Model)
    name = next(name for name in model.graph.function.block.constants if "out_weight" in name)
    before = model.predict({"x": X.numpy()})["y"]
    zero = model.with_constants({name: np.zeros((7, 5))})
    assert np.allclose(zero.predict({"x": X.numpy()})["y"], net.out.bias.detach().numpy())
    assert np.array_equal(model.predict({"x": X.numpy()})["y"], before)
    with pytest.raises(FeedError, match="'nothing' is no constant"):
        model.with_constants({"nothing": np.zeros(1)})
    with pytest.raises(FeedError, match="has another shape"):
        model.with_constants({name: np.zeros((5, 7))})
