"""The shipped model hears what the manifest says was spoken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerdiff import audio
from tools.mini.evaluate import score, transcribe

AUDIO_FOLDER = Path(__file__).parents[2] / "audio"


def test_the_shipped_model_transcribes_the_clips_of_the_repository(nemo_model: Any) -> None:
    recordings = audio.read_manifest(AUDIO_FOLDER / "manifest.jsonl")
    clips = audio.read(recordings, sample_rate_hz=16000)
    heard = transcribe(nemo_model, (clip.samples for clip in clips))
    found = score(reference=[recording.text or "" for recording in recordings], candidate=heard)
    assert found.word_error_rate < 0.05
    assert found.exact >= found.sentences - 1
