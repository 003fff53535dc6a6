"""Real NeMo models of every class, with random weights, saved by NeMo and opened again, against NeMo's own forward."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml

from layerdiff import quiet
from layerdiff.capture import walk_reference
from layerdiff.errors import CheckpointError, ConfigError, FeedError
from layerdiff.records import Clip
from layerdiff.run.inputs import find_points
from layerdiff.sources import nemo_forward
from layerdiff.sources.nemo import NemoSource
from layerdiff.sources.nemo_asr import NemoComponent, component_of, component_paths, open_component
from layerdiff.sources.nemo_restore import SPEECH_MODEL, restore, restore_kind
from layerdiff.sources.torch_module import leaves_of
from tests.sources.nemo_zoo import ASR, MODELS, RATE, Zoo

if TYPE_CHECKING:
    from layerdiff.records import Array


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clip() -> Clip:
    """0.31 s; 32 mel frames, which masked prediction can divide by 4."""
    generator = np.random.default_rng(0)
    count = 31 * 160
    tone = np.sin(np.cumsum(generator.uniform(0.02, 0.2, count)))
    samples = (0.3 * tone + 0.05 * generator.standard_normal(count)).astype(np.float32)
    return Clip("tone.wav", "tone.wav", samples, RATE)


def walk(source: NemoSource, clip: Clip, until: Any) -> Iterator[Any]:
    return walk_reference(source, clip, tensors={}, until=until, find_points=partial(find_points, source, "path"))


def forward(model: Any, clip: Clip, **more: Any) -> Any:
    """NeMo's own forward."""
    signal, length = torch.from_numpy(clip.samples[None]), torch.tensor([len(clip.samples)])
    with torch.no_grad():
        return model(input_signal=signal, input_signal_length=length, **more)


@contextmanager
def spying(model: Any, path: str) -> Iterator[list[tuple[tuple[Any, ...], dict[str, Any], Any]]]:
    """(args, kwargs, output) of every call of a module, by one plain hook."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []
    hook = model.get_submodule(path).register_forward_hook(
        lambda _, args, kwargs, output: calls.append((args, kwargs, output)), with_kwargs=True
    )
    yield calls
    hook.remove()


def only(component: NemoComponent, clip: Clip) -> Mapping[str, Array]:
    """The one feed of a module that is called once."""
    ((name, feed),) = component.feeds(clip)
    assert name == clip.name
    return feed


def answers(component: NemoComponent, feed: Mapping[str, Array], *wanted: str) -> dict[str, Array]:
    """The wanted tensors of a run, or the component's own output."""
    found: dict[str, Array] = {}
    component.stream(feed, lambda name, value: found.update({name: value.copy()}), wanted or (component.path,))
    return found


# ------------------------------------------------------------------ restoring


@pytest.mark.parametrize("name", MODELS)
def test_every_class_is_restored_bit_by_bit(zoo: Zoo, name: str) -> None:
    ours, theirs = zoo.ours(name), zoo.nemos(name).state_dict()
    assert type(ours).__name__ == MODELS[name][0]
    assert list(ours.state_dict()) == list(theirs)
    assert all(torch.equal(value, theirs[key].to(value.dtype)) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_every_class_is_put_in_the_references_state(zoo: Zoo, name: str) -> None:
    model = zoo.ours(name)
    description = component_of(model, "encoder", name=name).description
    expected = {"name": name, "model": MODELS[name][0], "eval": True, "dither": 0.0, "pad_to": 0, "spec_augment": False}
    expected |= {"dtype": "float32", "tf32": False, "component": "encoder", "sample_rate_hz": RATE}
    assert {key: description[key] for key in expected} == expected
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert getattr(getattr(model, "joint", None), "fuse_loss_wer", False) is False


@pytest.mark.parametrize(
    ("name", "size", "more"),
    [
        ("ctc_letters", 12, {"blank": 12, "ctc_temperature": 1.0}),
        ("ctc_bpe", 96, {"blank": 96}),
        ("rnnt_letters", 12, {"blank": 12, "durations": [], "max_symbols": 2}),
        ("hybrid_bpe", 96, {"blank": 96, "ctc_temperature": 1.0}),
        ("multitask", 107, {"padded_vocabulary_size": 112, "bos": 4, "eos": 3, "prompt_format": "canary"}),
    ],
)
def test_the_description_tells_the_vocabulary(zoo: Zoo, name: str, size: int, more: dict[str, Any]) -> None:
    description = component_of(zoo.ours(name), "encoder").description
    assert description["vocabulary_size"] == size
    assert {key: description[key] for key in more} == more


def test_a_checkpoint_is_opened_by_its_path(zoo: Zoo) -> None:
    component = open_component(zoo.path("ctc_letters"), "decoder")
    assert component.description["name"] == str(zoo.path("ctc_letters"))
    assert len(component.description["sha256"]) == 64
    assert component.description["module"] == "ConvASRDecoder"


def test_greedy_decoding_replaces_what_the_checkpoint_was_decoded_with(zoo: Zoo) -> None:
    model = zoo.ours("multitask")
    assert model.cfg.decoding.strategy == "greedy"
    assert zoo.nemos("multitask").cfg.decoding.strategy == "beam"
    assert zoo.ours("hybrid_bpe").cfg.aux_ctc.decoding.strategy == "greedy"
    assert zoo.ours("ctc_bpe").cfg.decoding.keys() <= {"strategy", "greedy"}
    assert zoo.nemos("ctc_bpe").cfg.decoding.keys() > {"strategy", "beam", "confidence_cfg"}
    assert not hasattr(model, "bleu")


def repacked(source: Path, path: Path, *, config: dict[str, Any], extra: Mapping[str, bytes] | None = None) -> Path:
    """A copy of a checkpoint with some keys of its configuration changed and some members added."""
    with tarfile.open(source) as tar:
        files = {member.name: tar.extractfile(member) for member in tar if member.isreg()}
        members = {name: file.read() for name, file in files.items() if file is not None} | dict(extra or {})
    name = "./model_config.yaml"
    members[name] = yaml.safe_dump({**yaml.safe_load(members[name]), **config}).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_second_model_in_the_archive_is_left_alone(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo.utils.app_state import AppState

    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    weights = io.BytesIO()
    torch.save({"a": Touch()}, weights)
    second = {
        "./timestamps_asr_model_config.yaml": yaml.safe_dump({"target": f"{ASR}models.EncDecCTCModel"}).encode(),
        "./timestamps_asr_model_weights.ckpt": weights.getvalue(),
    }
    asked = {"restore_timestamps_model": True}
    path = repacked(zoo.path("multitask"), tmp_path / "evil.nemo", config=asked, extra=second)
    monkeypatch.setattr(AppState(), "_all_model_restore_paths", [str(path)])  # as NeMo's own restoring leaves it
    assert restore_kind(path, SPEECH_MODEL).timestamps_asr_model is None
    assert not (tmp_path / "executed").exists()


def test_a_transducer_is_still_asked_for_by_name(zoo: Zoo) -> None:
    with pytest.raises(CheckpointError, match="which is not a transducer"):
        restore(zoo.path("ctc_letters"))


@pytest.mark.parametrize("target", ["torch.nn.Linear", f"{ASR}modules.transformer.get_nemo_transformer"])
def test_what_is_no_speech_model(tmp_path: Path, zoo: Zoo, target: str) -> None:
    path = repacked(zoo.path("ctc_letters"), tmp_path / "other.nemo", config={"target": target})
    with pytest.raises(CheckpointError, match="which is not a speech model"):
        open_component(path, "encoder")


# ------------------------------------------------------------------ components


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("encodr", "encoder"), ("encoder.layers.0.convv", "encoder.layers.0.conv"), ("ctc_decoder", "decoder")],
)
def test_an_unknown_component(zoo: Zoo, wrong: str, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_component(zoo.path("ctc_bpe"), wrong)
    assert f"no component '{wrong}'" in str(caught.value)
    assert f"did you mean '{right}'?" in str(caught.value)


@pytest.mark.parametrize("path", ["encoder.layers", ""])
def test_what_cannot_be_called_is_no_component(zoo: Zoo, path: str) -> None:
    with pytest.raises(ConfigError, match="no component"):
        component_of(zoo.ours("ctc_bpe"), path)


def test_components_are_listed_first(zoo: Zoo) -> None:
    paths = component_paths(zoo.ours("hybrid_bpe"))
    assert paths[:4] == ("preprocessor", "encoder", "decoder", "joint")
    assert {"ctc_decoder", "encoder.layers.0.self_attn", "joint.joint_net.0"} <= set(paths)


# ------------------------------------------------------------------ feeds


@pytest.mark.parametrize("name", ["ctc_letters", "ctc_bpe", "ctc_convolutions", "hybrid_bpe", "contrastive"])
def test_preprocessor_and_encoder_take_the_contracts_names(zoo: Zoo, clip: Clip, name: str) -> None:
    with spying(zoo.nemos(name), "preprocessor") as sounds, spying(zoo.nemos(name), "encoder") as mels:
        theirs = zoo.nemos(name)
        masks, theirs.apply_masking = getattr(theirs, "apply_masking", None), False
        forward(theirs, clip)
        theirs.apply_masking = masks
    feed = only(component_of(zoo.ours(name), "preprocessor"), clip)
    np.testing.assert_array_equal(feed["audio_signal"], sounds[0][1]["input_signal"])
    np.testing.assert_array_equal(feed["audio_length"], sounds[0][1]["length"])
    assert [value.dtype.name for value in feed.values()] == ["float32", "int32"]
    feed = only(component_of(zoo.ours(name), "encoder"), clip)
    assert list(feed) == ["mel", "mel_length"]
    np.testing.assert_array_equal(feed["mel"], mels[0][1]["audio_signal"])
    np.testing.assert_array_equal(feed["mel_length"], mels[0][1]["length"])
    assert feed["mel_length"].dtype == np.int32


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ctc_letters", "decoder"),
        ("ctc_bpe", "encoder.layers.0"),
        ("ctc_bpe", "encoder.layers.0.self_attn"),
        ("ctc_bpe", "encoder.pre_encode"),
        ("ctc_convolutions", "encoder.encoder.0"),
        ("ctc_convolutions", "encoder.encoder.0.mconv.0"),
        ("rnnt_letters", "encoder.layers.0.conv"),
        ("multitask", "transf_encoder"),
        ("attention_bpe", "adapter"),
    ],
)
def test_a_module_is_fed_what_it_is_called_with(zoo: Zoo, clip: Clip, name: str, path: str) -> None:
    with spying(zoo.nemos(name), path) as calls:
        forward(zoo.nemos(name), clip)
    feed = only(component_of(zoo.ours(name), path), clip)
    ((args, kwargs, _),) = calls
    tensors = [tensor for _, tensor in leaves_of((*args, *kwargs.values()))]
    assert len(feed) == len(tensors) > 0
    for given, tensor in zip(feed.values(), tensors, strict=True):
        np.testing.assert_array_equal(given, tensor.numpy())
        assert given.dtype == tensor.numpy().dtype
    assert set(kwargs) & set(feed) == {key for key, value in kwargs.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("name", ["hybrid_letters", "hybrid_bpe"])
def test_a_hybrid_feeds_its_ctc_head_the_encoders_output(zoo: Zoo, clip: Clip, name: str) -> None:
    encoded, _ = forward(zoo.nemos(name), clip)
    feed = only(component_of(zoo.ours(name), "ctc_decoder"), clip)
    np.testing.assert_array_equal(feed["encoder_output"], encoded.numpy())


def test_masked_prediction_hides_nothing(zoo: Zoo, clip: Clip) -> None:
    model = zoo.nemos("masked_prediction")
    noisy = {"noisy_input_signal": torch.from_numpy(clip.samples[None])}
    noisy["noisy_input_signal_length"] = torch.tensor([len(clip.samples)])
    with spying(model, "decoder") as calls:
        forward(model, clip, **noisy)
    feed = only(component_of(zoo.ours("masked_prediction"), "decoder"), clip)
    np.testing.assert_array_equal(feed["encoder_output"], calls[0][1]["encoder_output"])


def test_a_clip_that_masked_prediction_could_not_divide(zoo: Zoo, clip: Clip) -> None:
    odd = Clip("odd.wav", "odd.wav", clip.samples[:4800], RATE)
    assert only(component_of(zoo.ours("masked_prediction"), "encoder"), odd)["mel"].shape == (1, 16, 31)


@pytest.mark.parametrize("name", ["rnnt_letters", "hybrid_letters", "bundled"])
def test_a_prediction_network_is_fed_step_by_step(zoo: Zoo, reference: NemoSource, clip: Clip, name: str) -> None:
    model = reference.model if name == "bundled" else zoo.ours(name)
    feeds = dict(component_of(model, "decoder", walk=walk).feeds(clip))
    tokens, _ = decoded_by_nemo(model, clip)
    blank = model.joint.num_classes_with_blank - 1 - model.joint.num_extra_outputs
    assert len(tokens) > 1
    assert [int(feed["targets"].item()) for feed in feeds.values()] == [blank, *tokens][: len(feeds)]
    assert len(feeds) >= len(tokens)
    assert list(feeds)[:2] == ["tone.wav", "tone.wav#1"]
    state = None
    for token, feed in zip([blank, *tokens], feeds.values(), strict=False):
        assert {key: value.dtype.name for key, value in feed.items()} == {
            "targets": "int32", "target_length": "int32", "h_in": "float32", "c_in": "float32",
        }  # fmt: skip
        h, c = state or (torch.zeros(feed["h_in"].shape), torch.zeros(feed["c_in"].shape))
        np.testing.assert_array_equal(feed["h_in"], h.numpy())
        np.testing.assert_array_equal(feed["c_in"], c.numpy())
        label = None if state is None else torch.tensor([[token]])
        with torch.no_grad():
            _, state = model.decoder.predict(label, state, add_sos=False, batch_size=1)


@pytest.mark.parametrize("name", ["rnnt_letters", "bundled"])
def test_a_joint_is_fed_where_nemo_emits(zoo: Zoo, reference: NemoSource, clip: Clip, name: str) -> None:
    model = reference.model if name == "bundled" else zoo.ours(name)
    feed = only(component_of(model, "joint", walk=walk), clip)
    tokens, frames = decoded_by_nemo(model, clip)
    encoded, _ = forward(model, clip)
    points, width, length = feed["encoder"].shape
    assert (width, length) == (encoded.shape[1], 1)
    assert feed["decoder"].shape == (points, model.joint.pred.in_features, 1)
    with torch.no_grad():
        logits = model.joint(
            encoder_outputs=torch.from_numpy(feed["encoder"]), decoder_outputs=torch.from_numpy(feed["decoder"])
        )
    blank = model.joint.num_classes_with_blank - 1 - model.joint.num_extra_outputs
    best = logits[:, 0, 0, : blank + 1].argmax(dim=-1).numpy()
    assert best[best != blank].tolist() == tokens
    np.testing.assert_array_equal(feed["encoder"][best != blank, :, 0], encoded[0].T.numpy()[frames])


def decoded_by_nemo(model: Any, clip: Clip) -> tuple[list[int], list[int]]:
    """NeMo's own greedy decoding: tokens and their frames."""
    encoded, length = forward(model, clip)
    with torch.no_grad(), quiet.third_party():
        (hypothesis,) = model.decoding.decoding(encoder_output=encoded, encoded_lengths=length)[0]
    return [int(token) for token in hypothesis.y_sequence], [int(frame) for frame in hypothesis.timestamp]


@pytest.mark.parametrize("path", ["joint.enc", "joint.joint_net.2", "decoder.prediction.embed"])
def test_parts_on_the_path_are_fed_once(zoo: Zoo, clip: Clip, path: str) -> None:
    model = zoo.ours("rnnt_letters")
    whole = list(component_of(model, path.partition(".")[0], walk=walk).feeds(clip))
    parts = [feed["input"] for _, feed in component_of(model, path, walk=walk).feeds(clip)]
    assert len(parts) == len(whole)
    if path == "joint.enc":
        np.testing.assert_array_equal(parts[0], whole[0][1]["encoder"].transpose(0, 2, 1))
    elif path == "decoder.prediction.embed":
        np.testing.assert_array_equal(parts, [feed["targets"] for _, feed in whole])


def test_what_a_module_overwrites_is_fed_as_it_was(zoo: Zoo, clip: Clip) -> None:
    model = zoo.ours("rnnt_letters")
    assert model.joint.joint_net[0].inplace
    feed = only(component_of(model, "joint", walk=walk), clip)
    with torch.no_grad():
        frames = model.joint.enc(torch.from_numpy(feed["encoder"]).transpose(1, 2))
        steps = model.joint.pred(torch.from_numpy(feed["decoder"]).transpose(1, 2))
    before = only(component_of(model, "joint.joint_net.0", walk=walk), clip)["input"]
    assert before.min() < 0
    np.testing.assert_array_equal(before, (frames[:, :, None] + steps[:, None]).numpy())


@pytest.mark.parametrize("name", ["multitask", "attention_bpe"])
def test_an_attention_decoder_reads_what_the_model_says(zoo: Zoo, clip: Clip, name: str, monkeypatch: Any) -> None:
    ours, theirs = zoo.ours(name), zoo.nemos(name)
    if name == "attention_bpe":  # the bundled tokenizer has no token for the start of a text
        monkeypatch.setattr(type(ours.tokenizer), "bos_id", 1)
        monkeypatch.setattr(type(ours.tokenizer), "eos_id", 2)
    feed = only(component_of(ours, "transf_decoder"), clip)
    tokens = torch.from_numpy(feed["input_ids"])
    prompt = nemo_forward.prompt_tokens(ours)
    assert torch.equal(tokens[:, : prompt.shape[1]], prompt)
    assert tokens.shape[1] > prompt.shape[1]
    with spying(theirs, "transf_decoder") as calls, spying(theirs, "log_softmax") as heads:
        forward(theirs, clip, transcript=tokens, transcript_length=torch.tensor([tokens.shape[1]]))
    assert list(feed) == list(calls[0][1])
    for key, value in calls[0][1].items():
        np.testing.assert_array_equal(feed[key], value.numpy(), err_msg=key)
    best = heads[0][2].argmax(dim=-1)  # greedy: what is read at a position is what was said before it
    assert torch.equal(tokens[:, prompt.shape[1] :], best[:, prompt.shape[1] - 1 : -1])
    np.testing.assert_array_equal(
        only(component_of(ours, "log_softmax"), clip)["hidden_states"], heads[0][1]["hidden_states"].numpy()
    )
    assert not any(module.training for module in ours.modules())


def test_the_tokens_are_those_of_nemos_greedy_decoding(zoo: Zoo, clip: Clip) -> None:
    model = zoo.ours("multitask")
    tokens = only(component_of(model, "transf_decoder"), clip)["input_ids"][0].tolist()
    prompt = nemo_forward.prompt_tokens(model)
    assert [model.tokenizer.ids_to_tokens([token])[0] for token in prompt[0].tolist()] == [
        "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|en|>", "<|pnc|>",
    ]  # fmt: skip
    _, _, states, mask = forward(model, clip)
    with quiet.third_party():
        (hypothesis,) = model.decoding.decode_predictions_tensor(states, mask, decoder_input_ids=prompt)
    model.eval()  # NeMo leaves the decoder in training mode
    said = [int(token) for token in hypothesis.y_sequence]
    ours = tokens[prompt.shape[1] :]
    assert len(ours) > 2
    assert ours[: len(said)] == said[: len(ours)]


def test_a_prompt_without_defaults_asks_for_english(zoo: Zoo) -> None:
    from nemo.collections.common.prompts.canary2 import Canary2PromptFormatter
    from nemo.collections.common.tokenizers.canary_tokenizer import CanaryTokenizer

    expected = (
        "<|startofcontext|>", "<|startoftranscript|>", "<|emo:undefined|>", "<|en|>", "<|en|>", "<|pnc|>", "<|noitn|>",
        "<|notimestamp|>", "<|nodiarize|>",
    )  # fmt: skip
    with quiet.third_party():
        special = CanaryTokenizer.build_special_tokenizer(list(dict.fromkeys(expected)), zoo.folder / "canary2")
        tokenizer = CanaryTokenizer({"spl_tokens": special})
    model = SimpleNamespace(tokenizer=tokenizer, prompt=Canary2PromptFormatter(tokenizer), prompt_format="canary2")
    tokens = nemo_forward.prompt_tokens(model)
    assert tuple(tokenizer.ids_to_tokens(tokens[0].tolist())) == expected


def test_what_comes_before_the_decoder_needs_no_tokens(zoo: Zoo, clip: Clip) -> None:
    assert zoo.ours("attention_bpe").tokenizer.bos_id == -1
    assert set(only(component_of(zoo.ours("attention_bpe"), "encoder"), clip)) == {"mel", "mel_length"}
    with pytest.raises(FeedError, match="no token for the start of a text"):
        only(component_of(zoo.ours("attention_bpe"), "transf_decoder"), clip)


def test_a_prompt_that_cannot_be_made(zoo: Zoo, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.ours("multitask")
    monkeypatch.setitem(model.prompt._defaults[0]["slots"], "target_lang", "xx")
    with pytest.raises(FeedError, match=r"the prompt 'canary' can't be made(.|\n)*xx"):
        only(component_of(model, "log_softmax"), clip)
    assert set(only(component_of(model, "encoder"), clip)) == {"mel", "mel_length"}


def test_a_language_prompt_is_given_before_the_joint(zoo: Zoo, clip: Clip) -> None:
    with spying(zoo.nemos("rnnt_prompt"), "prompt_kernel") as calls:
        forward(zoo.nemos("rnnt_prompt"), clip, prompt_indices=torch.tensor([2]))
    feed = only(component_of(zoo.ours("rnnt_prompt"), "prompt_kernel"), clip)
    np.testing.assert_array_equal(feed["input"], calls[0][0][0].numpy())


@pytest.mark.parametrize(
    ("name", "why"), [("rnnt_prompt", "a language prompt"), ("rnnt_stateless", "prediction network is not an LSTM")]
)
def test_transducers_without_a_path(zoo: Zoo, clip: Clip, name: str, why: str) -> None:
    assert only(component_of(zoo.ours(name), "encoder"), clip)
    with pytest.raises(CheckpointError, match=why):
        only(component_of(zoo.ours(name), "joint", walk=walk), clip)


def test_a_path_needs_a_walk(zoo: Zoo, clip: Clip) -> None:
    with pytest.raises(ValueError, match="no walk was given"):
        only(component_of(zoo.ours("rnnt_letters"), "joint"), clip)


def test_a_module_that_does_not_run(zoo: Zoo, clip: Clip) -> None:
    with pytest.raises(FeedError, match=r"'loss' isn't called when the model runs on 'tone\.wav'"):
        only(component_of(zoo.ours("ctc_bpe"), "loss"), clip)


def test_a_clip_of_another_rate(zoo: Zoo, clip: Clip) -> None:
    slow = Clip("slow.wav", "slow.wav", clip.samples, 8000)
    with pytest.raises(FeedError, match=r"expected 16000 Hz, got 8000 Hz"):
        only(component_of(zoo.ours("ctc_bpe"), "encoder"), slow)


def test_no_hook_is_left(zoo: Zoo, clip: Clip) -> None:
    model = zoo.ours("rnnt_letters")
    list(component_of(model, "decoder.prediction.dec_rnn", walk=walk).feeds(clip))
    with pytest.raises(ValueError, match="no walk"):
        list(component_of(model, "joint.enc").feeds(clip))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# ------------------------------------------------------------------ running


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ctc_bpe", "preprocessor"),
        ("ctc_bpe", "encoder"),
        ("ctc_bpe", "decoder"),
        ("ctc_bpe", "encoder.layers.0.self_attn"),
        ("ctc_convolutions", "encoder"),
        ("ctc_convolutions", "encoder.encoder.1"),
        ("multitask", "transf_encoder"),
        ("rnnt_prompt", "prompt_kernel"),
    ],
)
def test_a_module_alone_gives_what_it_gives_inside(zoo: Zoo, clip: Clip, name: str, path: str) -> None:
    more = {"prompt_indices": torch.tensor([2])} if name == "rnnt_prompt" else {}
    with spying(zoo.nemos(name), path) as calls:
        forward(zoo.nemos(name), clip, **more)
    expected = calls[0][2]
    while not isinstance(expected, torch.Tensor):
        expected = expected[0]
    component = component_of(zoo.ours(name), path)
    found = answers(component, only(component, clip))[path]
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("name", ["ctc_letters", "hybrid_bpe", "rnnt_letters", "masked_prediction"])
def test_components_in_a_chain_are_nemos_forward(zoo: Zoo, clip: Clip, name: str) -> None:
    mel = answers(preprocessor := component_of(zoo.ours(name), "preprocessor"), only(preprocessor, clip),
                  "preprocessor", "preprocessor:1")  # fmt: skip
    feed = {"mel": mel["preprocessor"], "mel_length": mel["preprocessor:1"].astype(np.int32)}
    found = answers(component_of(zoo.ours(name), "encoder"), feed)["encoder"]
    noisy = {"noisy_input_signal": torch.from_numpy(clip.samples[None])}
    noisy["noisy_input_signal_length"] = torch.tensor([len(clip.samples)])
    result = forward(zoo.nemos(name), clip, **(noisy if name == "masked_prediction" else {}))
    if name in ("rnnt_letters", "hybrid_bpe"):
        np.testing.assert_array_equal(found, result[0].numpy())
    else:
        logits = answers(component_of(zoo.ours(name), "decoder"), {"encoder_output": found})["decoder"]
        np.testing.assert_array_equal(logits, result[0].numpy())


def test_prediction_network_and_joint_run_as_the_references(reference: NemoSource, clip: Clip) -> None:
    calls = {call.component: (call, captured) for call, captured in walk(reference, clip, "joint")}
    component = component_of(reference.model, "decoder", walk=walk)
    wanted = ("decoder", "decoder.prediction.dec_rnn:1.0", "decoder.prediction.dec_rnn:1.1")
    expected = calls["decoder"][1].outputs
    for step, (_, feed) in enumerate(component.feeds(clip)):
        found = answers(component, feed, *wanted)
        for name, output in zip(wanted, ("decoder", "h_out", "c_out"), strict=True):
            np.testing.assert_array_equal(found[name].squeeze(), expected[output][step].squeeze())
    assert reference.model.decoder._rnnt_export is False
    joint = component_of(reference.model, "joint", walk=walk)
    found = answers(joint, only(joint, clip), "joint", "joint.enc", "joint.joint_net.2")
    np.testing.assert_array_equal(found["joint"], calls["joint"][1].outputs["logits"])
    np.testing.assert_array_equal(
        found["joint.enc"],
        reference.run(calls["joint"][0], ["joint.enc"]).tensors["joint.enc"],
    )


def test_an_attention_decoder_runs_alone(zoo: Zoo, clip: Clip) -> None:
    component, head = (component_of(zoo.ours("multitask"), path) for path in ("transf_decoder", "log_softmax"))
    feed = only(component, clip)
    transcript = torch.from_numpy(feed["input_ids"])
    length = torch.tensor([transcript.shape[1]])
    expected, *_ = forward(zoo.nemos("multitask"), clip, transcript=transcript, transcript_length=length)
    states = answers(component, feed)["transf_decoder"]
    np.testing.assert_array_equal(answers(head, {"hidden_states": states})["log_softmax"], expected.numpy())


def test_tensors_and_weights_are_named_from_the_model_down(zoo: Zoo, clip: Clip) -> None:
    model = zoo.ours("ctc_bpe")
    for path in ("encoder", "encoder.layers.0.conv"):
        component = component_of(model, path)
        outline = component.outline(only(component, clip))
        own = {name for name in model.state_dict() if name.startswith(f"{path}.")}
        assert {name for name in outline.weights if name in model.state_dict()} <= own
        assert f"{path}.{'layers.0.conv.' if path == 'encoder' else ''}pointwise_conv1.weight" in outline.weights
        assert [node.name for node in outline.inputs] == list(only(component, clip))
        outside = {node.kind for node in outline.nodes if not node.name.startswith(path)}
        assert outside <= {"cast"}  # of the lengths, which the contract has in int32
        assert path in outline.by_name


def test_every_streamed_tensor_is_in_the_outline(zoo: Zoo, clip: Clip) -> None:
    component = component_of(zoo.ours("rnnt_letters"), "joint", walk=walk)
    feed = only(component, clip)
    names: list[str] = []
    component.stream(feed, lambda name, _: names.append(name))
    assert {"joint.enc", "joint.pred"} <= set(names)
    assert set(names) <= set(component.outline(feed).names())


def test_a_feed_of_other_names_is_refused(zoo: Zoo, clip: Clip) -> None:
    component = component_of(zoo.ours("ctc_bpe"), "decoder")
    with pytest.raises(FeedError):
        answers(component, {"encoder": only(component, clip)["encoder_output"]})


def test_feeds_can_be_kept(zoo: Zoo, clip: Clip) -> None:
    component = component_of(zoo.ours("ctc_bpe"), "encoder.layers.0")
    feed = only(component, clip)
    again = component_of(zoo.ours("ctc_bpe"), "encoder.layers.0")
    kept = pickle.loads(pickle.dumps(dict(feed)))
    np.testing.assert_array_equal(
        answers(again, kept)["encoder.layers.0"], answers(component, feed)["encoder.layers.0"]
    )
