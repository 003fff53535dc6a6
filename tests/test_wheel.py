"""The wheel, installed into an environment of its own, compares the bundled model outside of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, built from the files that git knows or would add."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "layerdiff", source / "layerdiff", ignore=shutil.ignore_patterns("__pycache__", "*.nb[ic]"))
    code = f"from setuptools import build_meta as b; b.build_wheel({str(out)!r}); b.build_sdist({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    return out


def test_everything_that_is_no_code_is_in_both(built: Path) -> None:
    (wheel,), (archive,) = built.glob("*.whl"), built.glob("*.tar.gz")
    inside = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "layerdiff").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".nbi", ".nbc")
    }
    with zipfile.ZipFile(wheel) as found:
        assert inside <= set(found.namelist())
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert inside <= names


def test_the_wheel_works_outside_of_the_repository(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    home, place = tmp_path / "venv", tmp_path / "elsewhere"
    place.mkdir()
    venv.create(home, with_pip=False)
    folder = "Scripts" if os.name == "nt" else "bin"
    python = home / folder / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["LAYERDIFF_CACHE"] = str(tmp_path / "cache")
    subprocess.run(install, check=True, capture_output=True, env=environment)
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    # what it depends on comes from the environment of the tests; the package itself does not
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = [str(python), "-c", "import layerdiff; print(layerdiff.__file__)"]
    done = subprocess.run(where, cwd=place, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(home)
    command = [str(home / folder / "layerdiff"), "run", "parakeet-tdt-mini"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "log_softmax_baked" in done.stdout
    written = place / "outputs" / "parakeet-tdt-mini"
    assert (written / "report.html").stat().st_size > 900_000
