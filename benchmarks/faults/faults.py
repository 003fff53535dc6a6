"""The faults: each changes a copy of a network before its conversion, at a random place and with a random strength.

A fault is registered under the cause that layerdiff should name, with the networks that it can be put into. It changes
the modules it is given and says which stages may be the first bad one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

Random = np.random.Generator


@dataclass(frozen=True)
class Placed:
    """A fault that was put in."""

    stages: tuple[str, ...]
    """Stages of which one has to be found first, as the reference names them; one that ends in `/` stands for all ops
    of a module outside of its layers. What has no counterpart in the other model shows in what follows."""
    words: str
    """Where, and how strong."""
    precision: str = "float32"
    feed: Callable[[dict[str, Any]], dict[str, Any]] = dict
    """What becomes of the network's feed."""
    is_both: bool = False
    """Whether the change is none of the function: the reference has it too."""


Fault = Callable[[SimpleNamespace, Random], Placed]

REGISTRY: dict[str, list[tuple[str, Fault]]] = {}
"""Cause → pairs of the network's function in `networks` and the fault."""


def fault(cause: str, *networks: str) -> Callable[[Fault], Fault]:
    """Registers a fault under the cause that should be named."""

    def register(function: Fault) -> Fault:
        REGISTRY.setdefault(cause, []).extend((network, function) for network in networks)
        return function

    return register


# ------------------------------------------------------------------ places


ROOTS = ("joint", "encoder", "decoder", "preprocessor")


def changed_root(source: SimpleNamespace) -> tuple[str, nn.Module]:
    """The component that was copied, the only one whose modules may be changed."""
    name = source.component
    return name, getattr(source, name)


def layers(source: SimpleNamespace, *kinds: type[nn.Module], bias: bool = False) -> list[tuple[str, Any]]:
    """The layers of a kind, by the paths that stages have."""
    root, module = changed_root(source)
    found = [(f"{root}.{path}", layer) for path, layer in module.named_modules() if isinstance(layer, kinds)]
    return [(path, layer) for path, layer in found if not bias or getattr(layer, "bias", None) is not None]


def one_of(items: list[Any], random: Random) -> Any:
    return items[int(random.integers(len(items)))]


def shown_at(source: SimpleNamespace, path: str) -> tuple[str, ...]:
    """A layer, and the batch norm behind it that a conversion folds into it."""
    parent = path.rpartition(".")[0]
    if path.endswith("linear_pos"):
        return (path, f"{parent}/")  # NeMo's table of positions depends on nothing that is fed, so neither does this
    names = [
        name for name, layer in layers(source, nn.BatchNorm1d, nn.BatchNorm2d) if name.rpartition(".")[0] == parent
    ]
    return (path, *names)


WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d)


def weighted(source: SimpleNamespace, random: Random, *, bias: bool = False) -> tuple[str, Any]:
    """A linear layer or convolution with more than one row."""
    found = [(path, layer) for path, layer in layers(source, *WEIGHTED, bias=bias) if "norm" not in path]
    return one_of(found, random)  # type: ignore[no-any-return]


def some_rows(count: int, random: Random, *, share: float | None = None) -> Any:
    """Some of the rows of a weight, at least one."""
    share = float(random.uniform(0.05, 0.6)) if share is None else share
    return random.choice(count, size=max(1, int(share * count)), replace=False)


def replaced(source: SimpleNamespace, path: str, new: nn.Module) -> None:
    """Puts another module in the place of one."""
    owner: Any = source
    *inside, last = path.split(".")
    for part in inside:
        owner = getattr(owner, part) if not part.isdigit() else owner[int(part)]
    if last.isdigit():
        owner[int(last)] = new
    else:
        setattr(owner, last, new)


# ------------------------------------------------------------------ weights and biases


EVERYWHERE = ("joint", "full_joint", "encoder")


@fault("bias_missing", "joint", "full_joint")
def bias_missing(source: SimpleNamespace, random: Random) -> Placed:
    path, layer = weighted(source, random, bias=True)
    layer.bias.data.zero_()
    return Placed((path,), f"{path}: bias zero")


@fault("bias_changed", "joint", "full_joint")
def bias_changed(source: SimpleNamespace, random: Random) -> Placed:
    path, layer = weighted(source, random, bias=True)
    strength = float(10 ** random.uniform(-1.5, 0.5))
    noise = torch.from_numpy(random.standard_normal(len(layer.bias)).astype(np.float32))
    layer.bias.data += strength * noise * layer.bias.data.std()
    return Placed((path,), f"{path}: bias off by {strength:.2g} of its size")


@fault("weight_changed", *EVERYWHERE)
def weight_changed(source: SimpleNamespace, random: Random) -> Placed:
    path, layer = weighted(source, random)
    strength = float(10 ** random.uniform(-1.5, 0))
    rows = some_rows(len(layer.weight), random)
    noise = torch.from_numpy(random.standard_normal(layer.weight[rows].shape).astype(np.float32))
    layer.weight.data[rows] += strength * noise * layer.weight.data.std()
    return Placed(shown_at(source, path), f"{path}: {len(rows)} rows off by {strength:.2g}")


@fault("weight_missing", *EVERYWHERE)
def weight_missing(source: SimpleNamespace, random: Random) -> Placed:
    path, layer = weighted(source, random)
    rows = some_rows(len(layer.weight), random)
    layer.weight.data[rows] = 0
    return Placed(shown_at(source, path), f"{path}: {len(rows)} of {len(layer.weight)} rows zero")


@fault("weight_quantization", *EVERYWHERE)
def weight_quantization(source: SimpleNamespace, random: Random) -> Placed:
    path, layer = weighted(source, random)
    bits = int(random.integers(2, 9))
    steps = 2 ** (bits - 1) - 1
    size = layer.weight.data.abs().max() / steps
    layer.weight.data = torch.round(layer.weight.data / size) * size
    return Placed(shown_at(source, path), f"{path}: weight rounded to {bits} bits")


@fault("channel_scale", *EVERYWHERE)
def channel_scale(source: SimpleNamespace, random: Random) -> Placed:
    path, layer = weighted(source, random)
    factors = torch.from_numpy(np.exp(random.uniform(-1, 1, len(layer.weight))).astype(np.float32))
    layer.weight.data *= factors.reshape(-1, *[1] * (layer.weight.ndim - 1))
    if layer.bias is not None:
        layer.bias.data *= factors
    return Placed(shown_at(source, path), f"{path}: each row by its own factor")


@fault("scale", *EVERYWHERE)
def scale(source: SimpleNamespace, random: Random) -> Placed:
    path, layer = weighted(source, random)
    factor = float(one_of([1.01, 0.9, 0.5, 2.0, 3.0, 1 / 8], random))
    layer.weight.data *= factor
    if layer.bias is not None:
        layer.bias.data *= factor
    return Placed(shown_at(source, path), f"{path}: by {factor:.3g}")


@fault("sign_flip", *EVERYWHERE)
def sign_flip(source: SimpleNamespace, random: Random) -> Placed:
    path, layer = weighted(source, random)
    layer.weight.data *= -1
    if layer.bias is not None:
        layer.bias.data *= -1
    return Placed(shown_at(source, path), f"{path}: negated")


@fault("channel_permutation", *EVERYWHERE)
def channel_permutation(source: SimpleNamespace, random: Random) -> Placed:
    path, layer = weighted(source, random)
    count = len(layer.weight)
    moved = some_rows(count, random, share=float(random.uniform(0.1, 1)))
    moved = moved if len(moved) > 1 else np.array([0, count - 1])
    order = np.arange(count)
    order[np.sort(moved)] = np.roll(np.sort(moved), int(random.integers(1, len(moved))))
    layer.weight.data = layer.weight.data[order].clone()
    if layer.bias is not None:
        layer.bias.data = layer.bias.data[order].clone()
    return Placed(shown_at(source, path), f"{path}: {len(moved)} of {count} rows in another order")


# ------------------------------------------------------------------ functions


class Around(nn.Module):
    """A module in the place of another one, which it holds: it has its attributes, as NeMo asks layers for sizes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)


class Then(Around):
    """A layer and what is done to its output."""

    def __init__(self, inner: nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(inner)
        self._function = function

    def forward(self, value: torch.Tensor, **options: Any) -> torch.Tensor:
        return self._function(self.inner(value, **options))


def behind_last(source: SimpleNamespace, function: Callable[[torch.Tensor], torch.Tensor]) -> tuple[str, ...]:
    """Puts a function behind the joint's output layer."""
    net = source.joint.joint_net
    net[len(net) - 1] = Then(net[len(net) - 1], function)
    return (f"joint.joint_net.{len(net) - 1}", f"joint.joint_net.{len(net) - 1} = logits")


@fault("log_softmax_baked", "joint", "full_joint")
def log_softmax_baked(source: SimpleNamespace, random: Random) -> Placed:
    source.joint.log_softmax = one_of([None, True], random)
    precision = one_of(["float32", "float16"], random)
    last = len(source.joint.joint_net) - 1
    stages = (f"joint.joint_net.{last}", f"joint.joint_net.{last} = logits")
    return Placed(stages, f"log_softmax {source.joint.log_softmax}, {precision}", precision)


@fault("softmax_baked", "joint", "full_joint")
def softmax_baked(source: SimpleNamespace, random: Random) -> Placed:
    stages = behind_last(source, lambda value: value.softmax(dim=-1))
    return Placed(stages, "softmax behind the logits")


@fault("row_offset", "joint", "full_joint")
def row_offset(source: SimpleNamespace, random: Random) -> Placed:
    kind = one_of(["max", "mean"], random)
    stages = behind_last(
        source,
        lambda v: v - (v.amax(dim=-1, keepdim=True) if kind == "max" else v.mean(dim=-1, keepdim=True)),
    )
    return Placed(stages, f"logits minus their {kind}")


@fault("slice_shift", "joint", "full_joint")
def slice_shift(source: SimpleNamespace, random: Random) -> Placed:
    by = int(one_of([1, 2, -1], random))
    shift: Callable[[torch.Tensor], torch.Tensor]
    if by > 0:  # as a slice that begins too late, filled up at its end
        shift = lambda value: torch.cat([value[..., by:], value[..., -by:]], dim=-1)  # noqa: E731
    else:
        shift = lambda value: torch.cat([value[..., :-by], value[..., :by]], dim=-1)  # noqa: E731
    return Placed(behind_last(source, shift), f"outputs shifted by {by}")


@fault("frame_shift", "encoder")
def frame_shift(source: SimpleNamespace, random: Random) -> Placed:
    convolutions = [(path, layer) for path, layer in layers(source, nn.Conv1d) if layer.kernel_size[0] > 1]
    path, layer = one_of(convolutions, random)
    by, behind = int(random.integers(1, 4)), _behind(source, path)
    replaced(source, path, Then(layer, lambda value: torch.cat([value[..., :by] * 0, value[..., :-by]], dim=-1)))
    return Placed((path, *behind), f"{path}: {by} frames late")


ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def _activations(source: SimpleNamespace) -> list[tuple[str, Any]]:
    return layers(source, *ACTIVATIONS.values())


@fault("activation_missing", *EVERYWHERE)
def activation_missing(source: SimpleNamespace, random: Random) -> Placed:
    path, _ = one_of(_activations(source), random)
    behind = _behind(source, path)
    replaced(source, path, nn.Identity())
    return Placed((path, *behind), f"{path} left out")


@fault("activation_changed", *EVERYWHERE)
def activation_changed(source: SimpleNamespace, random: Random) -> Placed:
    path, layer = one_of(_activations(source), random)
    name = one_of([name for name, kind in ACTIVATIONS.items() if not isinstance(layer, kind)], random)
    behind = _behind(source, path)
    replaced(source, path, ACTIVATIONS[name]())
    return Placed((path, *behind), f"{path} is {name}")


def _behind(source: SimpleNamespace, path: str) -> tuple[str, ...]:
    """The next layers in the same container, and its own ops: where a change that has no counterpart shows first."""
    parent, _, _ = path.rpartition(".")
    names = [name for name, _ in layers(source, nn.Module) if name.rpartition(".")[0] == parent]
    return (*names[names.index(path) + 1 :][:2], f"{parent}/") if path in names else (f"{parent}/",)


@fault("epsilon_changed", "encoder")
def epsilon_changed(source: SimpleNamespace, random: Random) -> Placed:
    path, layer = one_of(layers(source, nn.LayerNorm), random)
    layer.eps = float(10 ** random.uniform(-2.5, -0.5))
    return Placed((path,), f"{path}: epsilon {layer.eps:.2g}")


# ------------------------------------------------------------------ shapes and values


@fault("wrong_output_width", "joint", "full_joint")
def wrong_output_width(source: SimpleNamespace, random: Random) -> Placed:
    net = source.joint.joint_net
    layer, lost = net[len(net) - 1], int(one_of([1, 5], random))
    narrow = nn.Linear(layer.in_features, layer.out_features - lost)
    narrow.weight.data, narrow.bias.data = layer.weight.data[:-lost].clone(), layer.bias.data[:-lost].clone()
    net[len(net) - 1] = narrow.eval()
    return Placed((f"joint.joint_net.{len(net) - 1}",), f"{lost} outputs fewer")


@fault("constant_output", "joint", "full_joint")
def constant_output(source: SimpleNamespace, random: Random) -> Placed:
    path, layer = one_of([("joint.enc", source.joint.enc), ("joint.pred", source.joint.pred)], random)
    replaced(source, path, Then(layer, lambda value: value * 0 + value.detach().new_tensor(0.5)))
    return Placed((path, "joint/"), f"{path}: a constant")


@fault("overflow", "joint", "full_joint")
def overflow(source: SimpleNamespace, random: Random) -> Placed:
    factor = float(10 ** random.uniform(4.3, 5))
    for layer in (source.joint.enc, source.joint.pred):
        layer.weight.data *= factor
        layer.bias.data *= factor
    return Placed(("joint.enc", "joint.pred", "joint/add"), f"projections by {factor:.2g}", "float16", is_both=True)


@fault("stale_state", "decoder")
def stale_state(source: SimpleNamespace, random: Random) -> Placed:
    lstm, which = source.decoder.prediction["dec_rnn"], str(one_of(["h", "c", "both"], random))

    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = lstm

        @property
        def lstm(self) -> nn.Module:
            return lstm.lstm

        def forward(self, x: torch.Tensor, state: Any = None) -> Any:
            h, c = state
            kept = (h * 0 if which in ("h", "both") else h, c * 0 if which in ("c", "both") else c)
            return self.inner(x, kept)

    source.decoder.prediction["dec_rnn"] = Forgetful()
    return Placed(("decoder.prediction.dec_rnn", "decoder/"), f"state {which} taken for zero")


def square(feed: dict[str, Any]) -> dict[str, Any]:
    """As many frames as steps."""
    length = min(value.shape[-1] for value in feed.values())
    return {name: value[..., :length] for name, value in feed.items()}


@fault("axis_transposed", "joint", "full_joint")
def axis_transposed(source: SimpleNamespace, random: Random) -> Placed:
    stages = behind_last(source, lambda value: value.transpose(1, 2).contiguous())
    return Placed(stages, "frames and steps exchanged", feed=square)


@fault("underflow_log_zero", "joint", "full_joint")
def underflow_log_zero(source: SimpleNamespace, random: Random) -> Placed:
    source.joint.log_softmax = True
    factor = float(random.uniform(1, 3)) * (
        1 if source.joint.enc.out_features < 100 else 60
    )  # random weights give small logits
    source.joint.joint_net[len(source.joint.joint_net) - 1].weight.data *= factor
    last = len(source.joint.joint_net) - 1
    words = f"log(softmax) of logits {factor:.2g} times as large"
    return Placed((f"joint.joint_net.{last}", "joint/", "joint"), words, "float16", is_both=True)


@fault("nan_source", "joint", "full_joint")
def nan_source(source: SimpleNamespace, random: Random) -> Placed:
    path, layer = one_of([("joint.enc", source.joint.enc), ("joint.pred", source.joint.pred)], random)
    kind = one_of(["sqrt", "log", "0/0"], random)
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "sqrt": lambda v: v + (v - 1).sqrt() * 0,
        "log": lambda v: v + (v - 1).log() * 0,
        "0/0": lambda v: v + torch.relu(v) / torch.relu(v),
    }
    replaced(source, path, Then(layer, functions[kind]))
    return Placed((path, "joint/"), f"{path}: {kind}")


class WholeLength(Around):
    """An encoder that takes everything it is given for valid, whatever length it is told."""

    def forward(self, audio_signal: torch.Tensor, length: torch.Tensor) -> Any:
        return self.inner(audio_signal=audio_signal, length=length * 0 + audio_signal.shape[-1])


@fault("length_mask", "encoder")
def length_mask(source: SimpleNamespace, random: Random) -> Placed:
    masked = int(random.integers(20, 60))
    source.encoder = WholeLength(source.encoder)

    def shorter(feed: dict[str, Any]) -> dict[str, Any]:
        return {**feed, "mel_length": feed["mel_length"] - masked}

    stages = ("encoder/", "encoder.pre_encode/", "encoder.pre_encode.conv/", "/")
    return Placed(stages, f"the last {masked} mel frames are not masked", feed=shorter)


class NarrowLength(Around):
    """A front-end that counts samples in 16 bits."""

    def forward(self, input_signal: torch.Tensor, length: torch.Tensor) -> Any:
        return self.inner(input_signal=input_signal, length=length.to(torch.int16).to(torch.int64))


@fault("integer_overflow", "preprocessor")
def integer_overflow(source: SimpleNamespace, random: Random) -> Placed:
    samples = int(random.integers(33_000, 60_000))
    source.preprocessor = NarrowLength(source.preprocessor)

    def longer(feed: dict[str, Any]) -> dict[str, Any]:
        audio = np.resize(feed["audio_signal"], (1, samples)).astype(np.float32)
        return {"audio_signal": audio, "audio_length": np.array([samples], np.int32)}

    return Placed(("preprocessor.featurizer", "/"), f"{samples} samples counted in 16 bits", feed=longer)


@fault("precision_only", "preprocessor")
def precision_only(source: SimpleNamespace, random: Random) -> Placed:
    return Placed(("preprocessor",), "float16", "float16")


@fault("weight_changed", "decoder")
def lstm_changed(source: SimpleNamespace, random: Random) -> Placed:
    lstm = source.decoder.prediction["dec_rnn"].lstm
    name = one_of(["weight_ih_l0", "weight_hh_l0"], random)
    weight = getattr(lstm, name).data
    rows, strength = some_rows(len(weight), random), float(10 ** random.uniform(-1.5, 0))
    weight[rows] += (
        strength * torch.from_numpy(random.standard_normal(weight[rows].shape).astype(np.float32)) * weight.std()
    )
    return Placed(("decoder/", "decoder.prediction.dec_rnn"), f"{name}: {len(rows)} rows off by {strength:.2g}")


@fault("weight_missing", "decoder")
def lstm_missing(source: SimpleNamespace, random: Random) -> Placed:
    weight = source.decoder.prediction["dec_rnn"].lstm.weight_hh_l0.data
    weight.zero_()
    return Placed(("decoder/", "decoder.prediction.dec_rnn"), "weight_hh_l0 zero")


def causes() -> Iterator[str]:
    """All causes that have a fault."""
    yield from REGISTRY
