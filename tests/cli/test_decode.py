"""`decode`, `sweep` and `check` as a user calls them: output at 80 columns, files, exit codes, messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from layerdiff import cli
from tests.corpus.conftest import manifest_of


@pytest.fixture(autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERDIFF_CACHE", str(tmp_path_factory.getbasetemp() / "decode_cache"))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes a configuration of the joint; returns its path."""

    def write(**changes: Any) -> str:
        values = {
            "reference": {"nemo": "parakeet-tdt-mini", "component": "joint"},
            "candidates": {
                "sound": {"convert": {"precision": "float16"}},
                "coarse": {"convert": {"weights": "pruned_75"}},
            },
            "inputs": {"manifest": str(manifest_of(tmp_path / "clips.jsonl", 4))},
            "outputs": {"dir": str(tmp_path / "out")},
        }
        file = tmp_path / "it.yaml"
        file.write_text(yaml.safe_dump({k: v for k, v in (values | changes).items() if v is not None}))
        return str(file)

    return write


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_decode(written: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("decode", written(), "--swaps", "--lengths", "1", capsys=capsys)
    assert code == 1
    for word in (
        "WER text",
        "duration",
        "component",
        "forced",
        "first",
        "[-",
        "{+",
        "lengths",
        "✗ coarse:",
        "✓ sound:",
    ):
        assert word in out, word
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"shards", "clips.csv", "tokens.csv", "decode.json"}
    code, out, _ = run("decode", written(), "--candidate", "sound", "--json", capsys=capsys)
    assert code == 0
    found = json.loads(out)
    assert found["status"] == "pass"
    assert list(found["candidates"]) == ["sound"]
    assert found["inputs"]["clips"] == 4
    code, out, _ = run("decode", written(), "--candidate", "sound", "-q", capsys=capsys)
    assert (code, out) == (0, "✓ sound: every decision in every clip is the reference's\n")


def test_eighty_columns(written: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from layerdiff.report import terminal

    monkeypatch.setattr(terminal, "PIPE_WIDTH", 80)
    _, out, _ = run("decode", written(), "--candidate", "coarse", capsys=capsys)
    assert max(map(len, out.splitlines())) <= 80


def test_a_clip_that_is_not_there(written: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "clips.jsonl"
    config = written(candidates={"sound": {"convert": {"precision": "float16"}}})
    manifest.write_text(manifest.read_text() + '{"audio_filepath": "missing.wav"}\n')
    code, out, _ = run("decode", config, capsys=capsys)
    assert code == 3
    assert "not decoded" in out
    assert "missing.wav' does not exist" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("decode", "{config}", "--workers", "2"), "There are workers, but nothing that runs them"),
        (("decode", "{config}", "--ray", "127.0.0.1:1"), "there is no Ray cluster at '127.0.0.1:1'"),
        (("decode", "{config}", "--manifest", "none.jsonl"), "'none.jsonl' does not exist"),
        (("sweep", "{config}"), "The configuration has no sweep"),
        (("check", "{config}", "--baseline", "none.json"), "The baseline 'none.json' cannot be read"),
    ],
)
def test_refused_with_one_message(
    written: Any, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written()
    code, out, err = run(*(word.format(config=config) for word in arguments), capsys=capsys)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_a_sweep_without_candidates(written: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(candidates=None, sweep={"weights": ["full", "palette_2"]})
    code, out, _ = run("sweep", config, capsys=capsys)
    assert code == 0
    assert "palette_2" in out
    assert (tmp_path / "out" / "sweep.svg").stat().st_size > 1000
    code, out, _ = run("sweep", config, "--json", capsys=capsys)
    assert (code, list(json.loads(out)["variants"])) == (0, ["full", "palette_2"])
    code, _, err = run("run", config, capsys=capsys)
    assert code == 2
    assert "The configuration has no candidate" in err


def test_check(written: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, baseline, junit = written(), str(tmp_path / "b.json"), tmp_path / "j.xml"
    code, out, _ = run("check", config, "--baseline", baseline, "--update", capsys=capsys)
    assert code == 0
    assert "numbers of 2 candidates" in out
    code, out, _ = run("check", config, "--baseline", baseline, "--junit", str(junit), capsys=capsys)
    assert code == 0
    assert "0 regressions" in out
    assert 'failures="0"' in junit.read_text()
    found = json.loads(Path(baseline).read_text())
    found["candidates"]["coarse"]["decode"]["flips"] = 0.0
    Path(baseline).write_text(json.dumps(found))
    code, out, _ = run("check", config, "--baseline", baseline, "--candidate", "coarse", capsys=capsys)
    assert code == 1
    assert "✗ regression: coarse, decode: flips 0 →" in out
    code, out, _ = run("check", config, "--baseline", baseline, "--candidate", "coarse", "--no-decode", capsys=capsys)
    assert code == 3  # what the baseline has was not compared
