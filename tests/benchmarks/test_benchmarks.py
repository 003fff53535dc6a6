"""The pure parts of the benchmarks; nothing here is timed."""

import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import measure, memory, metrics, startup, table
from benchmarks.measure import Measurement

ROOT = Path(__file__).parents[2]
LINE = Measurement("metrics", "fused", 0.012, "s", 0.011, "naive", 8.25, 9.0, "≥ 5×", True)


def test_runs_take_turns_after_one_uncounted_round():
    order = []
    spent = measure.in_turn({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3)
    assert order == list("ab" * 4)
    assert {name: len(values) for name, values in spent.items()} == {"a": 3, "b": 3}


def test_ratios_pair_neighbouring_runs():
    assert measure.ratios([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == (3.0, 2.0)


def test_table_has_a_cell_for_every_column():
    assert len(table.cells(LINE)) == len(table.COLUMNS)
    shown = io.StringIO()
    Console(width=80, file=shown).print(table.table([LINE]))
    assert all(part in shown.getvalue() for part in ("12.0 ms (11.0 ms)", "8.25× (9.00×)", "≥ 5× ok"))


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1.234, "s", "1.23 s"),
        (0.5, "s", "500.0 ms"),
        (3 * 2**20, "bytes", "3 MiB"),
        (6.1234, "ns", "6.12 ns"),
    ],
)
def test_quantities_are_written_with_their_unit(value, unit, expected):
    assert table.quantity(value, unit) == expected


def test_json_holds_every_field():
    written = json.loads(json.dumps(table.as_json([LINE], environment={"python": "3"})))
    assert written["measurements"][0]["ratio"] == 8.25
    assert Measurement(**written["measurements"][0]) == LINE


def test_heavy_imports_are_read_from_a_real_trace():
    assert startup.heavy_imports(startup.call([sys.executable, "-X", "importtime", "-c", "import numpy"])) == ["numpy"]
    assert startup.heavy_imports(startup.call([sys.executable, "-X", "importtime", "-c", "import json"])) == []


def test_all_three_metric_runs_see_the_same_tensors():
    reference, candidate = (side[:4, :300] for side in metrics.tensors())
    runs = metrics.runs(reference, candidate)
    fused, naive = runs["fused"](), runs["naive"]()
    assert fused == pytest.approx(naive, rel=1e-12)
    assert 0 < fused["mismatch_ratio"] < 1
    assert runs["read"]() == (reference.max(), candidate.max())
    assert reference.dtype == candidate.dtype == np.float32


def test_every_memory_run_has_the_longest_clip(tmp_path):
    for name, size in zip("abcde", (10, 20, 90, 30, 40), strict=True):
        (tmp_path / f"{name}.wav").write_bytes(bytes(size))
    clips = memory.chosen(sorted(tmp_path.glob("*.wav")))
    assert [clip.name for clip in clips] == ["c.wav", "a.wav", "b.wav", "d.wav"]
    spread = memory.spread(clips, tmp_path / "copies", copies=3)
    sizes = [path.stat().st_size for path in sorted(spread.iterdir())]
    assert sizes == list(itertools.chain([10, 20, 90, 30] * 3))


def test_too_few_clips_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="holds 0 clips"):
        memory.chosen([])


def test_peak_is_read_in_bytes():
    assert memory.status_peak_bytes("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n") == 2 * 2**20
    code = "from benchmarks.memory import own_peak_bytes as p; a = p(); x = b'x' * 10**8; print(p() - a)"
    grown = int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    )
    assert 0.9e8 < grown < 2e8


def test_unknown_benchmarks_are_refused_with_the_known_ones():
    assert command.chosen(None) == list(command.BENCHMARKS)
    assert command.chosen(["memory"]) == ["memory"]
    with pytest.raises(typer.BadParameter, match="'speed' is not a benchmark; known: help, metrics, engine"):
        command.chosen(["speed"])


def test_manifests_repeat_the_corpus_with_the_longest_clip_first(tmp_path, monkeypatch):
    from benchmarks import decode

    monkeypatch.chdir(ROOT)
    lines = [json.loads(line) for line in Path(decode.write_manifest(tmp_path, 450)).read_text().splitlines()]
    assert len(lines) == 450
    assert lines[0]["duration"] == max(line["duration"] for line in lines)
    assert lines[0] == lines[200] == lines[400]
    assert all(Path(line["audio_filepath"]).is_file() for line in lines[:200])
