"""`layerdiff capture`: record each side on a machine of its own, compare the recordings on a third one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from layerdiff import quiet
from layerdiff.cli import main
from layerdiff.sources.recorded import RecordedSource
from tests.align.networks import convert

NETWORK = """
import time
import torch

SECONDS = 0.0

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(6))

    def forward(self, x):
        for layer in self.layers:
            time.sleep(SECONDS)
            x = torch.tanh(layer(x))
        return x

def make():
    return Net().eval()

class Slow(Net):
    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
            with open("layers.txt", "a") as file:
                file.write("layer ")
            time.sleep(0.7)
        return x

def slow():
    return Slow().eval()
"""

CONFIG = """
reference: {torch: "capture_network:make"}
candidates: {converted: {coreml: net.mlpackage}}
inputs: {tensors: x.safetensors}
outputs: {dir: direct}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "capture_network.py").write_text(NETWORK)
    (tmp_path / "net.yaml").write_text(CONFIG)
    (tmp_path / "slow.yaml").write_text(CONFIG.replace(":make", ":slow"))
    x = np.random.default_rng(0).standard_normal((1, 12, 8)).astype(np.float32)
    save_file({"x": x}, tmp_path / "x.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "capture_network", raising=False)
    with quiet.third_party():
        import capture_network  # type: ignore[import-not-found]

        convert(capture_network.make(), {"x": x}, tmp_path / "net.mlpackage")
    return tmp_path


def rows(folder: str) -> list[dict[str, Any]]:
    report = json.loads(Path(folder, "report.json").read_text())
    (candidate,) = report["candidates"].values()
    return list(candidate["stages"])


def test_what_is_recorded_on_two_machines_compares_as_it_would_on_one(folder: Path) -> None:
    """The total errors are the same to the last bit; what only a package can tell is left out."""
    assert main(["capture", "net.yaml", "-o", "reference.trace", "-q"]) == 0
    assert main(["capture", "net.yaml", "--side", "converted", "-o", "converted.trace", "-q"]) == 0
    traces = "reference: {trace: reference.trace}\ncandidates: {c: {trace: converted.trace}}\noutputs: {dir: traced}\n"
    (folder / "traces.yaml").write_text(traces)
    assert main(["run", "net.yaml", "-q"]) == 0
    assert main(["run", "traces.yaml", "-q"]) == 0
    direct, traced = rows("direct"), rows("traced")
    assert [row["name"] for row in traced] == [row["name"] for row in direct]
    assert len(traced) == 12
    for one, other in zip(direct, traced, strict=True):
        assert one["metrics"] == other["metrics"]
        assert one["reference"]["max"] == other["reference"]["max"]
        assert one["own_error"] is not None
        assert other["own_error"] is None


def test_the_place_of_the_trace_is_printed_and_named_after_the_side(folder: Path, capsys: Any) -> None:
    assert main(["capture", "net.yaml", "--side", "converted"]) == 0
    assert capsys.readouterr().out == "converted.trace\n"
    assert main(["inspect", "converted.trace", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["facts"]["state"], found["facts"]["calls"]) == ("recorded trace", "complete", 1)


def test_only_what_is_asked_for_is_recorded(folder: Path) -> None:
    assert main(["capture", "net.yaml", "--tensors", "layers.2", "--tensors", "/tanh_5", "-q"]) == 0
    trace = RecordedSource.open(Path("reference.trace"))
    ((_, feed),) = trace.feeds()
    assert [name for name, _ in trace.trace(feed)] == ["layers.2", "/tanh_5"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--side", "convertd"), "there is no side 'convertd'."),
        (("--component", "encoder"), "there is no component 'encoder'"),
        (("--tensors", "layers.9"), "'layers.9'"),
        (("-o", "x.safetensors"), "x.safetensors"),
    ],
)
def test_what_cannot_be_recorded_is_refused(options: tuple[str, str], said: str, folder: Path, capsys: Any) -> None:
    before = {path.name for path in folder.iterdir()}
    assert main(["capture", "net.yaml", *options]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == before - {"__pycache__"}


def test_an_interruption_leaves_a_partial_trace_that_says_so_and_can_be_compared(folder: Path, capsys: Any) -> None:
    """A real Ctrl-C, in a process of its own, after the second layer of what is recorded."""
    command = [sys.executable, "-m", "layerdiff", "capture", "slow.yaml", "-o", "slow.trace"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).parents[2])])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        _wait_for_layers(process, 6 + 2)  # a first run finds out the structure
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"what was recorded is kept in 'slow.trace', a partial trace" in said
    assert main(["inspect", "slow.trace"]) == 0
    assert "state partial: 0 complete calls, and the call 'x.safetensors' up to its tensor" in capsys.readouterr().out
    (folder / "partial.yaml").write_text(
        "reference: {trace: slow.trace}\ncandidates: {c: {coreml: net.mlpackage}}\noutputs: {dir: partial}\n"
    )
    assert main(["run", "partial.yaml", "-q"]) == 3
    statuses = [row["status"] for row in rows("partial")]
    assert statuses[0] == "pass"
    assert set(statuses) == {"pass", "unknown"}
    assert 2 <= statuses.count("pass") < 12
    missing = "nothing was captured; the reference is partial: 0 complete calls, and the call 'x.safetensors' up to"
    assert all(row["reason"].startswith(missing) for row in rows("partial") if row["status"] == "unknown")


def _wait_for_layers(process: subprocess.Popen[bytes], count: int) -> None:
    """Until the module has noted so many times that it has run a layer."""
    noted, end = Path("layers.txt"), time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        if noted.exists() and len(noted.read_text().split()) >= count:
            return
        time.sleep(0.05)
    pytest.fail("the module did not get so far")
