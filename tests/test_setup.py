"""The two commands of the README on a fresh clone: what is pinned, when `.venv` is made, and what the wheel holds."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements_of_the_project() -> list[Requirement]:
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in PROJECT["dependencies"] + extras]


def pins() -> dict[str, Requirement]:
    """Name → its line of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len({canonicalize_name(pin.name) for pin in found}) == len(found), "constraints.txt names a package twice"
    return {canonicalize_name(pin.name): pin for pin in found}


PINS = pins()


# ------------------------------------------------------------------ versions


@pytest.mark.parametrize("requirement", requirements_of_the_project(), ids=str)
def test_every_requirement_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    pin = PINS[canonicalize_name(requirement.name)]
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    assert requirement.specifier.contains(specifier.version)


def test_pins_are_exact_and_without_local_versions() -> None:
    inexact = [str(pin) for pin in PINS.values() if not re.fullmatch(r"==[\w.]+", str(pin.specifier))]
    assert not inexact


def installed_closure() -> set[str]:
    """What `pip install layerdiff[nemo,dev]` leads to here, followed through the installed metadata."""
    extras = PROJECT["optional-dependencies"]
    waiting = [Requirement(line) for line in PROJECT["dependencies"] + extras["nemo"] + extras["dev"]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        for line in requires(requirement.name) or []:
            needed = Requirement(line)
            if any(needed.marker is None or needed.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                waiting.append(needed)
    return {name for name, _ in seen}


def test_everything_that_is_installed_is_pinned_to_what_the_tests_run_with() -> None:
    closure = installed_closure()
    assert {"torch", "nemo-toolkit", "coremltools", "lhotse"} <= closure
    unpinned = sorted(closure - set(PINS))
    assert not unpinned, f"constraints.txt lacks {', '.join(unpinned)}"
    other = [
        f"{PINS[name]} but {version(name)} is installed" for name in sorted(closure) if not is_pinned_version(name)
    ]
    assert not other


def is_pinned_version(name: str) -> bool:
    return PINS[name].specifier.contains(version(name).partition("+")[0], prereleases=True)


def test_every_import_is_declared() -> None:
    """A package that merely happens to be installed must not be imported."""
    declared = {canonicalize_name(requirement.name) for requirement in requirements_of_the_project()}
    owners = packages_distributions()
    undeclared = set()
    for path in (ROOT / "layerdiff").rglob("*.py"):
        for name in third_party_imports(path):
            if not {canonicalize_name(owner) for owner in owners.get(name, [name])} & (declared | BROUGHT_BY):
                undeclared.add(f"{path.relative_to(ROOT)}: {name}")
    assert not undeclared


BROUGHT_BY = {"markupsafe", "protobuf", "omegaconf", "pydantic-core"}
"""Imported though not declared: their version is a matter of jinja2, coremltools, nemo_toolkit and pydantic."""


def third_party_imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return {name for name in names if name not in sys.stdlib_module_names and name != "layerdiff"}


def test_no_file_names_a_package_index() -> None:
    hosts = re.compile(r"--(extra-)?index-url|PIP_INDEX_URL *=|pypi\.|files\.pythonhosted")
    files = [ROOT / name for name in ("Makefile", "pyproject.toml", "constraints.txt", "README.md", ".ci/run")]
    files += [*(ROOT / ".github").rglob("*.yml"), *(ROOT / "tools").rglob("*.py")]
    assert not [str(path) for path in files if hosts.search(path.read_text(encoding="utf-8"))]


# ------------------------------------------------------------------ .venv


@pytest.fixture(scope="module")
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


APPEND = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.write_text((p.read_text() if p.exists() else '') + 'x')"


class Trial:
    """An environment whose installation has one step: it leaves an x in the file `runs`."""

    def __init__(self, install: ModuleType, folder: Path) -> None:
        self.install, self.runs_file = install, folder / "runs"
        self.environment = install.Environment(folder / "venv")
        self.steps = [["-c", APPEND, str(self.runs_file)]]

    def ensure(self, text: str, *more_steps: list[str]) -> bool:
        return bool(self.install.ensure(self.environment, text, [*self.steps, *more_steps], landmarks=["pip"]))

    def runs(self) -> int:
        return len(self.runs_file.read_text()) if self.runs_file.exists() else 0

    def leave_a_file(self) -> Path:
        """A file in the environment that only a new start removes."""
        file: Path = self.environment.folder / "left-over"
        file.touch()
        return file


@pytest.fixture(scope="module")
def trial(install: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(install, tmp_path_factory.mktemp("trial"))


def test_a_second_call_installs_nothing(trial: Trial) -> None:
    trial.ensure("a")
    before = trial.runs()
    assert trial.ensure("a") is False
    assert trial.runs() == before


def test_changed_requirements_are_installed_into_the_same_environment(trial: Trial) -> None:
    trial.ensure("a")
    kept, before = trial.leave_a_file(), trial.runs()
    assert trial.ensure("b") is True
    assert kept.exists()
    assert trial.runs() == before + 1


def test_an_interrupted_installation_starts_from_an_empty_environment(trial: Trial) -> None:
    trial.ensure("a")
    with pytest.raises(subprocess.CalledProcessError):
        trial.ensure("c", ["-c", "raise SystemExit(7)"])
    half_written = trial.leave_a_file()
    assert trial.ensure("c") is True
    assert not half_written.exists()
    assert trial.ensure("c") is False


@pytest.mark.parametrize("lost", ["lib/python*/site-packages/pip", "bin/python"])
def test_what_was_lost_is_repaired(trial: Trial, lost: str) -> None:
    trial.ensure("a")
    (place,) = trial.environment.folder.glob(lost)
    place.rename(place.with_name("elsewhere"))
    assert trial.ensure("a") is True
    assert trial.environment.works(["pip"])


def test_the_stamp_holds_where_the_checkout_lies_and_what_it_wants(install: ModuleType) -> None:
    text = install.wanted(ROOT)
    assert text.startswith(str(ROOT))
    assert (ROOT / "constraints.txt").read_text(encoding="utf-8") in text
    assert (ROOT / "pyproject.toml").read_text(encoding="utf-8") in text


@pytest.mark.parametrize("version_info", [(3, 9), (3, 10), (3, 14)])
def test_other_pythons_are_refused_with_a_message(install: ModuleType, version_info: tuple[int, int]) -> None:
    message = install.python_problem(version_info)
    assert "3.11 to 3.13" in message
    assert "make PYTHON=" in message


def test_supported_pythons_agree_with_the_project(install: ModuleType) -> None:
    bounds = Requirement(f"layerdiff{PROJECT['requires-python']}").specifier
    supported = [(3, minor) for minor in range(20) if install.python_problem((3, minor)) is None]
    assert supported == [(3, minor) for minor in range(20) if bounds.contains(f"3.{minor}.0")]


def test_make_says_what_to_do_without_a_python() -> None:
    done = subprocess.run(
        ["make", "install", "PYTHON=/nowhere/python3"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "SetupError: there is no '/nowhere/python3'" in done.stderr
    assert "make PYTHON=" in done.stderr


# ------------------------------------------------------------------ the wheel


def test_the_wheel_holds_the_model_and_the_type_marker(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    listing = ["pyproject.toml", "README.md", "LICENSE", "layerdiff"]
    copy.mkdir()
    subprocess.run(["cp", "-R", *(str(ROOT / name) for name in listing), str(copy)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    done = subprocess.run([*command, str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("layerdiff-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"layerdiff/py.typed", "layerdiff/assets/parakeet-tdt-mini.nemo", "layerdiff/errors.py"} <= set(names)
    in_tree = {str(path.relative_to(ROOT)) for path in (ROOT / "layerdiff").rglob("*.py")}
    assert in_tree <= set(names), f"the wheel lacks {sorted(in_tree - set(names))}"
    assert not [name for name in names if name.startswith(("tests/", "tools/", "benchmarks/"))]
