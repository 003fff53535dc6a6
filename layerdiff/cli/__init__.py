"""The command line: options in, an exit code out; everything else is a call of the library.

Exit codes: 0 everything asked for was compared and is within its thresholds, 1 a stage fails, 2 the request
could not be carried out, 3 something asked for could not be compared, 130 interrupted. Nothing heavy is
imported before a command runs. Each module holds the commands that it is named after.
"""

from __future__ import annotations

from collections.abc import Sequence

from layerdiff.cli import (
    capture,
    check,
    decode,
    execute,
    explain,
    expose,
    fix,
    headroom,
    init,
    inspect,
    report,
    repro,
    run,
    sweep,
)
from layerdiff.cli.app import app
from layerdiff.cli.ends import exit_code, tolerant_of_closed_pipe
from layerdiff.cli.run import compare, show

__all__ = [
    "app",
    "capture",
    "check",
    "compare",
    "decode",
    "execute",
    "exit_code",
    "explain",
    "expose",
    "fix",
    "headroom",
    "init",
    "inspect",
    "main",
    "report",
    "repro",
    "run",
    "show",
    "sweep",
    "tolerant_of_closed_pipe",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="layerdiff")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
