"""Modules that torch.jit can trace, around the components of a NeMo transducer.

Each takes its inputs by position and returns a tuple of tensors, in the order of its recipe. The component's
own code runs: a wrapper only renames, casts lengths to int32, and collects taps with forward hooks that exist
during the one traced call. NeMo is not imported; anything with the same methods will do. Attributes have the
component's name, so that a constant of the package is called `joint_enc_weight` for `joint.enc.weight`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerdiff.convert.recipes import Cut


@dataclass(frozen=True)
class Tap:
    """A tensor inside a component that becomes an output of its own."""

    module: nn.Module
    side: Literal["input", "output"] = "output"


@contextmanager
def export_state(module: nn.Module, **attributes: Any) -> Iterator[None]:
    """Puts a module in eval mode, without in-place activations, and with `attributes` set; then puts all back.

    An in-place ReLU overwrites the tensor that a tap has returned: the two outputs would share one name.
    """
    changes: list[tuple[Any, str, Any]] = [(part, "training", False) for part in module.modules()]
    changes += [(part, "inplace", False) for part in module.modules() if getattr(part, "inplace", False) is True]
    changes += [(module, name, value) for name, value in attributes.items()]
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


@contextmanager
def collected(taps: Mapping[str, Tap]) -> Iterator[dict[str, Tensor]]:
    """The tapped tensors of the calls made in the body, by the names of `taps`."""
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, tap in taps.items():
            handle = _hook(tap, name, found)
            stack.callback(handle.remove)
        yield found


def _hook(tap: Tap, name: str, found: dict[str, Tensor]) -> torch.utils.hooks.RemovableHandle:
    def before(_: nn.Module, inputs: Any) -> None:
        found[name] = _first_tensor(inputs)

    def after(_: nn.Module, __: Any, output: Any) -> None:
        found[name] = _first_tensor(output)

    if tap.side == "input":
        return tap.module.register_forward_pre_hook(before)
    return tap.module.register_forward_hook(after)


def _first_tensor(value: Any) -> Tensor:
    tensor: Tensor = value[0] if isinstance(value, tuple | list) else value
    return tensor


class Preprocessor(nn.Module):
    """audio_signal float32[1, S], audio_length int32[1] → mel float32[1, F, T], mel_length int32[1].

    The short-time Fourier transform is traced as `FourierTransform`, not as torch.stft.
    """

    def __init__(self, source: Any, *, debug: bool) -> None:
        super().__init__()
        self.preprocessor = source.preprocessor
        self.transform = FourierTransform(source.preprocessor.featurizer)

    def forward(self, audio_signal: Tensor, audio_length: Tensor) -> tuple[Tensor, ...]:
        featurizer = self.preprocessor.featurizer
        vars(featurizer)["stft"] = self.transform.forward
        try:
            mel, length = self.preprocessor(input_signal=audio_signal, length=audio_length.to(torch.int64))
        finally:
            del vars(featurizer)["stft"]
        return mel, length.to(torch.int32)


class FourierTransform(nn.Module):
    """The windowed Fourier transform as a convolution with tables that are exact to float32.

    float32[1, S] → complex64[1, n_fft // 2 + 1, frames], as torch.stft with zero padding. coremltools 9.0 turns
    torch.stft into the same convolution, but computes the angles of its tables in float32: they are off by up to
    5e-5, and with them the log-mel features by 2e-3.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, featurizer: Any) -> None:
        super().__init__()
        size = int(featurizer.n_fft)
        window = torch.zeros(size, dtype=torch.float64)
        left = (size - int(featurizer.win_length)) // 2
        window[left : left + int(featurizer.win_length)] = featurizer.window.double()
        # k * t is reduced modulo the period before it becomes an angle, so no digit is lost
        turns = torch.outer(torch.arange(size // 2 + 1), torch.arange(size)).remainder(size).double() / size
        self.register_buffer("cosine", (torch.cos(2 * torch.pi * turns) * window).float()[:, None])
        self.register_buffer("sine", (-torch.sin(2 * torch.pi * turns) * window).float()[:, None])
        self.hop = int(featurizer.hop_length)
        self.padding = 0 if featurizer.exact_pad else size // 2

    def forward(self, signal: Tensor) -> Tensor:
        padded = nn.functional.pad(signal[:, None], (self.padding, self.padding))
        real = nn.functional.conv1d(padded, self.cosine, stride=self.hop)  # [1, n_fft // 2 + 1, frames]
        return torch.complex(real, nn.functional.conv1d(padded, self.sine, stride=self.hop))


class Encoder(nn.Module):
    """mel float32[1, F, T], mel_length int32[1] → encoder float32[1, D, T'], encoder_length int32[1].

    With `debug`, `pre_encode` and the outputs of all layers follow, float32[1, T', D].
    """

    def __init__(self, source: Any, *, debug: bool) -> None:
        super().__init__()
        self.encoder = source.encoder
        self._debug = debug

    def forward(self, mel: Tensor, mel_length: Tensor) -> tuple[Tensor, ...]:
        with collected(encoder_taps(self.encoder) if self._debug else {}) as found:
            encoded, length = self.encoder(audio_signal=mel, length=mel_length.to(torch.int64))
        return encoded, length.to(torch.int32), *found.values()


def encoder_taps(encoder: Any) -> dict[str, Tap]:
    """The taps of an encoder by their contract names, in the order in which they are computed."""
    layers = {f"layer_{index}": Tap(layer) for index, layer in enumerate(encoder.layers)}
    return {"pre_encode": Tap(encoder.pre_encode), **layers}


class Decoder(nn.Module):
    """targets int32[1, 1], target_length int32[1], h_in, c_in → decoder float32[1, P, 1], h_out, c_out.

    The states are float32[L, 1, H].
    One step: the start symbol is not prepended, because the caller feeds it (`_rnnt_export`).
    """

    def __init__(self, source: Any, *, debug: bool) -> None:
        super().__init__()
        self.decoder = source.decoder

    def forward(self, targets: Tensor, target_length: Tensor, h_in: Tensor, c_in: Tensor) -> tuple[Tensor, ...]:
        output, _, (h_out, c_out) = self.decoder(
            targets=targets.to(torch.int64), target_length=target_length.to(torch.int64), states=[h_in, c_in]
        )
        return output, h_out, c_out


class Joint(nn.Module):
    """encoder float32[B, D, T], decoder float32[B, P, U] → logits float32[B, T, U, V + 1 + extra].

    With `debug`, enc_proj float32[B, T, J], dec_proj float32[B, U, J], pre_activation and relu_hidden
    float32[B, T, U, J] come first, and the two slices of the logits follow if there are durations.
    """

    def __init__(self, source: Any, *, debug: bool) -> None:
        super().__init__()
        self.joint = source.joint
        self._debug = debug

    def forward(self, encoder: Tensor, decoder: Tensor) -> tuple[Tensor, ...]:
        if not self._debug:
            return (self.joint(encoder_outputs=encoder, decoder_outputs=decoder),)
        with collected(joint_taps(self.joint)) as found:
            logits = self.joint(encoder_outputs=encoder, decoder_outputs=decoder)
        slices = split_logits(self.joint, logits) if self.joint.num_extra_outputs else ()
        return *found.values(), logits, *slices


class JointCuts(nn.Module):
    """encoder float32[B, D, T], decoder float32[B, P, U] → the tensors of the joint that `cuts` names, in its order.

    Tensors behind the sum of both projections are float32[B, T, U, …], parts of the logits along the last axis.
    """

    def __init__(self, source: Any, cuts: Mapping[str, Cut]) -> None:
        super().__init__()
        self.joint = source.joint
        self._cuts = cuts

    def forward(self, encoder: Tensor, decoder: Tensor) -> tuple[Tensor, ...]:
        with collected({cut.tensor: joint_tap(self.joint, cut.tensor) for cut in self._cuts.values()}) as found:
            self.joint(encoder_outputs=encoder, decoder_outputs=decoder)
        return tuple(self._part(found[cut.tensor], cut) for cut in self._cuts.values())

    def _part(self, value: Tensor, cut: Cut) -> Tensor:
        if cut.part != "whole":
            value = split_logits(self.joint, value)[cut.part == "durations"]
        return log_softmax(value) if cut.log_softmax else value


def joint_tap(joint: nn.Module, tensor: str) -> Tap:
    """The tap of a tensor that is named as the reference names it.

    Raises:
        ValueError: it is no module of the joint, or another side of it than `input`.
    """
    path, _, side = tensor.partition(":")
    owner, _, inside = path.partition(".")
    if owner != "joint" or side not in ("", "input"):
        raise ValueError(f"'{tensor}' is no tensor of the joint that can be an output")
    try:
        module = joint.get_submodule(inside)
    except AttributeError as error:
        raise ValueError(f"the joint has no module '{inside}'") from error
    return Tap(module, "input" if side else "output")


def log_softmax(value: Tensor) -> Tensor:
    """float32[..., W] → float32[..., W]; log-probabilities along the last axis, written so that float16 keeps them.

    coremltools turns torch.log_softmax into log(softmax(x)), where float16 loses every probability below 2⁻²⁴.
    """
    shifted = value - value.amax(dim=-1, keepdim=True)
    return shifted - shifted.exp().sum(dim=-1, keepdim=True).log()


def joint_taps(joint: Any) -> dict[str, Tap]:
    """The taps of a joint by their contract names, in the order in which they are computed."""
    activation = joint.joint_net[0]
    return {
        "enc_proj": Tap(joint.enc),
        "dec_proj": Tap(joint.pred),
        "pre_activation": Tap(activation, "input"),
        "relu_hidden": Tap(activation),
    }


class Decision(nn.Module):
    """encoder float32[1, D, 1], decoder float32[1, P, 1] → token_id, token_prob, duration, each [1, 1, 1].

    token_id int32: the best of vocabulary and blank; token_prob float32: its softmax probability among them;
    duration int32: the index of the best duration.
    """

    def __init__(self, source: Any, *, debug: bool) -> None:
        super().__init__()
        self.joint = source.joint

    def forward(self, encoder: Tensor, decoder: Tensor) -> tuple[Tensor, ...]:
        logits = self.joint(encoder_outputs=encoder, decoder_outputs=decoder)
        tokens, durations = split_logits(self.joint, logits)
        token_id = tokens.argmax(dim=-1).to(torch.int32)
        token_prob = tokens.softmax(dim=-1).amax(dim=-1)
        return token_id, token_prob, durations.argmax(dim=-1).to(torch.int32)


def split_logits(joint: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Vocabulary with blank, and durations.

    Raises:
        ValueError: the joint has no duration outputs.
    """
    extra = int(joint.num_extra_outputs)
    if extra < 1:
        raise ValueError("the joint has no duration outputs (num_extra_outputs = 0): it is not a TDT model")
    return logits[..., :-extra], logits[..., -extra:]
