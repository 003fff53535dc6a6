"""The corpus that lies in the repository is the one that the script makes, as far as that shows without espeak-ng."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from tools.mini.synthesize import DEV_COUNT, DEV_SEED, plan

CORPUS = Path(__file__).parents[2] / "audio" / "corpus"


def test_the_bundled_corpus_is_the_planned_one() -> None:
    lines = [json.loads(line) for line in (CORPUS / "manifest.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [utterance.text for utterance in plan(DEV_COUNT, seed=DEV_SEED)]
    assert sorted(path.name for path in CORPUS.glob("*.opus")) == [line["audio_filepath"] for line in lines]
    for line in lines:
        found = soundfile.info(CORPUS / line["audio_filepath"])
        assert found.samplerate == 16_000
        assert found.frames / found.samplerate == pytest.approx(line["duration"], abs=1e-3)
