"""Our decoder against NeMo's own, with NeMo's components, with those of packages, and with mixtures of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from layerdiff import quiet
from layerdiff.config import ConvertConfig
from layerdiff.convert import build
from layerdiff.decode.nemo_parts import Speech, nemo_speech
from layerdiff.decode.package_parts import longest_audio, package_parts
from layerdiff.decode.parts import component_names, mixture
from layerdiff.errors import CheckpointError, ConfigError
from layerdiff.mil import load
from layerdiff.records import COMPONENTS
from layerdiff.sources.coreml_portable import PortableSource
from layerdiff.sources.nemo_restore import SPEECH_MODEL, restore_kind, to_reference_state
from layerdiff.store import Cache
from tests.decode.conftest import AUDIO, Given

if TYPE_CHECKING:
    from layerdiff.decode.greedy import Path as Decoded
    from layerdiff.decode.parts import Parts
    from layerdiff.records import Array
    from layerdiff.sources.nemo import NemoSource
    from tests.sources.nemo_zoo import Zoo

Found = list[tuple[int, int]]
"""(token, frame) of every emission."""


def ours(parts: Parts, speech: Speech, samples: Array) -> Decoded:
    return parts.search(parts.encoder(parts.preprocessor(samples, None)), speech.alphabet)


def found(path: Decoded) -> Found:
    return [(emission.token, emission.frame) for emission in path.emissions]


def transcribed(model: Any, clips: list[Array], *, strategy: str, batch_size: int = 1) -> list[Any]:
    """NeMo's hypotheses by its own `transcribe`, from audio to text."""
    from omegaconf import OmegaConf, open_dict

    before = OmegaConf.create(OmegaConf.to_container(model.cfg.decoding, resolve=True))
    chosen = OmegaConf.create(OmegaConf.to_container(before, resolve=True))
    with open_dict(chosen), quiet.third_party():
        chosen.strategy = strategy
        chosen.greedy = {**(chosen.get("greedy") or {}), "use_cuda_graph_decoder": False}
        model.change_decoding_strategy(chosen, verbose=False)
        try:
            return list(model.transcribe(clips, batch_size=batch_size, return_hypotheses=True, verbose=False))
        finally:
            model.change_decoding_strategy(before, verbose=False)
            model.cfg.decoding = before  # NeMo has written its defaults into it
            to_reference_state(model)  # transcribe leaves parts of it in training


@pytest.mark.parametrize("strategy", ["greedy", "greedy_batch"])
def test_every_bundled_clip_is_decoded_as_nemo_transcribes_it(
    reference: NemoSource, speech: Speech, clips: Mapping[str, Array], strategy: str
) -> None:
    theirs = transcribed(reference.model, list(clips.values()), strategy=strategy)
    assert len(clips) > 200
    for (name, samples), hypothesis in zip(clips.items(), theirs, strict=True):
        path = ours(speech.parts, speech, samples)
        expected = list(zip(map(int, hypothesis.y_sequence), map(int, hypothesis.timestamp), strict=True))
        assert found(path) == expected, name
        assert speech.tokenizer.text(path.tokens) == hypothesis.text, name


def test_packages_decode_every_clip_as_nemo_does(speech: Speech, given: Given, clips: Mapping[str, Array]) -> None:
    parts, durations = mixture(speech.parts, given, COMPONENTS), set()
    for name, samples in clips.items():
        expected, path = ours(speech.parts, speech, samples), ours(parts, speech, samples)
        assert path.emissions == expected.emissions, name
        durations |= {emission.duration for emission in path.emissions}
    assert durations == set(speech.alphabet.durations)  # 0 among them


def test_every_mixture_decodes(speech: Speech, given: Given, clips: Mapping[str, Array]) -> None:
    samples = clips["five_sentences.wav"]
    expected = ours(speech.parts, speech, samples).emissions
    assert component_names(speech.parts) == COMPONENTS
    for count in range(5):
        for taken in combinations(COMPONENTS, count):
            assert ours(mixture(speech.parts, given, taken), speech, samples).emissions == expected, taken


# ------------------------------------------------------------------ kinds of joints


@pytest.fixture(scope="module")
def joints(reference: NemoSource, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PortableSource]:
    """Recipe → its package."""
    cache = Cache(tmp_path_factory.mktemp("joints"))
    made = {
        recipe: build(reference, "joint", ConvertConfig(recipe=recipe, precision="float32", debug=False), cache=cache)
        for recipe in ("cpu_traced", "decision")
    }
    single = ConvertConfig(precision="float32", debug=False)
    made["one step"] = build(reference, "joint", single, cache=cache, fixed=True)
    return {name: PortableSource({"joint": load(path)}) for name, path in made.items()}


@pytest.mark.parametrize("kind", ["cpu_traced", "decision", "one step"])
def test_other_joints_decide_alike(
    speech: Speech, joints: Mapping[str, PortableSource], clips: Mapping[str, Array], kind: str
) -> None:
    given = package_parts(joints[kind], speech.alphabet, is_ctc=False)
    parts, margins = mixture(speech.parts, given, ["joint"]), []
    for name in ("five_sentences.wav", "dev_000.opus", "dev_042.opus"):
        path = ours(parts, speech, clips[name])
        assert path.emissions == ours(speech.parts, speech, clips[name]).emissions, name
        margins += [decision.token_margin for decision in path.decisions]
    assert all((margin is None) == (kind == "decision") for margin in margins)


def test_a_joint_with_two_heads(speech: Speech, clips: Mapping[str, Array], tmp_path: Path, reference: Any) -> None:
    from layerdiff.convert import rebuild_joint
    from layerdiff.convert.recipes import RAW_JOINT, RECIPES, Cut, Recipe

    last = f"joint.joint_net.{len(reference.joint.joint_net) - 1}"
    recipe = Recipe(
        "JointCuts",
        RECIPES["joint"]["raw_logits"].inputs,
        {"durations": "float32", "tokens": "float32"},
        cuts={"durations": Cut(last, "durations"), "tokens": Cut(last, "vocabulary")},
        attributes=RAW_JOINT,
    )
    path = rebuild_joint(reference, recipe, precision="float32", cache=Cache(tmp_path))
    given = package_parts(PortableSource({"joint": load(path)}), speech.alphabet, is_ctc=False)
    samples = clips["five_sentences.wav"]
    decoded = ours(mixture(speech.parts, given, ["joint"]), speech, samples)
    expected = ours(speech.parts, speech, samples)
    assert decoded.emissions == expected.emissions
    for own, other in zip(decoded.decisions, expected.decisions, strict=True):
        assert own.logits is not None
        np.testing.assert_allclose(own.logits, other.logits, atol=1e-4)


@pytest.mark.parametrize("change", [{"blank": 64}, {"durations": (0, 1, 2)}, {"durations": ()}])
def test_another_vocabulary_is_refused(speech: Speech, float32_packages: Any, change: dict[str, Any]) -> None:
    alphabet = dataclasses.replace(speech.alphabet, **change)
    source = PortableSource({"joint": load(float32_packages["joint"])})
    with pytest.raises(ConfigError, match=r"don't fit the vocabulary.*\n.*\n  expected an output of \d+ values"):
        package_parts(source, alphabet, is_ctc=False)


def test_the_longest_audio(float32_packages: Mapping[Any, Path]) -> None:
    packages = {name: load(path) for name, path in float32_packages.items()}
    assert longest_audio(packages, hop_samples=160) == 479_840  # 3000 frames of mel
    assert longest_audio({"preprocessor": packages["preprocessor"]}, hop_samples=160) == 480_000
    assert longest_audio({"joint": packages["joint"]}, hop_samples=160) is None


# ------------------------------------------------------------------ other models


def tones(count: int = 24_000) -> Array:
    """1.5 s that keeps a model of random weights busy."""
    generator = np.random.default_rng(3)
    tone = np.sin(np.cumsum(generator.uniform(0.02, 0.4, count)))
    return (0.3 * tone + 0.05 * generator.standard_normal(count)).astype(np.float32)


@pytest.mark.parametrize("name", ["rnnt_letters", "hybrid_letters", "hybrid_bpe", "ctc_letters", "ctc_bpe"])
def test_models_of_random_weights_are_decoded_as_nemo_does(zoo: Zoo, name: str) -> None:
    model = restore_kind(zoo.path(name), SPEECH_MODEL)  # its own: decoding strategies are changed
    speech, samples = nemo_speech(model), tones()
    frames = speech.parts.encoder(speech.parts.preprocessor(samples, None))
    with talkative(model, frames):
        path = ours(speech.parts, speech, samples)
        if name.startswith("ctc"):
            assert speech.tokenizer.text(path.tokens) == transcribed(model, [samples], strategy="greedy")[0].text
        elif name.startswith("hybrid"):
            assert list(path.tokens) == by_decoding(model, samples)
        else:
            theirs = transcribed(model, [samples], strategy="greedy_batch")[0]
            assert list(path.tokens) == [int(token) for token in theirs.y_sequence]
    assert len(path.tokens) > 3


@contextmanager
def talkative(model: Any, frames: Array) -> Iterator[None]:
    """A last layer that looks at how frames differ: as it is built, a model says the same all the time."""
    is_ctc = not hasattr(model, "joint")
    layer = model.decoder.decoder_layers[0] if is_ctc else model.joint.joint_net[-1]
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        if is_ctc:
            layer.bias.copy_(-layer.weight[:, :, 0] @ torch.from_numpy(frames.mean(0)))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in layer.named_parameters():
                value.copy_(before[name])


def by_decoding(model: Any, samples: Array) -> list[int]:
    """The tokens of NeMo's transducer decoding of what its encoder gives."""
    with torch.no_grad(), quiet.third_party():
        frames, lengths = model(
            input_signal=torch.from_numpy(samples[None]), input_signal_length=torch.tensor([len(samples)])
        )
        found = model.decoding.rnnt_decoder_predictions_tensor(frames, lengths, return_hypotheses=True)
    return [int(token) for token in found[0].y_sequence]


def ctc_head(model: Any, frames: Array, path: Path) -> Path:
    """The float32 package of a CTC head."""
    import coremltools as ct

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = model.decoder

        def forward(self, encoder_output: torch.Tensor) -> torch.Tensor:
            return self.head(encoder_output=encoder_output)

    with quiet.third_party():
        example = torch.from_numpy(frames.T[None].copy())
        traced = torch.jit.trace(Head().eval(), example, strict=False, check_trace=False)
        shape = (1, frames.shape[1], ct.RangeDim(1, 2000, default=50))
        package = ct.convert(
            traced, convert_to="mlprogram", inputs=[ct.TensorType("encoder_output", shape)],
            outputs=[ct.TensorType("log_probs")], compute_precision=ct.precision.FLOAT32, skip_model_load=True,
            minimum_deployment_target=ct.target.iOS17,
        )  # fmt: skip
        package.save(str(path))
    return path


def test_a_ctc_head_from_a_package(zoo: Zoo, tmp_path: Path) -> None:
    """The head alone, and a whole run from configuration to report."""
    from layerdiff import config, corpus
    from layerdiff.progress import SILENT

    model = zoo.ours("ctc_bpe")
    speech, samples = nemo_speech(model), tones()
    frames = speech.parts.encoder(speech.parts.preprocessor(samples, None))
    path = ctc_head(model, frames, tmp_path / "head.mlpackage")
    given = package_parts(PortableSource({"decoder": load(path)}), speech.alphabet, is_ctc=True)
    decoded = ours(mixture(speech.parts, given, ["decoder"]), speech, samples)
    assert decoded.emissions == ours(speech.parts, speech, samples).emissions
    values = {
        "reference": {"nemo": str(zoo.path("ctc_bpe")), "component": "whole"},
        "candidates": {"head": {"coreml": {"decoder": str(path)}}},
        "inputs": {"audio": [str(AUDIO / "nine_seven_three.wav")]},
        "decode": {"swaps": True, "lengths": 1},
        "outputs": {"dir": str(tmp_path / "out")},
    }
    report, _ = corpus.decode(config.from_mapping(values), progress=SILENT)
    found = report.candidates["head"]
    assert (report.exit_code, found.tally.same_path) == (0, 1)
    assert [mixed.components for mixed in found.mixtures] == [("decoder",)]
    assert list(found.tally.signals) == ["logits"]


def test_what_has_no_greedy_decoding_is_refused(zoo: Zoo) -> None:
    with pytest.raises(CheckpointError, match="can't be decoded greedily"):
        nemo_speech(zoo.ours("multitask"))
