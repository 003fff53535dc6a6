"""A fault that is put into a real network before its conversion is named, in either precision, with no stage map."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import layerdiff
from tests.align.networks import convert

FEED = {"x": np.random.default_rng(0).standard_normal((1, 80, 16)).astype(np.float32)}


class Block(torch.nn.Module):
    """What a conformer is made of, in small."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(16, 32)
        self.norm = torch.nn.LayerNorm(32)
        self.activation = torch.nn.SiLU()
        self.last = torch.nn.Linear(32, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.activation(self.norm(self.first(x))))


class Normalised(Block):
    """With a log-softmax that the reference does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).log_softmax(-1)


def block(kind: type[Block] = Block) -> Block:
    torch.manual_seed(0)
    return kind().eval()


def scaled(net: Block) -> None:
    net.last.weight *= 1.3
    net.last.bias *= 1.3


def exchanged(net: Block) -> None:
    net.last.weight[:] = net.last.weight[torch.arange(24).roll(5)]


FAULTS: dict[str, tuple[str, str, Callable[[Block], object]]] = {
    "no bias": ("bias_missing", "last", lambda net: net.last.bias.zero_()),
    "another bias": ("bias_changed", "last", lambda net: net.last.bias.add_(torch.linspace(-1, 2, 24))),
    "scaled": ("scale", "last", scaled),
    "negative rows": ("sign_flip", "last", lambda net: net.last.weight[3:5].mul_(-1)),
    "zero row": ("weight_missing", "first", lambda net: net.first.weight[3].zero_()),
    "rows exchanged": ("channel_permutation", "last", exchanged),
    "epsilon": ("epsilon_changed", "norm", lambda net: setattr(net.norm, "eps", 0.1)),
    "relu": ("activation_changed", "activation", lambda net: setattr(net, "activation", torch.nn.ReLU())),
    "no activation": ("activation_missing", "last", lambda net: setattr(net, "activation", torch.nn.Identity())),
}


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str, precision: str, tmp_path) -> None:
    cause, stage, plant = FAULTS[fault]
    faulty = block()
    with torch.no_grad():
        plant(faulty)
    convert(faulty, FEED, tmp_path / "faulty.mlpackage", precision=precision)
    report = layerdiff.diff(reference=block(), candidates={"it": tmp_path / "faulty.mlpackage"}, feed=FEED)
    result = report.candidates["it"]
    assert result.first_divergence == stage
    assert result.findings[0].cause == cause
    assert result.findings[0].stage == stage
    assert result.findings[0].confidence > 0.99


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_healthy_conversion_has_no_finding(precision: str, tmp_path) -> None:
    convert(block(), FEED, tmp_path / "healthy.mlpackage", precision=precision)
    report = layerdiff.diff(reference=block(), candidates={"it": tmp_path / "healthy.mlpackage"}, feed=FEED)
    assert report.ok
    assert report.candidates["it"].findings == ()


def test_a_log_softmax_of_the_package_alone_is_named(tmp_path) -> None:
    convert(block(Normalised), FEED, tmp_path / "normalised.mlpackage")
    report = layerdiff.diff(reference=block(), candidates={"it": tmp_path / "normalised.mlpackage"}, feed=FEED)
    assert report.candidates["it"].findings[0].cause == "log_softmax_baked"
