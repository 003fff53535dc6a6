from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerdiff.config import InputsConfig
from layerdiff.corpus.items import find_corpus
from layerdiff.errors import AudioError, ConfigError
from tests.corpus.conftest import AUDIO


def test_lines_of_a_manifest_are_numbered_as_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"audio_filepath": "a.wav"}\n\n{broken\n{"audio_filepath": "b.wav"}')
    corpus = find_corpus(InputsConfig(manifest=str(file)))
    items = list(corpus.items())
    assert [(item.index, item.name) for item in items] == [(k, f"{file}, line {n}") for k, n in enumerate((1, 3, 4))]
    assert [len(shard) for shard in corpus.shards(2)] == [2, 1]


def test_what_a_line_names_is_found_out_one_by_one(tmp_path: Path) -> None:
    clip = AUDIO / "nine_seven_three.wav"
    entries = [{"audio_filepath": str(clip), "text": "nine"}, {"audio_filepath": "missing.wav"}, {"file": "x"}]
    file = tmp_path / "m.jsonl"
    file.write_bytes("".join(json.dumps(entry) + "\n" for entry in entries).encode() + b"{\xff}\n[]\n")
    corpus = find_corpus(InputsConfig(manifest=str(file)))
    first, *others = corpus.items()
    assert (corpus.recording(first).path, corpus.recording(first).text) == (clip, "nine")
    said = []
    for item in others:
        with pytest.raises(AudioError) as raised:
            corpus.recording(item)
        said.append(str(raised.value))
        assert f"{file}, line {item.index + 1}" in said[-1]
    assert ["does not exist" in said[0], "no 'audio_filepath'" in said[1], "UTF-8" in said[2]] == [True] * 3


def test_files_by_their_paths(tmp_path: Path) -> None:
    odd = tmp_path / "a[1].wav"
    odd.write_bytes((AUDIO / "nine_seven_three.wav").read_bytes())
    corpus = find_corpus(InputsConfig(audio=[str(odd), str(AUDIO / "e*.wav")]))
    found = [corpus.recording(item).path for item in corpus.items()]
    assert found == [odd, AUDIO / "eight_one_seven.wav"]


def test_the_fingerprint_is_of_what_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"

    def of(text: str) -> tuple[str, int]:
        file.write_text(text)
        return find_corpus(InputsConfig(manifest=str(file))).fingerprint()

    assert of("{}\n{}\n") == of("{}\n{}\n")
    assert of("{}\n{}\n")[1] == 2
    assert of("{}\n") != of("{ }\n")


def test_a_file_that_has_changed_is_another_one(tmp_path: Path) -> None:
    clip = tmp_path / "a.wav"
    clip.write_bytes(b"1")
    corpus = find_corpus(InputsConfig(audio=str(clip)))
    before = corpus.fingerprint()
    clip.write_bytes(b"12")
    assert corpus.fingerprint() != before


def test_what_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no audio"):
        find_corpus(InputsConfig(tensors="x.safetensors"))
    with pytest.raises(AudioError, match=r"does not exist.*\n  in inputs.manifest"):
        find_corpus(InputsConfig(manifest=str(tmp_path / "none.jsonl")))
    with pytest.raises(AudioError, match="No audio file matches"):
        find_corpus(InputsConfig(audio=str(tmp_path / "*.wav")))
