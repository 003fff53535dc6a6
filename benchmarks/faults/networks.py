"""The networks that faults are put into, with real inputs: the bundled model's components and a joint of full size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from layerdiff import audio
from layerdiff.convert import wrappers
from layerdiff.progress import SILENT
from layerdiff.sources.nemo import NemoSource

ROOT = Path(__file__).resolve().parents[2]
CLIP = ROOT / "audio" / "call_peter_on_three_two.wav"

Feed = Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """A component of a model that a fault can be put into."""

    name: str
    component: str
    feeds: tuple[Feed, ...]
    """What it is compared on; real tensors of a clip."""
    make: Callable[[], SimpleNamespace]
    """A copy of the modules that its conversion needs, in eval mode."""

    def reference(self) -> torch.nn.Module:
        """The module that counts as right, taking the package's inputs."""
        return wrapped(self.component, self.make())


def wrapped(component: str, source: SimpleNamespace) -> torch.nn.Module:
    """A component as its conversion calls it."""
    wrapper: torch.nn.Module = getattr(wrappers, component.capitalize())(source, debug=False)
    return wrapper.eval()


@cache
def source() -> NemoSource:
    """The bundled model."""
    return NemoSource.open("parakeet-tdt-mini", progress=SILENT)


def _copied(component: str, **attributes: Any) -> SimpleNamespace:
    """The component alone, with what its conversion sets; the others are as they are."""
    found = source()
    parts = {name: getattr(found, name) for name in ("preprocessor", "encoder", "decoder", "joint")}
    parts[component] = copy.deepcopy(parts[component])
    for name, value in attributes.items():
        setattr(parts[component], name, value)
    for module in parts[component].modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False
    return SimpleNamespace(**parts, component=component)


@cache
def _clip() -> dict[str, torch.Tensor]:
    """What the components of the bundled model give on a clip."""
    model = source()
    clip = audio.load(CLIP, sample_rate_hz=model.sample_rate_hz)
    samples = torch.from_numpy(np.asarray(clip.samples, np.float32))[None]
    with torch.no_grad():
        mel, mel_length = model.preprocessor(input_signal=samples, length=torch.tensor([samples.shape[1]]))
        encoder, _ = model.encoder(audio_signal=mel, length=mel_length)
        targets = torch.tensor([[model.blank, *range(3, 90, 8)]])
        decoder, *_ = model.decoder(targets=targets, target_length=torch.tensor([targets.shape[1]]))
    return {"samples": samples, "mel": mel, "mel_length": mel_length, "encoder": encoder, "decoder": decoder}


def joint() -> Network:
    """The bundled joint over the lattice of a clip."""
    found = _clip()
    feed = {"encoder": found["encoder"].numpy(), "decoder": found["decoder"][..., :12].numpy()}
    return Network("joint, mini", "joint", (feed,), lambda: _copied("joint", _fuse_loss_wer=False, log_softmax=False))


@cache
def _full_joint() -> torch.nn.Module:
    from nemo.collections.asr.modules import RNNTJoint

    torch.manual_seed(0)
    made: torch.nn.Module = RNNTJoint(
        jointnet={
            "encoder_hidden": 1024,
            "pred_hidden": 640,
            "joint_hidden": 640,
            "activation": "relu",
            "dropout": 0.0,
        },
        num_classes=8192,
        num_extra_outputs=5,
        vocabulary=[str(index) for index in range(8192)],
    ).eval()
    return made


def full_joint() -> Network:
    """The joint of Parakeet-TDT v3, with random weights, on noise of the encoder's size."""
    generator = np.random.default_rng(0)
    feed = {
        "encoder": generator.standard_normal((1, 1024, 24)).astype(np.float32),
        "decoder": generator.standard_normal((1, 640, 4)).astype(np.float32),
    }

    def make() -> SimpleNamespace:
        joint = copy.deepcopy(_full_joint())
        joint.log_softmax, joint._fuse_loss_wer = False, False
        for module in joint.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False
        return SimpleNamespace(joint=joint, component="joint")

    return Network("joint, full size", "joint", (feed,), make)


def encoder() -> Network:
    """The bundled encoder of three FastConformer layers on a clip."""
    found = _clip()
    feed = {"mel": found["mel"].numpy(), "mel_length": found["mel_length"].to(torch.int32).numpy()}
    return Network("encoder, mini", "encoder", (feed,), lambda: _copied("encoder"))


def decoder() -> Network:
    """The bundled prediction network, one step from the states of several others."""
    generator = np.random.default_rng(1)
    lstm = source().decoder.prediction["dec_rnn"].lstm
    shape = (lstm.num_layers, 1, lstm.hidden_size)
    feeds = tuple(
        {
            "targets": np.array([[token]], np.int32),
            "target_length": np.array([1], np.int32),
            "h_in": np.tanh(generator.standard_normal(shape)).astype(np.float32),
            "c_in": generator.standard_normal(shape).astype(np.float32),
        }
        for token in (5, 40)
    )
    return Network("decoder, mini", "decoder", feeds, lambda: _copied("decoder", _rnnt_export=True))


def preprocessor() -> Network:
    """The bundled mel front-end on a clip."""
    samples = _clip()["samples"].numpy()
    feed = {"audio_signal": samples, "audio_length": np.array([samples.shape[1]], np.int32)}
    # not a copy: the converter exchanges its Fourier transform while it traces, and no fault changes its modules
    parts = {"preprocessor": source().preprocessor, "component": "preprocessor"}
    return Network("preprocessor", "preprocessor", (feed,), lambda: SimpleNamespace(**parts))
