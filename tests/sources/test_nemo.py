from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from layerdiff.decode.greedy import lattice
from layerdiff.errors import ConfigError, FeedError
from layerdiff.records import Call, Captured
from layerdiff.sources.nemo import NemoSource, describe
from layerdiff.sources.torch_module import leaves_of, recording

if TYPE_CHECKING:
    from layerdiff.records import Array

JOINT_TENSORS = (
    "joint", "joint.enc", "joint.pred", "joint.joint_net.0:input", "joint.joint_net.0", "joint.joint_net.2",
)  # fmt: skip


def noise(samples: int, seed: int) -> Array:
    """Something between a tone and noise: the model emits tokens for it."""
    generator = np.random.default_rng(seed)
    tone = np.sin(np.cumsum(generator.uniform(0.02, 0.2, samples)))
    return (0.3 * tone + 0.05 * generator.standard_normal(samples)).astype(np.float32)


def preprocess(reference: NemoSource, samples: Array, tensors: Any = ()) -> Captured:
    feed = {"audio_signal": samples[None], "audio_length": np.array([len(samples)], np.int32)}
    return reference.run(Call("preprocessor", feed), tensors)


def steps_call(reference: NemoSource, tokens: Array, *, chained: bool = True) -> Call:
    h, c = reference.initial_state()
    count = len(tokens)
    feed = {
        "targets": np.asarray(tokens, np.int32)[:, None],
        "target_length": np.ones(count, np.int32),
        "h_in": np.repeat(h[None], count, axis=0),
        "c_in": np.repeat(c[None], count, axis=0),
    }
    return Call("decoder", feed, chained=chained)


@pytest.fixture(scope="module")
def frames(reference: NemoSource) -> Array:
    """float32[T, D]; the encoder's frames of two seconds."""
    mel = preprocess(reference, noise(32_000, seed=0)).outputs
    encoded = reference.run(Call("encoder", mel), ()).outputs
    return encoded["encoder"][0, :, : int(encoded["encoder_length"][0])].T.copy()


@pytest.fixture(scope="module")
def joint(reference: NemoSource, frames: Array) -> Captured:
    """All of the joint's tensors on a small lattice, with a token history that isn't all blank."""
    tokens = np.array([reference.blank, 3, 17, 41])
    decoded = reference.run(steps_call(reference, tokens), ()).outputs["decoder"]
    points = lattice(len(frames), tokens=tokens, frame_s=reference.frame_s)
    feed = {"encoder": frames[points.frames][:, :, None], "decoder": decoded[points.steps]}
    return reference.run(Call("joint", feed, points=points), JOINT_TENSORS)


# ------------------------------------------------------------------ description


def test_description(reference: NemoSource) -> None:
    description = dict(reference.description)
    assert json.loads(json.dumps(description)) == description
    expected = {
        "name": "parakeet-tdt-mini",
        "model": "EncDecRNNTBPEModel",
        "nemo": "3.0.0",
        "parameters": 591_078,
        "sample_rate_hz": 16_000,
        "frame_s": 0.08,
        "vocabulary_size": 96,
        "blank": 96,
        "durations": [0, 1, 2, 3, 4],
        "log_softmax": None,
        "max_symbols": 10,
    }
    assert {name: description[name] for name in expected} == expected
    assert "normalised" in description["joint_output"]
    assert len(description["sha256"]) == 64
    assert reference.durations == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(("log_softmax", "says"), [(True, "normalised"), (False, "raw"), (None, "on a CPU")])
def test_the_description_says_what_the_joint_puts_out(
    nemo_model: Any, monkeypatch: pytest.MonkeyPatch, log_softmax: bool | None, says: str
) -> None:
    monkeypatch.setattr(nemo_model.joint, "log_softmax", log_softmax)
    description = describe(nemo_model)
    assert description["log_softmax"] is log_softmax
    assert says in description["joint_output"]


def test_the_description_is_read_from_the_modules(nemo_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nemo_model.preprocessor.featurizer, "dither", 0.25)
    monkeypatch.setattr(nemo_model.joint.pred, "training", True)
    description = describe(nemo_model)
    assert (description["dither"], description["eval"]) == (0.25, False)


def test_tokenizer(reference: NemoSource, nemo_model: Any) -> None:
    tokens = [45, 50, 72, 64, 41, 32, 29]
    assert reference.tokenizer.text(tokens) == nemo_model.tokenizer.ids_to_text(tokens) == "call peter on three two"
    assert reference.tokenizer.piece(45) == "▁call"
    assert reference.tokenizer.piece(reference.blank) == "<blank>"
    assert reference.tokenizer.text([]) == ""


# ------------------------------------------------------------------ names


def test_tensor_names(reference: NemoSource) -> None:
    assert set(JOINT_TENSORS) <= set(reference.tensor_names("joint"))
    assert {"encoder", "encoder.layers.0", "encoder.layers.2.self_attn"} <= set(reference.tensor_names("encoder"))
    assert {"decoder", "decoder.prediction.dec_rnn:1.0"} <= set(reference.tensor_names("decoder"))
    assert "preprocessor" in reference.tensor_names("preprocessor")
    for component in ("preprocessor", "encoder", "decoder", "joint"):
        names = reference.tensor_names(component)  # type: ignore[arg-type]
        assert len(set(names)) == len(names)
        assert all(name == component or name.startswith(f"{component}.") for name in names)


def test_every_listed_joint_and_decoder_tensor_can_be_captured(reference: NemoSource, frames: Array) -> None:
    names = reference.tensor_names("decoder")
    captured = reference.run(steps_call(reference, np.array([96, 3])), names)
    assert set(captured.tensors) == set(names)
    names = reference.tensor_names("joint")
    feed = {"encoder": frames[:1, :, None], "decoder": captured.outputs["decoder"][:1]}
    assert set(reference.run(Call("joint", feed), names).tensors) == set(names)


def test_unknown_tensors_are_refused(reference: NemoSource) -> None:
    with pytest.raises(ConfigError, match=r"no tensor 'joint\.encc'"):
        preprocess(reference, noise(4000, seed=1), ["joint.encc"])


def test_a_tensor_of_another_component_is_absent(reference: NemoSource) -> None:
    assert preprocess(reference, noise(4000, seed=1), ["joint.enc", "preprocessor"]).tensors.keys() == {"preprocessor"}


def test_a_decoder_without_steps(reference: NemoSource) -> None:
    with pytest.raises(FeedError, match="without a single step"):
        reference.run(steps_call(reference, np.zeros(0, np.int32)), ())


def test_nothing_can_be_injected(reference: NemoSource) -> None:
    call = steps_call(reference, np.array([96]))
    with pytest.raises(ValueError, match=r"injected into a NeMo model, got joint\.enc"):
        reference.run(call, (), inject={"joint.enc": np.zeros(1, np.float32)})


# ------------------------------------------------------------------ values


def test_preprocessor_and_encoder_are_nemos(reference: NemoSource, nemo_model: Any) -> None:
    samples = noise(20_000, seed=2)
    with torch.no_grad():
        signal, length = torch.tensor(samples[None]), torch.tensor([len(samples)])
        mel, mel_length = nemo_model.preprocessor(input_signal=signal, length=length)
        expected, expected_length = nemo_model.encoder(audio_signal=mel, length=mel_length)
    first = preprocess(reference, samples, ["preprocessor"])
    second = reference.run(Call("encoder", first.outputs), ["encoder", "encoder.layers.2", "encoder:1"])
    assert {name: (v.dtype, v.shape) for name, v in first.outputs.items()} == {
        "mel": (np.float32, (1, 128, 126)),
        "mel_length": (np.int32, (1,)),
    }
    np.testing.assert_array_equal(first.outputs["mel"], mel.numpy())
    np.testing.assert_array_equal(first.tensors["preprocessor"], mel.numpy())
    np.testing.assert_array_equal(second.outputs["encoder"], expected.numpy())
    np.testing.assert_array_equal(second.tensors["encoder"], expected.numpy())
    np.testing.assert_array_equal(second.outputs["encoder_length"], expected_length.numpy())
    assert second.tensors["encoder:1"].dtype == np.float32
    np.testing.assert_array_equal(second.tensors["encoder.layers.2"][0].T, expected.numpy()[0])


def test_the_decoder_steps_as_nemo_does(reference: NemoSource, nemo_model: Any) -> None:
    tokens = [reference.blank, 5, 41, 7, 7]
    names = ["decoder", "decoder.prediction.embed", "decoder.prediction.dec_rnn:1.0", "decoder.prediction.dec_rnn:1.1"]
    captured = reference.run(steps_call(reference, np.array(tokens)), [*names, "decoder:2.1"])
    state = None
    for u, token in enumerate(tokens):
        label = None if u == 0 else torch.tensor([[token]])
        with torch.no_grad():
            out, state = nemo_model.decoder.predict(label, state, add_sos=False, batch_size=1)
        np.testing.assert_array_equal(captured.outputs["decoder"][u, :, 0], out[0, 0].numpy())
        np.testing.assert_array_equal(captured.outputs["h_out"][u], state[0].numpy())
        np.testing.assert_array_equal(captured.outputs["c_out"][u], state[1].numpy())
    assert captured.outputs["decoder"].shape == (5, 64, 1)
    assert captured.outputs["h_out"].shape == (5, 2, 1, 64)
    np.testing.assert_array_equal(captured.tensors["decoder"], captured.outputs["decoder"])
    np.testing.assert_array_equal(captured.tensors["decoder.prediction.dec_rnn:1.0"], captured.outputs["h_out"])
    np.testing.assert_array_equal(captured.tensors["decoder.prediction.dec_rnn:1.1"], captured.outputs["c_out"])
    np.testing.assert_array_equal(captured.tensors["decoder:2.1"], captured.outputs["c_out"])
    assert captured.tensors["decoder.prediction.embed"].shape == (5, 1, 64)
    assert not captured.tensors["decoder.prediction.embed"][0].any()  # blank's embedding


def test_the_decoder_agrees_with_one_pass_over_all_tokens(reference: NemoSource, nemo_model: Any) -> None:
    tokens = [5, 41, 7, 7, 96, 12]
    stepped = reference.run(steps_call(reference, np.array([96, *tokens])), ()).outputs["decoder"]
    with torch.no_grad():  # NeMo puts the start symbol before the targets itself
        whole, _, _ = nemo_model.decoder(targets=torch.tensor([tokens]), target_length=torch.tensor([len(tokens)]))
    np.testing.assert_allclose(stepped[:, :, 0].T, whole[0].numpy(), rtol=1e-5, atol=1e-6)


def test_given_states_are_used_unless_the_call_is_chained(reference: NemoSource) -> None:
    tokens = np.array([96, 5, 41])
    chained = reference.run(steps_call(reference, tokens), ())
    call = steps_call(reference, tokens, chained=False)
    fresh = reference.run(call, ()).outputs
    assert np.abs(fresh["decoder"][1] - chained.outputs["decoder"][1]).max() > 1e-3
    states = {
        name: np.concatenate([call.feed[name][:1], chained.outputs[out][:-1]])
        for name, out in (("h_in", "h_out"), ("c_in", "c_out"))
    }
    forced = reference.run(replace(call, feed={**call.feed, **states}), ()).outputs
    for name, value in chained.outputs.items():
        np.testing.assert_array_equal(forced[name], value, err_msg=name)


def test_the_decoder_is_left_as_it_was(reference: NemoSource, nemo_model: Any) -> None:
    with pytest.raises(IndexError):
        reference.run(steps_call(reference, np.array([5000])), ["decoder"])
    assert nemo_model.decoder._rnnt_export is False
    assert not any(module._forward_hooks for module in nemo_model.modules())


def test_the_joints_tensors(joint: Captured, reference: NemoSource, nemo_model: Any, frames: Array) -> None:
    count = len(frames) * 4
    shapes = {name: value.shape for name, value in joint.tensors.items()}
    assert shapes == {
        "joint": (count, 1, 1, 102),
        "joint.enc": (count, 1, 64),
        "joint.pred": (count, 1, 64),
        "joint.joint_net.0:input": (count, 1, 1, 64),
        "joint.joint_net.0": (count, 1, 1, 64),
        "joint.joint_net.2": (count, 1, 1, 102),
    }
    tensors = {name: value.astype(np.float64) for name, value in joint.tensors.items()}
    before = tensors["joint.enc"][:, :, None] + tensors["joint.pred"][:, None]
    np.testing.assert_allclose(tensors["joint.joint_net.0:input"], before, atol=1e-5)
    assert before.min() < 0 <= tensors["joint.joint_net.0"].min()
    np.testing.assert_array_equal(tensors["joint.joint_net.0"], np.maximum(tensors["joint.joint_net.0:input"], 0))
    layer = nemo_model.joint.joint_net[-1]
    raw = tensors["joint.joint_net.0"] @ layer.weight.double().numpy().T + layer.bias.double().numpy()
    np.testing.assert_allclose(tensors["joint.joint_net.2"], raw, atol=1e-4)


def test_the_joints_own_output_is_normalised_on_a_cpu(joint: Captured) -> None:
    raw, own = (joint.tensors[name].astype(np.float64)[:, 0, 0] for name in ("joint.joint_net.2", "joint"))
    logsumexp = np.log(np.exp(raw - raw.max(-1, keepdims=True)).sum(-1, keepdims=True)) + raw.max(-1, keepdims=True)
    np.testing.assert_allclose(own, raw - logsumexp, atol=1e-4)
    np.testing.assert_array_equal(joint.outputs["logits"], joint.tensors["joint"])
    assert own[:, -5:].max() < 0 < raw[:, -5:].max()


def test_the_joint_agrees_with_nemos_grid(
    joint: Captured, reference: NemoSource, nemo_model: Any, frames: Array
) -> None:
    decoded = reference.run(steps_call(reference, np.array([96, 3, 17, 41])), ()).outputs["decoder"]
    with torch.no_grad():
        grid = nemo_model.joint(
            encoder_outputs=torch.tensor(frames.T[None]), decoder_outputs=torch.tensor(decoded[:, :, 0].T[None])
        )
    np.testing.assert_allclose(joint.outputs["logits"][:, 0, 0], grid[0].reshape(-1, 102).numpy(), atol=1e-5)


def test_joint_step_is_raw_and_leaves_log_softmax_alone(
    joint: Captured, reference: NemoSource, nemo_model: Any, frames: Array
) -> None:
    prediction, _ = reference.predict_step(reference.blank, None)
    row = reference.joint_step(frames[2], prediction)
    assert nemo_model.joint.log_softmax is None
    np.testing.assert_allclose(row, joint.tensors["joint.joint_net.2"][2 * 4, 0, 0], atol=1e-5)


# ------------------------------------------------------------------ neutrality


def test_hooks_on_every_module_do_not_change_a_bit(reference: NemoSource, nemo_model: Any) -> None:
    samples = noise(24_000, seed=3)

    def everything() -> list[bytes]:
        signal, length = torch.tensor(samples[None]), torch.tensor([len(samples)])
        with torch.no_grad():
            mel, mel_length = nemo_model.preprocessor(input_signal=signal, length=length)
            encoded, lengths = nemo_model.encoder(audio_signal=mel, length=mel_length)
            decoded = nemo_model.decoder(targets=torch.tensor([[3, 5]]), target_length=torch.tensor([2]))
            logits = nemo_model.joint(encoder_outputs=encoded, decoder_outputs=decoded[0])
            best = nemo_model.decoding.rnnt_decoder_predictions_tensor(encoded, lengths)[0]
        values = [leaf.numpy().tobytes() for _, leaf in leaves_of((mel, encoded, decoded, logits))]
        return [*values, torch.as_tensor(best.y_sequence).numpy().tobytes()]

    plain = everything()
    components = ("preprocessor", "encoder", "decoder", "joint")
    names = [name for component in components for name in reference.tensor_names(component)]
    with recording(nemo_model, [*names, *(f"{name}:input" for name in names if ":" not in name)]) as record:
        hooked = everything()
    assert len(record.arrays()) > 200
    assert plain == hooked == everything()
    assert len(plain) > 4


# ------------------------------------------------------------------ full size


@pytest.fixture(scope="module")
def full_size() -> NemoSource:
    """Parakeet v3's joint with random weights: 1024 and 640 into 640, 8192 pieces, blank, 5 durations."""
    from nemo.collections.asr.modules import RNNTJoint

    torch.manual_seed(0)
    net = {"encoder_hidden": 1024, "pred_hidden": 640, "joint_hidden": 640, "activation": "relu", "dropout": 0.2}
    return NemoSource.from_joint(RNNTJoint(jointnet=net, num_classes=8192, num_extra_outputs=5), name="v3")


def test_a_full_size_joint(full_size: NemoSource) -> None:
    generator = np.random.default_rng(0)
    feed = {
        "encoder": generator.standard_normal((40, 1024, 1), np.float32),
        "decoder": generator.standard_normal((40, 640, 1), np.float32),
    }
    captured = full_size.run(Call("joint", feed), (*JOINT_TENSORS, "joint.joint_net.1"))
    raw = captured.tensors["joint.joint_net.2"]
    assert raw.shape == (40, 1, 1, 8198)
    joint = full_size.joint
    with torch.no_grad():
        weights = {name: value.double().numpy() for name, value in joint.named_parameters()}
    enc = feed["encoder"][:, :, 0].astype(np.float64) @ weights["enc.weight"].T + weights["enc.bias"]
    pred = feed["decoder"][:, :, 0].astype(np.float64) @ weights["pred.weight"].T + weights["pred.bias"]
    expected = np.maximum(enc + pred, 0) @ weights["joint_net.2.weight"].T + weights["joint_net.2.bias"]
    np.testing.assert_allclose(raw[:, 0, 0], expected, atol=1e-4)
    assert full_size.description["vocabulary_size"] == 8192
    assert full_size.description["name"] == "v3"


@pytest.mark.parametrize("samples", [1, 160, 1279, 1280])
def test_very_short_audio(reference: NemoSource, samples: int) -> None:
    mel = preprocess(reference, noise(samples, seed=4)).outputs
    encoded = reference.run(Call("encoder", mel), ()).outputs
    assert encoded["encoder"].shape[2] >= encoded["encoder_length"][0] >= 0
    assert np.isfinite(encoded["encoder"]).all()
