"""The grammar gives the same sentences everywhere; speech itself is checked where espeak-ng is called."""

from __future__ import annotations

import random
import re
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer

from layerdiff import audio
from tools.mini import make_clips, synthesize

AUDIO_FOLDER = Path(__file__).parents[2] / "audio"
DIGIT = "(?:zero|one|two|three|four|five|six|seven|eight|nine)"
UNIT = DIGIT.replace("zero|", "")
TEEN = "(?:ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen)"
NUMBER = f"(?:{UNIT}(?: hundred)?|{TEEN}|(?:twen|thir|for|fif|six|seven|eigh|nine)ty(?: {UNIT})?)"
ROOM = "(?:kitchen|bedroom|office|garage)"
KINDS = {
    "digits": f"{DIGIT}(?: {DIGIT}){{2,5}}",
    "turn": f"turn (?:on|off) the (?:light|radio|fan|heater) in the {ROOM}",
    "open": f"(?:open|close) the {ROOM} (?:door|window)",
    "timer": f"set a timer for {NUMBER} (?:minutes|seconds|hours)",
    "call": f"call (?:anna|peter|maria|david) on {DIGIT}(?: {DIGIT}){{1,3}}",
    "sum": f"{NUMBER} (?:plus|minus|times) {NUMBER}",
    "media": f"(?:play|stop|start) the (?:music|movie|story|radio) (?:now|please|at {NUMBER})",
    "move": f"move the (?:light|radio|fan|heater|door|window) {NUMBER} (?:left|right|up|down)",
}
GRAMMAR = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in KINDS.items()))


def test_every_sentence_is_of_the_grammar_and_every_kind_occurs() -> None:
    rng = random.Random(0)
    sentences = [synthesize.sentence(rng) for _ in range(2000)]
    matches = [GRAMMAR.fullmatch(text) for text in sentences]
    assert [text for text, match in zip(sentences, matches, strict=True) if match is None] == []
    assert {match.lastgroup for match in matches if match} == set(KINDS)


def test_the_development_set_is_the_one_that_was_measured() -> None:
    """Eight of its first nine sentences are clips in `audio/`."""
    plan = synthesize.plan(synthesize.DEV_COUNT, seed=synthesize.DEV_SEED)
    first = plan[0]
    assert (first.text, first.voice, first.speed_wpm, first.pitch) == ("call peter on three two", "en-gb+f4", 195, 44)
    spoken = {recording.text for recording in audio.read_manifest(AUDIO_FOLDER / "manifest.jsonl")}
    assert [index for index, utterance in enumerate(plan[:9]) if utterance.text in spoken] == [0, 1, 3, 4, 5, 6, 7, 8]


def test_plan_depends_on_its_arguments_only() -> None:
    random.seed(1)
    first = synthesize.plan(50, seed=3)
    random.seed(2)
    assert synthesize.plan(50, seed=3) == first
    assert synthesize.plan(50, seed=4) != first


def test_excluded_sentences_are_left_out() -> None:
    dev = {utterance.text for utterance in synthesize.plan(200, seed=synthesize.DEV_SEED)}
    train = {utterance.text for utterance in synthesize.plan(2000, seed=synthesize.TRAIN_SEED, excluded=dev)}
    assert not dev & train


def test_utterances_stay_within_their_ranges() -> None:
    for utterance in synthesize.plan(300, seed=5):
        assert utterance.voice in synthesize.VOICES
        assert 0.5 <= utterance.gain <= 1
        assert 1e-4 <= utterance.noise <= 10**-2.7
        assert min(astuple(utterance)[5:7]) >= 1600


def test_a_recording_is_silence_speech_silence_at_its_gain_with_its_noise() -> None:
    plain = synthesize.Utterance(
        text="",
        voice="",
        speed_wpm=160,
        pitch=50,
        gain=0.5,
        lead_samples=100,
        tail_samples=300,
        noise=0.0,
        noise_seed=1,
    )
    speech = np.array([0.25, -1.0, 3.0, -3.0], dtype=np.float32)
    expected = [*[0] * 100, 4095, -16383, 32767, -32768, *[0] * 300]
    assert synthesize.recorded(speech, plain).tolist() == expected
    noisy = synthesize.recorded(np.zeros(100_000, np.float32), replace(plain, noise=0.01))
    assert noisy.std() / 32767 == pytest.approx(0.01, rel=0.01)
    other = synthesize.recorded(np.zeros(100_000, np.float32), replace(plain, noise=0.01, noise_seed=2))
    assert not np.array_equal(noisy, other)


def test_a_missing_espeak_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(typer.BadParameter, match="espeak-ng is not installed"):
        synthesize.main(tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_a_written_corpus_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    samples = np.arange(-800, 800, dtype=np.int16)
    line = synthesize.write_clip(tmp_path / "dev" / "a.wav", samples, text="one two three")
    synthesize.write_manifest(tmp_path / "dev.jsonl", [line])
    (clip,) = audio.read(audio.read_manifest(tmp_path / "dev.jsonl"), sample_rate_hz=synthesize.SAMPLE_RATE_HZ)
    np.testing.assert_array_equal(clip.samples * 32768, samples)
    assert (clip.text, clip.duration_s) == ("one two three", 0.1)


def test_the_extra_clips_in_the_repository_have_the_planned_shape() -> None:
    """Their silences, to the sample; what lies between is espeak-ng's."""
    texts = {recording.name: recording.text for recording in audio.read_manifest(AUDIO_FOLDER / "manifest.jsonl")}
    for name, utterances in make_clips.CLIPS.items():
        samples, _ = soundfile.read(AUDIO_FOLDER / f"{name}.wav", dtype="int16")
        assert texts[f"{name}.wav"] == " ".join(utterance.text for utterance in utterances)
        lead, tail, limit = utterances[0].lead_samples, utterances[-1].tail_samples, 6 * utterances[0].noise * 32768
        assert np.abs(samples[:lead]).max() <= limit
        assert np.abs(samples[-tail:]).max() <= limit
        assert np.abs(samples).max() > 10 * max(limit, 1)
