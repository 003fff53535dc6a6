"""Runs somebody's unmodified script as Python would, with coremltools' `predict` enabled.

The script is `__main__`, its folder is `sys.path[0]`, its arguments are `sys.argv`; its exit code and its traceback
are its own. Processes that it spawns are not enabled: those it forks are.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import pkgutil
import runpy
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from layerdiff.binding.places import enable_predict
from layerdiff.errors import LayerdiffError

INTERRUPTED = 130


class ScriptError(LayerdiffError):
    """A script or module that was to be run does not exist."""


def run_script(path: str, arguments: Sequence[str] = (), *, force: bool = False) -> int:
    """Runs `python PATH ARGUMENTS…` in this process.

    Args:
        path: a script, or a folder or archive with a `__main__.py`.
        arguments: what follows it on the command line.
        force: replace Core ML on macOS too.

    Returns:
        The exit code of the script: what it gave to `sys.exit`, 1 after an exception, 130 after an interrupt.

    Raises:
        ScriptError: there is no such file.
    """
    script = Path(path)
    if not script.exists() or (script.is_dir() and not (script / "__main__.py").is_file()):
        raise ScriptError(
            f"there is no script '{path}'.",
            where=str(script.parent.resolve()),
            action="check the path; `layerdiff exec -m MODULE` runs a module",
        )
    sys.argv = [path, *arguments]
    _begin_path_with(str(script.resolve().parent))
    if script.suffix == ".pyc" or pkgutil.get_importer(path) is not None:  # a folder or an archive
        return _run(lambda: runpy.run_path(path, run_name="__main__"), force=force)
    return _run(lambda: _execute(str(script.absolute())), force=force)


def run_module(name: str, arguments: Sequence[str] = (), *, force: bool = False) -> int:
    """Runs `python -m NAME ARGUMENTS…` in this process; otherwise like `run_script`.

    Raises:
        ScriptError: there is no such module.
    """
    _begin_path_with(str(Path.cwd()))
    sys.argv = [name, *arguments]
    if not _exists(name):
        raise ScriptError(f"there is no module '{name}'.", action="check its name, and that it is installed")
    return _run(lambda: runpy.run_module(name, run_name="__main__", alter_sys=True), force=force)


def _execute(path: str) -> None:
    """Runs a script as the module `__main__`, which stays that: its threads and atexit functions may look at it."""
    main = ModuleType("__main__")
    vars(main).update(__file__=path, __cached__=None, __builtins__=builtins)
    main.__loader__ = SourceFileLoader("__main__", path)
    sys.modules["__main__"] = main
    with io.open_code(path) as file:
        source = file.read()
    exec(compile(source, path, "exec", dont_inherit=True), vars(main))


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a parent is missing or is no package; the name is empty or relative
        return False


def _begin_path_with(folder: str) -> None:
    """Puts `folder` where Python put that of the command `layerdiff`; with `python -P` it put none."""
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _run(action: Callable[[], Any], *, force: bool) -> int:
    """The exit code of a script; whatever it raises ends here as it would end in Python itself."""
    enable_predict(force)  # to the end of the process: threads and atexit functions of the script outlive it
    try:
        action()
    except SystemExit as end:
        return _exit_code(end)
    except BaseException as error:
        trace = _own_frames(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _exit_code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of this module and of runpy at its beginning."""
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in (__name__, "runpy"):
        trace = trace.tb_next
    return trace
