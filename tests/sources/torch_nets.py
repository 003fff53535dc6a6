"""Small torch models for the tests of torch sources, each with what makes capture hard."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pair = namedtuple("Pair", "first second")


class Reused(nn.Module):
    """Calls modules twice, works in place, returns nested values."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.rnn = nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> dict[str, Any]:
        once = self.block(x)
        twice = self.block(once + x)
        steps, states = self.rnn(twice)
        return {"steps": steps, "states": states}


class Functional(nn.Module):
    """No module computes anything: parameters, a buffer and functions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.table = nn.Parameter(torch.randn(7, 4))
        self.register_buffer("shift", torch.randn(4))
        self.scale = torch.randn(4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.embedding(tokens, self.table) + self.shift
        x = x * self.scale
        x = x @ self.weight.t()
        return F.softmax(x, dim=-1)


class InPlace(nn.Module):
    """Overwrites what others have made, whole and through views."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.fc(x)
        hidden = self.act(hidden)
        hidden += 1.0
        rows = hidden[:, 1:]
        rows.mul_(2.0)
        doubled = hidden.neg()
        hidden.view(-1).exp_()
        return doubled, hidden * 1.0


class Stepwise(nn.Module):
    """Control flow that depends on values, and a custom autograd function."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(4, 4)

    def forward(self, x: Tensor, limit: int = 8) -> Tensor:
        for _ in range(limit):
            x = Doubled.apply(torch.tanh(self.step(x)))
            if x.sum().item() > 0:
                break
        return x


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


@dataclass
class Answer:
    logits: Tensor
    hidden: tuple[Tensor, ...]


class Dataclasses(nn.Module):
    """Returns a dataclass from inside and outside, and a named tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()

    def forward(self, x: Tensor) -> Answer:
        answer, pair = self.head(x)
        return Answer(answer.logits + pair.second, answer.hidden)


class Head(nn.Module):
    def forward(self, x: Tensor) -> tuple[Answer, Pair]:
        return Answer(x.exp(), (x.sin(), x.cos())), Pair(x.abs(), x.neg())


class Tied(nn.Module):
    """The embedding's table is the output layer's weight; and one weight is normalised as it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.mix = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.out = nn.Linear(4, 6, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.embed(tokens))))


class Attention(nn.Module):
    """Multi-head attention and a whole transformer layer, which torch would fuse."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mixed, weights = self.attend(x, x, x)
        return self.layer(mixed), weights


class Convolutions(nn.Module):
    """Plain, depthwise and transposed convolutions, every stored normalisation, resizing, pooling, padding."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(4, 4, 3, padding="same"),
            nn.BatchNorm1d(4),
            nn.SiLU(),
            nn.Conv1d(4, 4, 3, padding=1, groups=4),
            nn.GroupNorm(2, 4),
            nn.PReLU(),
            nn.ConvTranspose1d(4, 4, 2, stride=2),
            nn.InstanceNorm1d(4, affine=True),
            nn.MaxPool1d(2),
            nn.Dropout(),
            nn.Upsample(scale_factor=2),
        )
        self.norms = nn.Sequential(nn.LayerNorm(4), nn.RMSNorm(4), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.norms(F.pad(self.net(x), (1, 1)).transpose(1, 2))


class Cells(nn.Module):
    """Recurrent networks of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.rnn = nn.RNN(4, 4, batch_first=True, bias=False)
        self.projected = nn.LSTM(4, 4, proj_size=2, batch_first=True)
        self.cell = nn.LSTMCell(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.projected(self.rnn(self.gru(x)[0])[0])
        return self.cell(x[:, 0])[0]


def ready(module: nn.Module) -> nn.Module:
    """In eval mode, with values that make every part count."""
    generator = torch.Generator().manual_seed(7)
    for tensor in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._NormBase) and norm.running_var is not None:
            norm.running_var.abs_().add_(0.5)
    return module.eval()


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


TOKENS = np.array([[1, 4, 2], [0, 3, 5]])

CASES: dict[str, tuple[type[nn.Module], dict[str, np.ndarray]]] = {
    "reused": (Reused, {"x": floats(2, 3, 4)}),
    "functional": (Functional, {"tokens": TOKENS}),
    "in_place": (InPlace, {"x": floats(3, 4)}),
    "stepwise": (Stepwise, {"x": floats(2, 4)}),
    "dataclasses": (Dataclasses, {"x": floats(2, 4)}),
    "tied": (Tied, {"tokens": TOKENS}),
    "attention": (Attention, {"x": floats(2, 3, 8)}),
    "convolutions": (Convolutions, {"x": floats(2, 4, 6)}),
    "cells": (Cells, {"x": floats(2, 3, 4)}),
}
"""Name → model and feed."""


def case(name: str) -> tuple[nn.Module, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    model, feed = CASES[name]
    return ready(model()), feed


def as_tensors(feed: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value).clone() for name, value in feed.items()}
