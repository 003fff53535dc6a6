"""One run of coremltools' tests, in this process: `start` returns when it has finished or was interrupted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import pytest

from conformance import suites
from conformance.plugin import Request, Run
from conformance.records import Record

LOG = "output.log"
CONFIGURATION = Path(__file__).with_name("pytest.ini")


def settings(*, seed: int, strict: float, spoiled: bool) -> dict[str, Any]:
    """What records must share to be added up."""
    return {
        "coremltools": version("coremltools"),
        "torch": version("torch"),
        "numpy": version("numpy"),
        "seed": seed,
        "strict": strict,
        "spoiled": spoiled,
    }


def start(names: list[str], request: Request, report: Callable[[TextIO, Record, int, int], None]) -> bool:
    """Runs a sample of some suites; False if it was interrupted.

    What coremltools, torch and the tests print, and the tracebacks of failing tests, goes to `output.log` in the
    folder of the records; `report` is called with the terminal, a record, and how many of how many tests are done.
    """
    with output_kept_in(request.folder / LOG) as terminal:
        run = Run(request, lambda record, done, total: report(terminal, record, done, total))
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: records kept, processes ended
        code = pytest.main(arguments(names), plugins=[run])
    if code == pytest.ExitCode.INTERRUPTED:
        return False
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"pytest ended with '{code!r}'; see {request.folder / LOG}")
    return not run.interrupted


def arguments(names: list[str]) -> list[str]:
    """pytest's command line, kept apart from the configuration of the checkout."""
    plain = ["-c", str(CONFIGURATION), "-p", "no:cacheprovider", "-p", "no:terminal", "--capture=no", "-W", "ignore"]
    root = ["--rootdir", str(suites.coremltools_folder().parent)]
    return [*plain, *root, "--continue-on-collection-errors", *map(str, suites.paths(names))]


@contextmanager
def output_kept_in(path: Path) -> Iterator[TextIO]:
    """Everything that this process and its forks write goes to a file; the terminal itself is given."""
    kept = os.dup(1), os.dup(2)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as log, os.fdopen(os.dup(2), "w") as terminal:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield terminal
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in zip(kept, (1, 2), strict=True):
                os.dup2(number, descriptor)
                os.close(number)
