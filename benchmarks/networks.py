"""Full-size networks of Parakeet-TDT with random weights, the bundled encoder, and packages of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from layerdiff import quiet

FRAMES, STEPS = 188, 8
"""Encoder frames of 15 s of audio, and prediction steps of the joint's lattice."""
MEL_FRAMES = 1501
"""Mel frames of 15 s of audio."""


@dataclass(frozen=True)
class Network:
    """A network as torch runs it and as packages."""

    name: str
    eager: Callable[[], torch.Tensor]
    """Runs it in torch and returns its output."""
    feed: dict[str, Any]
    """The same input for a package."""
    output: str
    packages: dict[str, Path]
    """Compute precision → package."""


class Layer(torch.nn.Module):
    """A layer of FastConformer over frames [1, T, D] and relative positions [1, 2 T - 1, D]."""

    def __init__(self) -> None:
        super().__init__()
        with quiet.third_party():
            from nemo.collections.asr.parts.submodules.conformer_modules import ConformerLayer

        self.layer = ConformerLayer(
            d_model=1024, d_ff=4096, n_heads=8, conv_kernel_size=9, use_bias=False, dropout=0.0, dropout_att=0.0
        )

    def forward(self, frames: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.layer(x=frames, pos_emb=positions)


def layer(folder: Path) -> Network:
    """A FastConformer layer of Parakeet-TDT v3: d_model 1024, 8 heads, kernel 9."""
    torch.manual_seed(0)
    module = Layer().eval()
    inputs = {"frames": torch.randn(1, FRAMES, 1024), "positions": torch.randn(1, 2 * FRAMES - 1, 1024)}
    packages = {precision: traced(module, inputs, folder, precision) for precision in ("float32", "float16")}
    return Network(
        "FastConformer layer",
        lambda: module(*inputs.values()),
        {name: value.numpy() for name, value in inputs.items()},
        "output",
        packages,
    )


def traced(module: torch.nn.Module, inputs: dict[str, torch.Tensor], folder: Path, precision: str) -> Path:
    """A package of a module with fixed shapes."""
    path = folder / f"{type(module).__name__}_{precision}.mlpackage"
    with quiet.third_party(), torch.no_grad():
        import coremltools as ct
        import numpy as np

        graph = torch.jit.trace(module, tuple(inputs.values()), check_trace=False)
        model = ct.convert(
            graph,
            inputs=[ct.TensorType(name=name, shape=value.shape, dtype=np.float32) for name, value in inputs.items()],
            outputs=[ct.TensorType(name="output", dtype=np.float32)],
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=getattr(ct.precision, precision.upper()),
            skip_model_load=True,
        )
        model.save(str(path))
    return path


def joint(folder: Path) -> Network:
    """The joint of Parakeet-TDT v3: 1024 and 640 to 8198."""
    with quiet.third_party():
        from nemo.collections.asr.modules import RNNTJoint

    torch.manual_seed(0)
    module = RNNTJoint(
        jointnet={
            "joint_hidden": 640,
            "activation": "relu",
            "encoder_hidden": 1024,
            "pred_hidden": 640,
            "dropout": 0.0,
        },
        num_classes=8192,
        num_extra_outputs=5,
        log_softmax=False,
    ).eval()
    inputs = {"encoder": torch.randn(1, 1024, FRAMES), "decoder": torch.randn(1, 640, STEPS)}
    return Network(
        "joint",
        lambda: module.joint(inputs["encoder"].transpose(1, 2), inputs["decoder"].transpose(1, 2)),
        {name: value.numpy() for name, value in inputs.items()},
        "logits",
        converted(SimpleNamespace(joint=module), "joint", folder),
    )


def mini_encoder(folder: Path) -> Network:
    """The encoder of the bundled model: a few hundred small ops."""
    from layerdiff.sources.nemo import NemoSource

    with quiet.third_party():
        source = NemoSource.open("parakeet-tdt-mini").model
    return encoder("mini encoder", source.encoder, folder, features=128)


def full_encoder(folder: Path) -> Network:
    """The encoder of Parakeet-TDT v3 with random weights, as torch runs it and as packages."""
    return encoder("full encoder", full_encoder_module(), folder, features=128)


def full_encoder_module(layers: int = 24) -> torch.nn.Module:
    """The encoder of Parakeet-TDT v3, 24 layers of d_model 1024, with random weights that are the same every time."""
    with quiet.third_party():
        from nemo.collections.asr.modules import ConformerEncoder

    torch.manual_seed(0)
    module = ConformerEncoder(
        feat_in=128,
        n_layers=layers,
        d_model=1024,
        n_heads=8,
        subsampling="dw_striding",
        subsampling_factor=8,
        subsampling_conv_channels=256,
        conv_kernel_size=9,
        use_bias=False,
        xscaling=False,
    )
    return module.eval()


def encoder(name: str, module: torch.nn.Module, folder: Path, *, features: int) -> Network:
    """An encoder over 15 s of mel frames."""
    torch.manual_seed(0)
    mel, length = torch.randn(1, features, MEL_FRAMES), torch.tensor([MEL_FRAMES])
    return Network(
        name,
        lambda: module(audio_signal=mel, length=length)[0],
        {"mel": mel.numpy(), "mel_length": length.numpy()},
        "encoder",
        converted(SimpleNamespace(encoder=module), "encoder", folder),
    )


def converted(source: Any, component: str, folder: Path) -> dict[str, Path]:
    """Compute precision → the package that layerdiff makes of a component, without inner outputs."""
    from layerdiff.config import ConvertConfig
    from layerdiff.convert import build
    from layerdiff.store import Cache

    return {
        precision: build(source, component, ConvertConfig(precision=precision, debug=False), cache=Cache(folder))
        for precision in ("float32", "float16")
    }
