"""A corpus from its configuration to its files: what is found, what is kept, and what goes wrong clip by clip."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from layerdiff import corpus
from layerdiff.config import Config
from layerdiff.corpus.items import find_corpus
from layerdiff.corpus.worker import Worker
from layerdiff.decode.result import DecodeReport
from layerdiff.decode.swaps import component_costs
from layerdiff.errors import ConfigError
from layerdiff.progress import SILENT
from layerdiff.report.decoding import document
from layerdiff.report.decoding_files import write_decoding
from tests.corpus.conftest import AUDIO, Make, manifest_of

Files = dict[str, bytes]


def decode(config: Config) -> tuple[DecodeReport, Files]:
    """The report, and the files of the run directory."""
    report, place = corpus.decode(config, progress=SILENT)
    write_decoding(report, place.rows, config.outputs)
    return report, {path.name: path.read_bytes() for path in Path(config.outputs.dir).iterdir() if path.is_file()}


def rows_of(files: Files, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(files[name].decode().splitlines()))


def test_a_corpus_is_decoded(make: Make) -> None:
    report, files = decode(make())
    tally, reference = report.candidates["float16"].tally, report.reference_tally
    assert (report.status, report.exit_code) == ("pass", 0)
    assert (tally.clips, tally.with_text, reference.clips) == (6, 6, 6)
    assert tally.text_words.length == reference.text_words.length > 15
    assert tally.words.length == reference.text_words.hits + reference.text_words.substitutions + (
        reference.text_words.insertions
    )
    assert sum(reference.durations.values()) == tally.shift.tokens > 40
    assert tally.forced.points > 50
    snr = {name: energy.snr_db for name, energy in tally.signals.items()}
    assert list(snr) == ["mel", "encoder", "logits"]
    assert all(20 < (value or 0) < 100 for value in snr.values())
    clips = rows_of(files, "clips.csv")
    assert [row["clip"] for row in clips] == [f"dev_{k:03d}.opus" for k in range(6)]
    tokens = rows_of(files, "tokens.csv")
    assert sum(row["candidate"] == "" for row in tokens) == sum(reference.durations.values())
    assert all(float(row["end_s"]) >= float(row["start_s"]) for row in tokens)
    assert json.loads(files["decode.json"]) == json.loads(json.dumps(document(report)))


def test_the_same_corpus_gives_the_same_bytes_whatever_the_shards(make: Make, tmp_path: Path) -> None:
    _, ones = decode(make(shard=1, outputs={"dir": str(tmp_path / "one")}))
    _, fives = decode(make(shard=5, outputs={"dir": str(tmp_path / "five")}))
    assert ones == fives


def test_a_finished_shard_is_not_decoded_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    _, before = decode(make())
    (folder,) = (Path(make().outputs.dir) / "shards").iterdir()
    (folder / "000001.json").write_bytes(b"[{")  # damaged
    asked: list[int] = []
    inner = Worker.decode

    def watched(self: Worker, items: Any) -> Any:
        asked.extend(item.index for item in items)
        return inner(self, items)

    monkeypatch.setattr(Worker, "decode", watched)
    _, after = decode(make())
    assert asked == [2, 3]
    assert after == before
    monkeypatch.setattr(Worker, "__init__", None)  # nothing is missing: no model is opened
    assert decode(make())[1] == before


def test_what_the_rows_depend_on_is_decoded_anew(make: Make) -> None:
    decode(make(clips=2))
    folder = Path(make().outputs.dir) / "shards"
    (first,) = folder.iterdir()
    decode(make(clips=2, decode={"max_wer": 0.5}))
    assert list(folder.iterdir()) == [first]  # a limit judges the rows, it doesn't change them
    decode(make(clips=2, decode={"max_symbols": 3}))
    (second,) = folder.iterdir()  # and the old rows are gone
    assert first.name != second.name


def test_kill_at_any_moment_loses_no_finished_shard(make: Make, tmp_path: Path) -> None:
    """A process that is killed with -9 in the middle, and a second one that goes on."""
    _, expected = decode(make(clips=8, shard=1, outputs={"dir": str(tmp_path / "whole")}))
    config = make(clips=8, shard=1)
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(exclude_none=True)))
    command = [sys.executable, "-m", "layerdiff", "decode", str(file), "-q"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()})
    shards = Path(config.outputs.dir) / "shards"
    until = time.monotonic() + 120
    while len(list(shards.glob("*/0*.json"))) < 3 and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in shards.glob("*/0*.json")}
    assert 3 <= len(kept) < 8
    assert not (Path(config.outputs.dir) / "decode.json").exists()
    _, files = decode(config)
    assert files == expected
    again = {path.name: path.stat().st_mtime_ns for path in shards.glob("*/0*.json")}
    assert {name: again[name] for name in kept} == kept


# ------------------------------------------------------------------ what goes wrong


def test_clips_that_cannot_be_decoded_are_rows_and_the_rest_goes_on(make: Make, tmp_path: Path) -> None:
    good = json.loads(manifest_of(tmp_path / "good.jsonl", 1).read_text())
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 16_000)
    (tmp_path / "text.wav").write_text("no audio")
    lines = [
        json.dumps({"audio_filepath": good["audio_filepath"]}),  # without text
        "{broken",
        *(json.dumps({"audio_filepath": str(tmp_path / name)}) for name in ("short.wav", "nothing.wav", "text.wav")),
        json.dumps({"audio_filepath": "missing.wav"}),
        json.dumps(good),
    ]
    manifest = tmp_path / "bad.jsonl"
    manifest.write_text("\n".join(lines))
    report, files = decode(make(inputs={"manifest": str(manifest)}))
    assert (report.status, report.exit_code) == ("unknown", 3)
    tally = report.candidates["float16"].tally
    assert (tally.clips, tally.problems, tally.with_text) == (2, 5, 1)
    assert [problem.index for problem in report.problems] == [1, 2, 3, 4, 5]
    assert [bool(row["problem"]) for row in rows_of(files, "clips.csv")] == [False, *[True] * 5, False]
    first = rows_of(files, "clips.csv")[0]
    assert (first["wer_text"], first["wer"]) == ("", "0.0")  # against the reference only


def test_a_candidate_of_another_vocabulary_is_refused_and_the_others_go_on(
    make: Make, packages: Mapping[str, Any], tmp_path: Path
) -> None:
    wrong = {"coreml": {**packages["float32"], "joint": packages["float32"]["decoder"]}}
    report, _ = decode(make(clips=1, candidates={"wrong": wrong, "good": {"coreml": packages["float32"]}}))
    assert report.candidates["good"].status == "pass"
    assert report.candidates["wrong"].status == "unknown"
    assert "don't fit the vocabulary" in report.candidates["wrong"].reason
    assert report.exit_code == 3


def test_a_clip_that_is_longer_than_the_packages_take(make: Make, tmp_path: Path) -> None:
    """35 s: cut into windows, or, where windows of 60 s are asked for, a problem of that clip alone."""
    samples, rate = soundfile.read(AUDIO / "five_sentences.wav")
    soundfile.write(tmp_path / "long.wav", np.tile(samples, 4)[: 35 * rate], rate)
    inputs = {"audio": [str(tmp_path / "long.wav"), str(AUDIO / "nine_seven_three.wav")]}
    report, files = decode(make(inputs=inputs))
    assert report.exit_code == 0
    assert [row["windows"] for row in rows_of(files, "clips.csv")] == ["2", "1"]
    report, files = decode(make(inputs=inputs, decode={"window_s": 60}))
    first, second = rows_of(files, "clips.csv")
    assert "more than the package takes" in first["problem"]
    assert (second["problem"], second["wer"]) == ("", "0.0")
    assert (report.status, report.exit_code) == ("unknown", 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reference": {"coreml": "x.mlpackage"}, "candidates": {"a": {"coreml": "y.mlpackage"}}}, "Only a NeMo model"),
        ({"candidates": {"a": {"torch": {"joint": "x.pt2"}}}}, "no Core ML package"),
        ({"candidates": {}, "sweep": {}}, "no candidate"),
        ({"inputs": {"tensors": "x.safetensors"}}, "no audio"),
    ],
)
def test_what_cannot_be_decoded_is_refused(make: Make, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        corpus.decode(make(**changes), progress=SILENT)


# ------------------------------------------------------------------ effects


@pytest.fixture
def damaged(packages: Mapping[str, Any], tmp_path: Path) -> Callable[[str, str], str]:
    """A float32 package of the bundled model with noise in its weights."""

    def damage(component: str, name: str) -> str:
        path = tmp_path / name
        shutil.copytree(packages["float32"][component], path)
        file = next(path.rglob("weight.bin"))
        data = np.fromfile(file, np.uint8)
        blobs = blobs_of(data)
        start, size = max(blobs, key=lambda blob: blob[1])
        values = data[start : start + size].view(np.float32)
        values += np.random.default_rng(0).normal(0, 1.2 * values.std(), values.shape).astype(np.float32)
        data.tofile(file)
        return str(path)

    return damage


def blobs_of(data: Any) -> Iterator[tuple[int, int]]:
    """Start and size of the float32 blobs of a weight.bin."""
    place = 64
    while place < len(data):
        _, dtype = data[place : place + 8].view(np.uint32)
        size, start = data[place + 8 : place + 24].view(np.uint64)
        if dtype == 2:
            yield int(start), int(size)
        place = -(-(int(start) + int(size)) // 64) * 64


def test_swaps_single_out_the_damaged_component(
    make: Make, packages: Mapping[str, Any], damaged: Callable[[str, str], str]
) -> None:
    bad = {"coreml": {**packages["float32"], "joint": damaged("joint", "Damaged.mlpackage")}}
    report, _ = decode(make(candidates={"bad": bad}, decode={"swaps": True}))
    found = report.candidates["bad"]
    assert found.status == "fail"
    assert len(found.mixtures) == 15
    costs = component_costs(found.mixtures, report.reference_tally, frame_s=report.frame_s)
    changed = {cost.component: cost.changed_words for cost in costs}
    assert changed["joint"].alone == changed["joint"].share == found.tally.words.errors > 3
    for name in ("preprocessor", "encoder", "decoder"):
        assert (changed[name].alone, changed[name].share) == (0, 0)


def test_long_audio_in_windows_of_either_kind(make: Make, packages: Mapping[str, Any]) -> None:
    """10.7 s in windows of 4 s: the packages do in them what the reference does."""
    inputs = {"audio": [str(AUDIO / "five_sentences.wav")]}
    candidates = {"float32": {"coreml": packages["float32"]}}
    said = {}
    for carry in ("tokens", "state"):
        chosen = {"window_s": 4.0, "overlap_s": 1.0, "carry": carry}
        report, files = decode(make(inputs=inputs, candidates=candidates, decode=chosen))
        (row,) = rows_of(files, "clips.csv")
        assert report.status == "pass"
        assert row["windows"] == "4"
        assert report.candidates["float32"].tally.same_path == 1
        said[carry] = row["reference"].split()
    whole, files = decode(make(inputs=inputs, candidates=candidates))
    expected = rows_of(files, "clips.csv")[0]["reference"].split()
    for words in said.values():
        assert len(set(words) & set(expected)) / len(set(expected)) > 0.8, (words, expected)
    assert whole.status == "pass"


def test_joints_with_a_log_softmax_on_real_audio(make: Make, reference: Any, tmp_path: Path) -> None:
    """What the founding bug does: nothing in float32, and nothing in float16 as long as no probability underflows.

    The second half shifts all duration logits down by the same amount. No decision of the reference changes; but a
    float16 log-softmax over everything has no room for them: all durations are one value, and the first of them wins.
    """
    from layerdiff.config import ConvertConfig
    from layerdiff.convert import build
    from layerdiff.store import Cache

    def joints(folder: str) -> dict[str, Any]:
        cache = Cache(tmp_path / folder)
        return {
            f"{recipe} {precision}": {
                "coreml": {"joint": str(build(reference, "joint", options, cache=cache))}
            }
            for recipe, precision in (("cpu_traced", "float32"), ("cpu_traced", "float16"), ("raw_logits", "float16"))
            for options in [ConvertConfig(recipe=recipe, precision=precision, debug=False)]
        }  # fmt: skip

    report, _ = decode(make(candidates=joints("plain")))
    for found in report.candidates.values():
        assert found.status == "pass"
        assert found.tally.forced.duration_flips == 0
    bias = reference.model.joint.joint_net[-1].bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias[-5:] -= 60.0
    try:
        lowered = make(candidates=joints("lowered"), outputs={"dir": str(tmp_path / "lowered")})
        worker = Worker(lowered, progress=SILENT)
        with torch.no_grad():  # the worker has restored the checkpoint
            worker.models.module.joint.joint_net[-1].bias[-5:] -= 60.0
        rows = worker.decode(list(find_corpus(lowered.inputs).items()))
    finally:
        with torch.no_grad():
            bias.copy_(before)
    total = corpus.counted(rows, lowered.candidates)
    assert total.reference.durations == report.reference_tally.durations
    raw, wide, narrow = (
        total.candidates[name] for name in ("raw_logits float16", "cpu_traced float32", "cpu_traced float16")
    )
    assert raw.forced.duration_flips == wide.forced.duration_flips == 0
    assert narrow.forced.duration_flips > 0.9 * narrow.forced.points
    assert set(narrow.durations) == {0}
    assert narrow.shift.end_frames_abs > 100
    assert narrow.words.errors > 0
