"""`layerdiff fix` as a user runs it: exit codes, what is printed, the Swift file, and what is left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from layerdiff.cli import main
from layerdiff.cli.fix import WAYS
from layerdiff.mil import load
from layerdiff.sources.nemo import NemoSource

ROOT = Path(__file__).parents[2]
SWIFT = 'enum Models {\n    static let joint = "RNNTJoint.mlmodelc"\n}\n'

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, reference: NemoSource) -> None:
    """Packages of their own; the checkpoint that is restored is the session's."""
    monkeypatch.setenv("LAYERDIFF_CACHE", str(tmp_path_factory.getbasetemp() / "fix_cache"))
    monkeypatch.setattr(NemoSource, "open", lambda *_, **__: reference)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command on the shipped configuration of the joint, with its run directory in the test's folder."""
    shipped = yaml.safe_load((ROOT / "configs" / "joint.yaml").read_text())
    shipped["inputs"] = {"audio": str(ROOT / "audio" / "call_peter_on_three_two.wav")}
    shipped["outputs"] = {"dir": str(tmp_path / "out")}
    (tmp_path / "joint.yaml").write_text(yaml.safe_dump(shipped, sort_keys=False))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["fix", "joint.yaml", *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_exit_code_1_becomes_0(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "joint.yaml", "--candidate", "cpu_traced", "--quiet"]) == 1
    code, out, _ = run("--candidate", "cpu_traced")
    assert code == 0
    package = tmp_path / "out" / "RNNTJoint_fixed.mlpackage"
    assert f"✓ cpu_traced is repaired: {package}" in " ".join(out.split())
    assert "✗ fail → ✓ pass" in out
    assert "all durations negative" in out
    assert max(map(len, out.splitlines()[:-3])) <= 100
    # the configuration with the repaired package in place of the old one
    config = yaml.safe_load(Path("joint.yaml").read_text())
    config["candidates"] = {"cpu_traced": {"coreml": str(package)}}
    Path("again.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert main(["run", "again.yaml", "--quiet"]) == 0
    capsys.readouterr()
    # a second time it is refused, and the package stays as it is
    before = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    code, out, err = run("--candidate", "cpu_traced")
    assert (code, out) == (2, "")
    assert "exists already" in err
    assert {path: path.read_bytes() for path in package.rglob("*") if path.is_file()} == before


def test_json(run: Run) -> None:
    code, out, _ = run("--json")
    found = json.loads(out)
    assert code == 0
    assert found["schema"] == 1
    assert (found["before"]["status"], found["after"]["status"]) == ("fail", "pass")
    assert found["attempts"][0]["way"] == "raw_logits"
    assert found["after"]["description"]["packages"]["joint"] == found["package"]
    assert set(found["before"]["stages"][0]) == set(found["after"]["stages"][0])


def test_quiet_prints_the_package_alone(run: Run) -> None:
    code, out, err = run("--quiet", "--way", "separate_heads")
    assert (code, err) == (0, "")
    assert list(load(out.strip()).outputs)[-2:] == ["vocab_logits", "duration_logits"]


def test_nothing_to_repair(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("--candidate", "raw_logits")
    assert code == 0
    assert out.splitlines()[-1] == "nothing fails, so there is nothing to repair"
    assert not (tmp_path / "out").exists()


def test_the_swift_file_changes_with_yes_alone(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "AsrModels.swift"
    file.write_text(SWIFT)
    code, _, err = run("--candidate", "cpu_traced", "--swift", str(file))
    assert code == 0
    assert '+    static let joint = "RNNTJoint_fixed.mlmodelc"' in err
    assert "nobody is there to ask" in err
    assert file.read_text() == SWIFT


def test_yes_changes_it(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "AsrModels.swift"
    file.write_text(SWIFT)
    code, _, err = run("--candidate", "cpu_traced", "--swift", str(file), "--yes")
    assert code == 0
    assert "names RNNTJoint_fixed now" in err
    assert file.read_text() == SWIFT.replace("RNNTJoint", "RNNTJoint_fixed")


@pytest.mark.parametrize(("answer", "is_changed"), [("y\n", True), ("\n", False)])
def test_on_a_terminal_it_asks(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, is_changed: bool
) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(answer))
    file = tmp_path / "AsrModels.swift"
    file.write_text(SWIFT)
    code, _, err = run("--candidate", "cpu_traced", "--swift", str(file))
    assert code == 0
    assert f"Change '{file}'? [y/N]" in err
    assert (file.read_text() != SWIFT) == is_changed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--candidate", "other"), "There is no candidate 'other'"),
        (("--way", "magic"), "There is no way 'magic'"),
        (("--swift", "a.swift"), "--swift needs to know which package is repaired"),
        (("--candidate", "cpu_traced", "--swift", "absent.swift"), "'absent.swift' can't be read"),
    ],
)
def test_refusals(run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_the_help_lists_the_ways_that_there_are() -> None:
    from layerdiff import fix

    assert tuple(fix.WAYS) == WAYS
