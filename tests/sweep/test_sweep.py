from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from layerdiff import config, sweep
from layerdiff.config import Config
from layerdiff.decode.parts import TransducerParts
from layerdiff.decode.result import CandidateDecoding, DecodeReport
from layerdiff.decode.signals import Energy
from layerdiff.decode.tally import Tally
from layerdiff.decode.variants import SweepReport, Variant, front
from layerdiff.decode.words import Edits
from layerdiff.errors import ConfigError
from layerdiff.progress import SILENT
from layerdiff.report import terminal
from layerdiff.report.sweep import plot, render, write_sweep
from tests.corpus.conftest import manifest_of

if TYPE_CHECKING:
    from layerdiff.corpus.shards import Checkpoints


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Packages are converted for these tests, not found in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def made(folder: Path, entry: dict[str, Any], **changes: Any) -> Config:
    values = {
        "reference": {"nemo": "parakeet-tdt-mini", "component": "whole"},
        "inputs": {"manifest": str(manifest_of(folder / "clips.jsonl", 6))},
        "sweep": entry,
        "outputs": {"dir": str(folder / "out")},
    }
    return config.from_mapping(values | changes)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepReport, Checkpoints, Config]:
    """The decoder and the joint with three kinds of weights, one of which the target can't read."""
    entry = {"components": ["decoder", "joint"], "weights": ["full", "palette_2", "int4"]}
    of = made(tmp_path_factory.mktemp("sweep"), entry)
    report, place = sweep.execute(of, progress=SILENT)
    assert place is not None
    return report, place, of


def test_one_failed_variant_does_not_stop_the_rest(swept: Any) -> None:
    report, _, _ = swept
    assert [variant.name for variant in report.variants] == ["full", "palette_2", "int4"]
    assert "need iOS18" in report.variants[2].problem
    assert report.exit_code == 3
    full, small = (report.decoded(variant) for variant in report.variants[:2])
    assert full is not None
    assert small is not None
    assert (full.tally.clips, small.tally.clips) == (6, 6)
    assert list(full.tally.signals) == ["logits"]  # mel and encoder are the reference's
    quality = [found.tally.signals["logits"].snr_db or 0 for found in (full, small)]
    assert quality[0] > 50 > quality[1]
    assert report.variants[1].size_bytes < 0.35 * report.variants[0].size_bytes


def test_the_files_of_a_sweep(swept: Any, tmp_path: Path) -> None:
    report, _, of = swept
    files = write_sweep(report, of.outputs)
    assert [path.name for path in files] == ["sweep.csv", "sweep.json", "sweep.svg"]
    rows = list(csv.DictReader(files[0].read_text().splitlines()))
    assert [row["variant"] for row in rows] == ["full", "palette_2", "int4"]
    assert [row["front_snr_db"] for row in rows] == ["true", "true", "false"]
    assert rows[2]["snr_db"] == ""
    assert "iOS18" in rows[2]["problem"]
    found = json.loads(files[1].read_text())
    assert found["exit_code"] == 3
    assert found["fronts"]["snr_db"] == ["palette_2", "full"]
    assert found["variants"]["full"]["decoded"]["counts"]["clips"] == 6
    tree = ET.fromstring(files[2].read_text())
    texts = {element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {"full", "palette_2", "size, MB"} <= texts
    assert plot(report) == files[2].read_bytes()  # the same bytes every time


def test_the_table_fits_eighty_columns(swept: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    render(swept[0], terminal.console_for(sys.stdout, width=80))
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "palette_2" in said
    assert "? int4" in said


def test_the_reference_hears_every_clip_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []

    def counting(self: TransducerParts, frames: Any, alphabet: Any) -> Any:
        heard.append(len(frames))
        return before(self, frames, alphabet)

    before = TransducerParts.search
    monkeypatch.setattr(TransducerParts, "search", counting)
    entry = {"components": ["joint"], "weights": ["full", "int8", "palette_8", "palette_6"]}
    report, _ = sweep.execute(made(tmp_path, entry), progress=SILENT)
    assert report.exit_code == 0
    assert len(heard) == 6 * (1 + 4)


def test_a_second_run_decodes_nothing(swept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from layerdiff.corpus.worker import Worker

    monkeypatch.setattr(Worker, "__init__", None)
    report, _ = sweep.execute(swept[2], progress=SILENT)
    assert report.variants == swept[0].variants


def test_the_matrix_and_its_names() -> None:
    entry = config.SweepConfig(
        precision=["float32", "float16"], weights=["int8", "full"], float32_ops=[[], ["softmax", "relu"]]
    )
    names = [name for name, _ in sweep.settings_of(entry)]
    assert len(set(names)) == len(names) == 8
    assert names[:2] == ["float32 int8 no float32 ops", "float32 int8 softmax+relu"]
    (single,) = sweep.settings_of(config.SweepConfig())
    assert single[0] == "full"


def test_fronts_by_hand() -> None:
    def entry(name: str, size: int, snr: int, wrong: int) -> tuple[Variant, CandidateDecoding]:
        tally = Tally(
            clips=1,
            with_text=1,
            text_words=Edits(hits=100 - wrong, substitutions=wrong),
            signals={"logits": Energy(1, 0, 10**snr << 1126, 1 << 1126)},
        )
        return Variant(name, {}, size_bytes=size), CandidateDecoding(name, "pass", "", tally)

    pairs = [entry("a", 10, 3, 9), entry("b", 10, 4, 9), entry("c", 20, 2, 5), entry("d", 30, 9, 5)]
    decoding = DecodeReport("pass", {}, {}, Tally(clips=1), 16_000, 0.08, 0, {c.name: c for _, c in pairs})
    report = SweepReport(tuple(variant for variant, _ in pairs), decoding)
    assert front(report, "snr_db") == ("b", "d")
    assert front(report, "wer") == ("a", "c")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sweep": None, "candidates": {"a": {"convert": {}}}}, "has no sweep"),
        ({"sweep": {"weights": []}}, "has no weights"),
        ({"sweep": {"weights": ["int8", "int8"]}}, "has a weights twice"),
        ({"sweep": {"weights": ["int9"]}}, "int9"),
        ({"sweep": {"components": ["encoder"]}, "reference": {"nemo": "parakeet-tdt-mini"}}, "only the joint"),
    ],
)
def test_what_is_refused(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    def ask() -> None:
        of = made(tmp_path, {}, **values)
        sweep.required(of)
        sweep.components_of(of)

    with pytest.raises(ConfigError, match=said):
        ask()
