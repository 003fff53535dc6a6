"""`layerdiff exec`: unmodified scripts, as Python runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CONVERTS = """
import coremltools as ct
import numpy as np
import torch

torch.manual_seed(0)
module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4)).eval()
x = torch.randn(3, 8)
model = ct.convert(
    torch.jit.trace(module, x), inputs=[ct.TensorType("x", x.shape)], compute_precision=ct.precision.FLOAT32
)
(y,) = model.predict({"x": x}).values()
print(f"{np.abs(y - module(x).detach().numpy()).max():.1e}", y.shape)
"""


def python(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def execute(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "layerdiff", "exec", *words, cwd=cwd, **environment)


def write(folder: Path, code: str, name: str = "script.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")
    return path


def test_an_unmodified_script_converts_and_predicts(tmp_path: Path) -> None:
    script = write(tmp_path, CONVERTS)
    done = execute(str(script), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    error, shape = done.stdout.split(maxsplit=1)
    assert float(error) < 1e-6
    assert shape.strip() == "(3, 4)"


SHOWS = """
import sys, os, __main__
print(sys.argv, __name__, __file__, os.path.realpath(sys.path[0]), __main__.__file__ == __file__)
import beside
"""


class TestAsPythonDoes:
    """What a script sees and what comes back is compared with `python SCRIPT` itself."""

    @pytest.mark.parametrize(
        ("code", "arguments"),
        [
            (SHOWS, ["--help", "-m", "--", "a b"]),
            ("import sys; sys.exit(7)", []),
            ("import sys; sys.exit('no ' + sys.argv[1])", ["luck"]),
            ("import sys; sys.exit()", []),
            ("raise SystemExit(None)", []),
            ("def f():\n    raise KeyError('deep')\n\nf()", []),
            ("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('outer') from e", []),
            ("x = (", []),
            ("import not_there_at_all", []),
            ("# coding: latin-1\nimport pickle, os\nclass C: pass\nos.chdir('/')\nprint(len(pickle.dumps(C())))", []),
            ("import atexit; atexit.register(print, 'bye'); print('hello')", []),
            ("import threading, time; threading.Thread(target=lambda: (time.sleep(.1), print('late'))).start()", []),
        ],
    )
    def test_the_same_output_and_exit_code(self, tmp_path: Path, code: str, arguments: list[str]) -> None:
        write(tmp_path, "print('beside', __name__)", "scripts/beside.py")
        write(tmp_path, code, "scripts/script.py")
        ours = execute("scripts/script.py", *arguments, cwd=tmp_path)
        theirs = python("scripts/script.py", *arguments, cwd=tmp_path)
        assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)
        assert ours.stderr == theirs.stderr

    def test_a_module(self, tmp_path: Path) -> None:
        write(tmp_path, "import sys; print(sys.argv[1:], __name__, __spec__.name, sys.path[0])", "pack/inner.py")
        ours = execute("-m", "pack.inner", "--flag", cwd=tmp_path)
        assert ours.stdout == python("-m", "pack.inner", "--flag", cwd=tmp_path).stdout

    def test_a_folder(self, tmp_path: Path) -> None:
        write(tmp_path, "import sys, beside; print(__name__, beside.here)", "app/__main__.py")
        write(tmp_path, "here = 'found'", "app/beside.py")
        assert execute("app", cwd=tmp_path).stdout == "__main__ found\n"

    def test_an_interrupt(self, tmp_path: Path) -> None:
        script = write(tmp_path, f"import os, signal\nos.kill(os.getpid(), {int(signal.SIGINT)})\n")
        done = execute(str(script), cwd=tmp_path)
        assert done.returncode == 130
        assert "KeyboardInterrupt" in done.stderr

    def test_the_script_can_still_set_variables_that_libraries_read(self, tmp_path: Path) -> None:
        script = write(tmp_path, "import sys; print({'numpy', 'torch', 'coremltools'} & set(sys.modules))")
        assert execute(str(script), cwd=tmp_path).stdout == "set()\n"


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["none.py"], "ScriptError: there is no script 'none.py'."),
            (["."], "ScriptError: there is no script '.'."),
            (["-m", "no_such_module"], "ScriptError: there is no module 'no_such_module'."),
            (["-m", "no.such.module"], "ScriptError: there is no module 'no.such.module'."),
            (["-m", ".relative"], "ScriptError: there is no module '.relative'."),
        ],
    )
    def test_what_does_not_exist(self, tmp_path: Path, words: list[str], message: str) -> None:
        done = execute(*words, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(message)
        assert "Traceback" not in done.stderr

    def test_no_script_at_all(self, tmp_path: Path) -> None:
        assert execute(cwd=tmp_path).returncode == 2
