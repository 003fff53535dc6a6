"""The command line: exit codes, one message per fault, nothing heavy before it is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import typer
from safetensors.numpy import save_file

import layerdiff
from layerdiff import cli
from layerdiff.errors import PackageError

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "nemo", "coremltools", "pandas")

CONFIG = """\
reference: {nemo: parakeet-tdt-mini}
candidates: {existing: {coreml: joint.mlpackage}}
inputs: {audio: nothing-*.wav}
"""


def layerdiff_process(*arguments: str, cwd: Path | None = None, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "layerdiff", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", cwd=cwd, env=environment, check=False, timeout=120
    )


def refused(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said on stderr when a request is refused; nothing may be said on stdout."""
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err


# ------------------------------------------------------------------ without a run


def test_help_imports_nothing_heavy_and_lists_the_commands() -> None:
    code = (
        "import sys; from layerdiff import cli; code = cli.main(['--help']); "
        f"print(code, sorted(set(sys.modules) & set({HEAVY!r})), 'pydantic' in sys.modules, 'rich' in sys.modules)"
    )
    done = layerdiff_process(code=code)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "0 [] False False"
    for word in ("run", "convert", "--version", "Exit codes"):
        assert word in done.stdout


def test_every_public_name_is_found_and_the_package_itself_is_light() -> None:
    code = f"import sys, layerdiff; print(dir(layerdiff), sorted(set(sys.modules) & set({HEAVY!r})))"
    done = layerdiff_process(code=code)
    assert done.stdout.endswith(" []\n")
    for name in layerdiff.__all__:
        assert repr(name) in done.stdout
        assert getattr(layerdiff, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = layerdiff.nothing


def test_the_versions_that_matter_are_shown_and_nothing_heavy_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    done = layerdiff_process("--version")
    assert done.returncode == 0
    versions = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert list(versions)[:2] == ["layerdiff", "python"]
    assert versions["layerdiff"] == project["version"]
    assert versions["numpy"] == np.__version__
    assert {"torch", "coremltools", "nemo_toolkit", "system", "machine"} <= set(versions)


PRESENTATION = {"all", "debug", "failed", "help", "json", "no_color", "quiet", "top"}
"""How a result is shown: nothing that a configuration says."""
OF_FILES = {"force", "junit", "out", "update", "baseline", "yes", "swift"}
"""Where else something is written, and whether it may replace what is there."""
WITHOUT_CONFIGURATION = {
    "expose": {"chunk", "function", "stages"},
    "exec": {"m"},
    "explain": {"range"},
    "inspect": {"weights"},
    "capture": {"side"},
    "check": {"no_decode"},
    "fix": {"way"},
}
"""Command → options of what has no key, as the command takes no configuration or does what `run` doesn't."""
PLURAL = {"candidate": "candidates"}


def keys_of(section: type) -> set[str]:
    """Every key of a configuration, whatever section it is in."""
    found: set[str] = set()
    for name, entry in section.model_fields.items():  # type: ignore[attr-defined]
        found.add(name)
        parts = [entry.annotation, *get_args(entry.annotation)]
        parts += [inner for part in parts for inner in get_args(part)]
        for part in parts:
            if isinstance(part, type) and hasattr(part, "model_fields"):
                found |= keys_of(part)
    return found


def test_every_option_has_the_name_of_its_key() -> None:
    from layerdiff.config import Config

    keys = keys_of(Config)
    group: Any = typer.main.get_command(cli.app)
    for command, entry in group.commands.items():
        options = {option.name for option in entry.params if option.param_type_name == "option"}
        spelled = {text.lstrip("-").replace("-", "_") for option in entry.params for text in option.opts}
        known = keys | PRESENTATION | OF_FILES | WITHOUT_CONFIGURATION.get(command, set())
        assert {PLURAL.get(name, name) for name in options & spelled} <= known, command


def test_every_command_can_be_told_to_show_what_others_print() -> None:
    group: Any = typer.main.get_command(cli.app)
    for command, entry in group.commands.items():
        assert "debug" in {option.name for option in entry.params}, command
    assert {"--install-completion", "--show-completion"} <= {text for option in group.params for text in option.opts}


@pytest.mark.parametrize("command", [("--help",), ("run", "--help"), ("convert", "-h")])
def test_help_is_no_error(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command) == 0
    assert "Usage: layerdiff" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("rum",), "rum"),
        (("run",), "CONFIG"),
        (("run", "a.yaml", "--pionts", "path"), "--pionts"),
        (("run", "a.yaml", "b.yaml"), "b.yaml"),
        (("--nothing",), "--nothing"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert word in refused(*arguments, capsys=capsys)


# ------------------------------------------------------------------ refusals


def test_a_missing_configuration_is_one_message_in_the_house_form(tmp_path: Path) -> None:
    (tmp_path / "joint.yaml").write_text(CONFIG)
    done = layerdiff_process("run", "jiont.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "ConfigError: There is no configuration 'jiont.yaml'.",
        "  configurations in .: joint.yaml — did you mean 'joint.yaml'?",
        "  Give a YAML file.",
    ]


@pytest.mark.parametrize("command", ["run", "convert"])
def test_faults_of_the_configuration_and_of_options(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.replace("inputs", "inpust"))
    assert "ConfigError: There is no key 'inpust' here.\n  in " in refused(command, str(path), capsys=capsys)
    path.write_text(CONFIG)
    message = refused(command, str(path), "--candidate", "exsiting", capsys=capsys)
    assert "did you mean 'existing'?" in message


def test_converting_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    message = refused("convert", str(tmp_path / "c.yaml"), capsys=capsys)
    assert "No candidate of the configuration is to be converted." in message
    assert "candidates: existing" in message


def test_a_run_directory_that_cannot_be_written_is_found_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    message = refused("run", str(tmp_path / "c.yaml"), "--dir", str(tmp_path / "c.yaml" / "x"), capsys=capsys)
    assert message.startswith("OutputError: The run directory ")


def test_the_traceback_is_shown_with_debug_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--debug", "run"), ("run", "--debug")):
        assert cli.main([*arguments, str(tmp_path / "no.yaml")]) == 2
        said = capsys.readouterr().err
        assert "Traceback (most recent call last)" in said
        assert "ConfigError: There is no configuration" in said.splitlines()[-2]


# ------------------------------------------------------------------ whole runs

RUN = """\
reference: {{nemo: parakeet-tdt-mini, component: {component}}}
candidates: {candidates}
inputs: {{tensors: joint.safetensors}}
stages: {{{stages} logits: {{reference: joint.joint_net.2, candidate: logits}}}}
"""
BUILT = "{cpu_traced: {convert: {recipe: cpu_traced}}, raw_logits: {convert: {precision: float32}}}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a tensor file and a configuration of two conversions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAYERDIFF_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    shapes = {"encoder": (5, 96, 1), "decoder": (5, 64, 1)}
    feed = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(feed, tmp_path / "joint.safetensors")
    (tmp_path / "c.yaml").write_text(RUN.format(component="joint", candidates=BUILT, stages=""))
    return tmp_path


def test_runs_end_with_the_code_of_their_result_and_leave_their_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "c.yaml"]) == 1
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines()[-2].startswith("✗ cpu_traced fails first at logits (log_softmax_baked)")
    written = folder / "outputs" / "c"
    assert {path.name for path in written.iterdir()} == {
        *("report.json", "stages.csv", "report.md", "report.html", "junit.xml", "run.json", "manifest.json")
    }
    manifest = json.loads((written / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["seeds"] == {"dither": [0, 1, 2]}
    assert list(manifest["inputs"]) == ["joint.safetensors"]
    assert cli.main(["run", "c.yaml", "--candidate", "raw_logits", "--json", "--dir", "right"]) == 0
    report = capsys.readouterr().out
    assert report == (folder / "right" / "report.json").read_text(encoding="utf-8")
    assert list(json.loads(report)["candidates"]) == ["raw_logits"]


def test_what_could_not_be_compared_is_no_pass(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", "c.yaml", "--candidate", "raw_logits"]) == 0
    name, component, package = capsys.readouterr().out.rstrip("\n").split("\t")
    assert (name, component) == ("raw_logits", "joint")
    candidates = f"{{part: {{coreml: {{joint: {package}}}}}}}"
    stages = "encoder: {reference: encoder, candidate: encoder},"
    (folder / "c.yaml").write_text(RUN.format(component="whole", candidates=candidates, stages=stages))
    assert cli.main(["run", "c.yaml", "--quiet"]) == 3
    assert capsys.readouterr().out == "? part unknown: 1 stage could not be compared\n"


# ------------------------------------------------------------------ ends


def fail_with(error: BaseException) -> int:
    raise error


def test_errors_become_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.exit_code(lambda: 3) == 3
    assert cli.exit_code(lambda: fail_with(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "Interrupted; converted packages and the files of earlier runs are kept.\n"
    assert cli.exit_code(lambda: fail_with(PackageError("A 'x'\x1b[2J.", where="y"))) == 2
    assert capsys.readouterr().err == "PackageError: A 'x'[2J.\n  in y\n"
    assert cli.exit_code(lambda: fail_with(ZeroDivisionError("a\nb"))) == 2
    said = capsys.readouterr().err
    assert said.startswith("InternalError: layerdiff itself failed (ZeroDivisionError: a b); please report it")
    assert said.count("\n") == 1


def test_a_reader_that_leaves_ends_the_output_without_a_word() -> None:
    code = (
        "import sys\n"
        "from layerdiff import cli\n"
        "from layerdiff.records import Report\n"
        "def action():\n"
        "    report = Report('fail', {str(n): 'x' * 50 for n in range(20000)}, {}, {}, {})\n"
        "    with cli.tolerant_of_closed_pipe():\n"
        "        cli.show(report, (), color=True, quiet=False, as_json={as_json})\n"
        "    return 1\n"
        "sys.exit(cli.exit_code(action))\n"
    )
    for as_json in (False, True):
        command = [sys.executable, "-c", code.replace("{as_json}", str(as_json))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(timeout=60) == 1


def test_json_is_valid_in_every_encoding() -> None:
    code = (
        "from layerdiff import cli; from layerdiff.records import Report; "
        "cli.show(Report('pass', {'é': '✓'}, {}, {}, {}), (), color=False, quiet=False, as_json=True)"
    )
    for encoding in ("ascii", "utf-8"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
        assert json.loads(done.stdout.decode(encoding))["environment"] == {"é": "✓"}
