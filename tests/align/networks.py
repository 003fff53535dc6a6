"""Ten small architectures with seeded weights of realistic scale, their feeds, and their conversion by coremltools.

They are what the alignment has to do without a map: each is converted as a user would convert it, with the names that
coremltools chooses. Weights keep torch's own initialisation; norms get statistics, scales and shifts that are not 1 and
0, so that nothing is aligned by accident.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerdiff import quiet

Array = np.ndarray


@dataclass(frozen=True)
class Network:
    """An architecture."""

    module: Callable[[], nn.Module]
    feed: Callable[[np.random.Generator], Mapping[str, Array]]
    """Names of the forward's parameters → values."""
    target: str = "iOS17"
    flexible: Mapping[str, int] = field(default_factory=dict)
    """Input → its axis of flexible length."""


@dataclass(frozen=True)
class Pair:
    """A module, its conversion, and what both are fed."""

    module: nn.Module
    package: Path
    feed: Mapping[str, Array]

    def reference(self) -> list[Array]:
        """The module's outputs, in its order."""
        with torch.no_grad():
            results = self.module(*(torch.from_numpy(value.copy()) for value in self.feed.values()))
        return [value.numpy() for value in ([results] if isinstance(results, Tensor) else results)]


class Convolutional(nn.Module):
    """Convolutions of one and two dimensions, batch norms that conversion folds, both poolings."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv1d(8, 16, 5, stride=2, padding=2), nn.BatchNorm1d(16)
        self.body, self.body_norm = nn.Conv1d(16, 16, 3, padding=1, bias=False), nn.BatchNorm1d(16)
        self.image = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2))
        self.dilated = nn.Conv2d(6, 10, (3, 2), dilation=(2, 1))
        self.late_norm = nn.BatchNorm2d(10)
        self.classes = nn.Linear(10, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.max_pool1d(x + F.relu(self.body_norm(self.body(x))), 2)
        x = self.image(x.unsqueeze(1))
        x = self.late_norm(F.relu(self.dilated(x)))  # a norm after the activation cannot be folded
        return self.classes(x.mean(dim=(2, 3)))


class Recurrent(nn.Module):
    """A bidirectional LSTM, a GRU of two layers, and states among the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(10, 12, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(24, 9, num_layers=2, batch_first=True)
        self.steps = nn.LSTM(9, 8, batch_first=True)
        self.out = nn.Linear(8, 11)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, _ = self.lstm(x)
        x, _ = self.gru(x)
        x, (h, c) = self.steps(x)
        return torch.log_softmax(self.out(x), -1), h, c


class SelfAttention(nn.Module):
    """Written by hand: one projection for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)).softmax(-1)  # [B, H, T, T]
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))


class Projections(nn.Module):
    """The same with a projection each for query, key and value."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (part(x).view(batch, length, self.heads, -1) for part in (self.query, self.key, self.value))
        weights = (torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(width // self.heads)).softmax(-1)
        return self.out(torch.einsum("bhts,bshd->bthd", weights, v).reshape(batch, length, width))

    def fused(self) -> SelfAttention:
        """The same function with one projection."""
        parts = (self.query, self.key, self.value)
        attention = SelfAttention(self.out.in_features, self.heads)
        attention.qkv.weight = nn.Parameter(torch.cat([part.weight for part in parts]))
        attention.qkv.bias = nn.Parameter(torch.cat([part.bias for part in parts]))
        attention.out = self.out
        return attention.eval()


class Attention(nn.Module):
    """Two pre-norm transformer blocks: torch's multi-head attention, and attention written by hand."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.first_norm, self.first = nn.LayerNorm(width), nn.MultiheadAttention(width, heads, batch_first=True)
        self.second_norm, self.second = nn.LayerNorm(width), SelfAttention(width, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 40), nn.GELU(), nn.Linear(40, width))
        self.classes = nn.Linear(width, 9)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first_norm(x)
        x = x + self.first(y, y, y, need_weights=False)[0]
        x = x + self.second(self.second_norm(x))
        x = x + self.feed_forward(self.feed_norm(x))
        return self.classes(x)


class ConvolutionModule(nn.Module):
    """The convolution module of a Conformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.pointwise_in = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, 9, padding=4, groups=width)
        self.batch_norm = nn.BatchNorm1d(width)
        self.pointwise_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pointwise_in(self.norm(x).transpose(1, 2))  # [B, 2D, T]
        y = F.silu(self.batch_norm(self.depthwise(F.glu(y, dim=1))))
        return x + self.pointwise_out(y).transpose(1, 2)


class Depthwise(nn.Module):
    """Two convolution modules in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([ConvolutionModule(12), ConvolutionModule(12)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Transposed(nn.Module):
    """A decoder that upsamples by transposed convolutions and by interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.up1 = nn.ConvTranspose1d(12, 10, 4, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 10)
        self.up2 = nn.ConvTranspose1d(10, 6, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.image = nn.ConvTranspose2d(1, 4, (2, 3), stride=(2, 1), padding=(0, 1))
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm(self.up1(x)), 0.1)
        x = F.elu(self.up2(x))
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return torch.tanh(self.out(self.image(x.unsqueeze(1))))


class Embeddings(nn.Module):
    """Tables for tokens and positions; the last valid step of every row is gathered."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(40, 14), nn.Embedding(20, 14)
        self.norm = nn.LayerNorm(14)
        self.hidden, self.classes = nn.Linear(14, 30), nn.Linear(30, 5)

    def forward(self, tokens: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        x = F.silu(self.hidden(self.norm(x)))
        row = last.long().view(-1, 1, 1).expand(-1, 1, 30)
        return self.classes(x.gather(1, row).squeeze(1)), x


class Tied(nn.Module):
    """The table of the embedding is the matrix of the output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(36, 16)
        self.up, self.down, self.norm = nn.Linear(16, 32), nn.Linear(32, 16), nn.LayerNorm(16)
        nn.init.normal_(self.table.weight, std=0.3)
        self.project = nn.Linear(16, 36, bias=False)
        self.project.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        x = self.norm(x + self.down(F.gelu(self.up(x), approximate="tanh")))
        return self.project(x)


class Block(nn.Module):
    """A pre-norm residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Reused(nn.Module):
    """One block three times."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.block, self.exit = nn.Linear(10, 14), Block(14), nn.Linear(14, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for _ in range(3):
            x = self.block(x)
        return torch.sigmoid(self.exit(x))


class Functional(nn.Module):
    """No submodules: parameters and functions only."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {
            "kernel": (12, 6, 3),
            "kernel_bias": (12,),
            "query": (12, 12),
            "key": (12, 12),
            "value": (12, 12),
            "scale": (12,),
            "shift": (12,),
            "last": (12, 5),
            "last_bias": (5,),
        }
        for name, shape in shapes.items():
            fan_in = shape[0] if name == "last" else math.prod(shape[1:])
            self.register_parameter(name, nn.Parameter(torch.randn(shape) / math.sqrt(fan_in)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv1d(x, self.kernel, self.kernel_bias, padding=1)).transpose(1, 2)  # [B, T, 12]
        q, k, v = F.linear(x, self.query), F.linear(x, self.key), F.linear(x, self.value)
        x = x + F.softmax(q @ k.transpose(1, 2) * 0.25, dim=-1) @ v
        x = F.layer_norm(x, (12,), self.scale, self.shift)
        x = x * torch.sigmoid(x) - 0.5 * x.pow(2)
        return torch.addmm(self.last_bias, x.reshape(-1, 12), self.last).exp()


class Flexible(nn.Module):
    """Any length: subsampling, positions that depend on the length, attention, a mean over time."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, width, 3, stride=2, padding=1)
        self.norm, self.attention = nn.LayerNorm(width), SelfAttention(width, 2)
        self.out = nn.Linear(width, 8)
        self.register_buffer("rates", 0.5 ** torch.arange(width // 2).float())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)  # [B, T / 2, D]
        angles = torch.arange(x.shape[1]).float().unsqueeze(1) * self.rates
        x = x + torch.cat([angles.sin(), angles.cos()], dim=1)
        x = x + self.attention(self.norm(x))
        return self.out(x), self.out(x.mean(dim=1))


def _noise(*shape: int, name: str = "x") -> Callable[[np.random.Generator], dict[str, Array]]:
    return lambda rng: {name: rng.standard_normal(shape).astype(np.float32)}


def _tokens(count: int, *shape: int) -> Callable[[np.random.Generator], dict[str, Array]]:
    return lambda rng: {"tokens": rng.integers(0, count, shape).astype(np.int32)}


def _tokens_and_last(rng: np.random.Generator) -> dict[str, Array]:
    return {**_tokens(40, 3, 11)(rng), "last": np.array([10, 4, 7], np.int32)}


NETWORKS = {
    "conv": Network(Convolutional, _noise(2, 8, 32)),
    "recurrent": Network(Recurrent, _noise(2, 7, 10)),
    "attention": Network(Attention, _noise(2, 9, 16)),
    "depthwise": Network(Depthwise, _noise(2, 15, 12), target="iOS16"),
    "transposed": Network(Transposed, _noise(2, 12, 5)),
    "embeddings": Network(Embeddings, _tokens_and_last),
    "tied": Network(Tied, _tokens(36, 2, 10)),
    "reused": Network(Reused, _noise(4, 10), target="iOS18"),
    "functional": Network(Functional, _noise(2, 6, 13), target="iOS16"),
    "flexible": Network(Flexible, _noise(1, 22, 6), flexible={"x": 1}),
}
"""The ten architectures by what each is there for."""

FLOAT16 = ("conv", "attention", "functional", "flexible")
"""Those that are converted to float16 too."""

COMPRESSED = {"int8": "attention", "palettized": "depthwise"}
"""How weights are compressed → the network that is."""


def module_of(name: str) -> nn.Module:
    """The module of an architecture; its weights are the same whenever it is built."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(ord, name)))
        module = NETWORKS[name].module().eval()
        _unsettle(module)
    return module


def _unsettle(module: nn.Module) -> None:
    """Gives norms what training would: scales, shifts and statistics that are not 1 and 0."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.2)
            nn.init.uniform_(part.running_var, 0.3, 1.5)


def feed_of(name: str) -> dict[str, Array]:
    """Its feed, always the same."""
    return dict(NETWORKS[name].feed(np.random.default_rng(len(name))))


def convert(
    module: nn.Module, feed: Mapping[str, Array], path: Path, *, precision: str = "float32", **options: Any
) -> None:
    """Converts a module with coremltools and saves the package.

    Args:
        module: in eval mode.
        feed: examples, by the names that the inputs get.
        path: where the `.mlpackage` goes.
        precision: compute precision.
        options: `target` and `flexible` as in `Network`; `compression`: `int8` or `palettized` weights.
    """
    with quiet.third_party():
        import coremltools as ct

        examples = tuple(torch.from_numpy(value.copy()) for value in feed.values())
        # gradients stay on: without them attention is traced as one fused op that coremltools doesn't know
        model = ct.convert(
            torch.jit.trace(module, examples, strict=False, check_trace=False),
            convert_to="mlprogram",
            inputs=[_input_type(ct, options.get("flexible", {}), key, value) for key, value in feed.items()],
            minimum_deployment_target=getattr(ct.target, options.get("target", "iOS17")),
            compute_precision=getattr(ct.precision, precision.upper()),
            skip_model_load=True,
        )
        _compressed(model, options.get("compression", "")).save(str(path))


def _input_type(ct: Any, flexible: Mapping[str, int], key: str, value: Array) -> Any:
    shape: list[Any] = list(value.shape)
    if key in flexible:
        axis = flexible[key]
        shape[axis] = ct.RangeDim(lower_bound=4, upper_bound=64, default=value.shape[axis])
    return ct.TensorType(name=key, shape=tuple(shape), dtype=value.dtype.type)


def _compressed(model: Any, compression: str) -> Any:
    from coremltools.optimize import coreml as cto

    if compression == "int8":
        op = cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=100)
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=op))
    if compression == "palettized":
        op = cto.OpPalettizerConfig(mode="uniform", nbits=6, weight_threshold=100)
        return cto.palettize_weights(model, cto.OptimizationConfig(global_config=op))
    return model
