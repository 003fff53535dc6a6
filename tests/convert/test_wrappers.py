"""The wrappers compute what the component computes, and leave it as it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from layerdiff import convert
from layerdiff.config import ConvertConfig
from layerdiff.convert import wrappers
from layerdiff.convert.recipes import Cut
from layerdiff.records import Call
from layerdiff.sources.nemo import NemoSource
from layerdiff.store import Cache


@pytest.fixture
def points() -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder float32[2, D, 3] and prediction float32[2, P, 4] of the bundled model."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 96, 3, generator=generator), torch.randn(2, 64, 4, generator=generator)


def linear(layer: nn.Module, value: torch.Tensor) -> torch.Tensor:
    """A linear layer in float64, by the formula."""
    weights = {name: parameter.detach().double() for name, parameter in layer.named_parameters()}
    return value.double() @ weights["weight"].T + weights["bias"]


def raw_logits(joint: Any, encoder: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
    """The joint in float64, by the formula."""
    f, g = linear(joint.enc, encoder.transpose(1, 2)), linear(joint.pred, decoder.transpose(1, 2))
    return linear(joint.joint_net[-1], (f[:, :, None] + g[:, None]).clamp(min=0))


def joint_outputs(reference: Any, points: Any, *, log_softmax: bool | None) -> dict[str, torch.Tensor]:
    names = (*wrappers.joint_taps(reference.joint), "logits", "vocab_logits", "duration_logits")
    wrapper = wrappers.Joint(reference, debug=True)
    with torch.no_grad(), wrappers.export_state(reference.joint, log_softmax=log_softmax):
        return dict(zip(names, wrapper(*points), strict=True))


def test_the_debug_joint_computes_the_formula(reference: Any, points: Any) -> None:
    found = joint_outputs(reference, points, log_softmax=False)
    encoder, decoder = points
    f = linear(reference.joint.enc, encoder.transpose(1, 2))
    g = linear(reference.joint.pred, decoder.transpose(1, 2))
    expected = {
        "enc_proj": f,
        "dec_proj": g,
        "pre_activation": f[:, :, None] + g[:, None],
        "relu_hidden": (f[:, :, None] + g[:, None]).clamp(min=0),
        "logits": raw_logits(reference.joint, *points),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-4)
    assert found["pre_activation"].min() < 0  # an in-place ReLU would have cleared them
    assert torch.equal(torch.cat([found["vocab_logits"], found["duration_logits"]], dim=-1), found["logits"])
    assert found["duration_logits"].shape == (2, 3, 4, 5)


def test_cpu_traced_is_normalised_over_everything(reference: Any, points: Any) -> None:
    found = joint_outputs(reference, points, log_softmax=None)["logits"]
    expected = raw_logits(reference.joint, *points)
    expected -= torch.log(torch.exp(expected).sum(dim=-1, keepdim=True))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


def test_the_decision_is_the_best_token_its_probability_and_the_best_duration(reference: Any, points: Any) -> None:
    wrapper = wrappers.Decision(reference, debug=False)
    with torch.no_grad(), wrappers.export_state(reference.joint, log_softmax=False):
        token, probability, duration = wrapper(*points)
    logits = raw_logits(reference.joint, *points)
    assert torch.equal(token, logits[..., :97].argmax(dim=-1).int())
    assert torch.equal(duration, logits[..., 97:].argmax(dim=-1).int())
    best = logits[..., :97].max(dim=-1).values.exp() / logits[..., :97].exp().sum(dim=-1)
    torch.testing.assert_close(probability.double(), best, rtol=1e-4, atol=1e-6)


def test_a_decoder_step_has_no_start_symbol(reference: Any) -> None:
    states = [torch.full((2, 1, 64), 0.25), torch.full((2, 1, 64), -0.5)]
    targets = torch.tensor([[7]], dtype=torch.int32)
    wrapper = wrappers.Decoder(reference, debug=False)
    with torch.no_grad(), wrappers.export_state(reference.decoder, _rnnt_export=True):
        output, h, c = wrapper(targets, torch.tensor([1], dtype=torch.int32), *states)
    embedded = reference.decoder.prediction["embed"].weight[7].view(1, 1, -1)
    with torch.no_grad():
        expected, (h_out, c_out) = reference.decoder.prediction["dec_rnn"].lstm(embedded, tuple(states))
    torch.testing.assert_close(output, expected.transpose(1, 2))
    torch.testing.assert_close((h, c), (h_out, c_out))


def test_encoder_taps_are_the_outputs_of_the_layers(reference: Any) -> None:
    mel = torch.randn(1, 128, 64, generator=torch.Generator().manual_seed(1))
    seen: list[torch.Tensor] = []
    handles = [layer.register_forward_hook(lambda *call: seen.append(call[2])) for layer in reference.encoder.layers]
    with torch.no_grad(), wrappers.export_state(reference.encoder):
        encoder, length, pre_encode, *layers = wrappers.Encoder(reference, debug=True)(mel, torch.tensor([64]))
    for handle in handles:
        handle.remove()
    assert (length.tolist(), length.dtype) == ([8], torch.int32)
    assert pre_encode.shape == (1, 8, 96)
    assert len(layers) == len(seen) == 3
    assert all(torch.equal(*pair) for pair in zip(layers, seen, strict=True))
    assert torch.equal(encoder, layers[-1].transpose(1, 2))


def test_export_state_is_put_back_after_an_error() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(2, 2)).train()
    model[2].eval()
    model.log_softmax = None
    seen: list[Any] = []

    def fail(part: nn.Module, _: Any) -> None:
        seen.extend([model.training, part.inplace, model[1].training, model.log_softmax])
        raise ValueError("inside")

    model[0].register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="inside"), wrappers.export_state(model, log_softmax=False):
        model(torch.zeros(1, 2))
    assert seen == [False] * 4
    assert (model.training, model[0].inplace, model[1].training, model.log_softmax) == (True, True, True, None)
    assert model[2].training is False


def test_hooks_are_removed_after_an_error() -> None:
    module = nn.Linear(2, 2)
    taps = {"in": wrappers.Tap(module, "input"), "out": wrappers.Tap(module)}
    with pytest.raises(RuntimeError), wrappers.collected(taps):
        module(torch.zeros(3))
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def test_a_joint_without_durations_is_refused() -> None:
    with pytest.raises(ValueError, match="no duration outputs"):
        wrappers.split_logits(SimpleNamespace(num_extra_outputs=0), torch.zeros(1, 1, 1, 8))


def test_the_fourier_tables_are_exact_and_coremltools_own_are_not(reference: NemoSource) -> None:
    """Why `FourierTransform` exists: the tables that coremltools makes of torch.stft are off by 5e-5."""
    import coremltools as ct

    from layerdiff import quiet

    featurizer = reference.preprocessor.featurizer
    size, left = featurizer.n_fft, (featurizer.n_fft - featurizer.win_length) // 2
    window = np.zeros(size)
    window[left : left + featurizer.win_length] = featurizer.window.double().numpy()
    angle = 2 * np.pi * (np.outer(np.arange(size // 2 + 1), np.arange(size)) % size) / size
    exact = np.cos(angle) * window

    class Transform(torch.nn.Module):
        def forward(self, signal: torch.Tensor) -> torch.Tensor:
            return torch.view_as_real(featurizer.stft(signal))

    with quiet.third_party():
        traced = torch.jit.trace(Transform().eval(), torch.zeros(1, 16000), strict=False, check_trace=False)
        shape = [ct.TensorType(name="signal", shape=(1, 16000))]
        program = ct.convert(traced, inputs=shape, convert_to="milinternal", compute_precision=ct.precision.FLOAT32)
    (weight, _) = (op.weight.val for op in program.functions["main"].find_ops(op_type="conv"))
    ours = wrappers.FourierTransform(featurizer).cosine.numpy()[:, 0]
    assert np.abs(ours - exact).max() < 1e-7
    assert 1e-5 < np.abs(weight[:, 0] - exact).max() < 1e-4


def test_the_default_float16_conversion_of_the_encoder_is_wrong_at_some_lengths(
    reference: NemoSource, tmp_path: Path
) -> None:
    """Why the recipes keep float32 for tensors of rank 0 and 1: float16 can't hold offsets beyond 2048."""
    import coremltools as ct

    from layerdiff import mil, quiet

    frames, length = ct.RangeDim(10, 3000, default=200), torch.tensor([200], dtype=torch.int32)
    with quiet.third_party(), torch.no_grad(), wrappers.export_state(reference.encoder):
        wrapper = wrappers.Encoder(reference, debug=False)
        traced = torch.jit.trace(wrapper, (torch.randn(1, 128, 200), length), strict=False, check_trace=False)
        ct.convert(
            traced,
            inputs=[ct.TensorType("mel", (1, 128, frames)), ct.TensorType("mel_length", (1,), dtype=np.int32)],
            outputs=[ct.TensorType("encoder"), ct.TensorType("encoder_length")],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT16,
            skip_model_load=True,
        ).save(str(tmp_path / "encoder.mlpackage"))
    mel = np.random.default_rng(0).normal(size=(1, 128, 203)).astype(np.float32)
    feed = {"mel": mel, "mel_length": np.array([203], np.int32)}
    expected = reference.run(Call("encoder", feed), ()).outputs["encoder"]

    def error(path: Path) -> float:
        difference = mil.load(path).predict(feed)["encoder"] - expected
        return float(np.linalg.norm(difference) / np.linalg.norm(expected))

    ours = convert.build(reference, "encoder", ConvertConfig(precision="float16", debug=False), cache=Cache(tmp_path))
    assert error(tmp_path / "encoder.mlpackage") > 0.02
    assert error(ours) < 0.005


def test_cuts_of_a_joint_are_its_tensors(reference: NemoSource) -> None:
    joint = reference.joint
    cuts = {
        "enc": Cut("joint.enc"),
        "summed": Cut("joint.joint_net.0:input"),
        "vocabulary": Cut("joint.joint_net.2", "vocabulary"),
        "durations": Cut("joint.joint_net.2", "durations", log_softmax=True),
    }
    encoder, decoder = torch.randn(2, 96, 3), torch.randn(2, 64, 4)
    with torch.no_grad(), wrappers.export_state(joint, log_softmax=False):
        enc, summed, vocabulary, durations = wrappers.JointCuts(reference, cuts)(encoder, decoder)
        logits = joint(encoder_outputs=encoder, decoder_outputs=decoder)
        projected = joint.enc(encoder.mT), joint.pred(decoder.mT)
    torch.testing.assert_close(enc, projected[0])
    torch.testing.assert_close(summed, projected[0][:, :, None] + projected[1][:, None])
    torch.testing.assert_close(vocabulary, logits[..., :-5])
    torch.testing.assert_close(durations, torch.log_softmax(logits[..., -5:], dim=-1))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("encoder.layers.0", "is no tensor of the joint"),
        ("joint.enc:1", "is no tensor of the joint"),
        ("joint.nothing", "has no module 'nothing'"),
    ],
)
def test_what_is_no_tensor_of_the_joint_is_refused(reference: NemoSource, tensor: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrappers.joint_tap(reference.joint, tensor)
