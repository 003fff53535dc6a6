"""Progress of what lasts: told through one small protocol, shown only on a terminal and only when it takes long.

Whoever does something long opens a task and calls its step; whether anything is drawn is not his concern:

    with progress.task("comparing clips", total=12) as step:
        step(1)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

DELAY_S = 0.4
"""A task that ends sooner is never drawn."""


class Step(Protocol):
    """Says that a task has advanced."""

    def __call__(self, advance: float = 1, /) -> None: ...


class Progress(Protocol):
    """Is told about tasks."""

    def task(self, what: str, *, total: float | None = None) -> AbstractContextManager[Step]:
        """A task for the time of a `with` block.

        Args:
            what: what is being done, e.g. `importing NeMo`.
            total: how far the steps add up; None if nobody knows.
        """
        ...


class Silent:
    """Shows nothing."""

    @contextmanager
    def task(self, what: str, *, total: float | None = None) -> Iterator[Step]:
        yield _no_step


def _no_step(advance: float = 1, /) -> None:
    pass


SILENT: Progress = Silent()


class Terminal:
    """Bars on a terminal, one line per task, gone when the last task ends.

    Args:
        stream: the terminal; the user's stderr.
        delay_s: how long a task has to last before it is drawn.
    """

    def __init__(self, stream: TextIO, *, delay_s: float = DELAY_S) -> None:
        from rich.console import Console

        self._console = Console(file=stream, markup=False, emoji=False, highlight=False)
        self._delay_s = delay_s
        self._lock = threading.RLock()
        self._bars: Bars | None = None
        self._open = 0

    @property
    def is_dumb(self) -> bool:
        """Whether the terminal can't move its cursor, so that nothing drawn could be removed."""
        return self._console.is_dumb_terminal

    @contextmanager
    def task(self, what: str, *, total: float | None = None) -> Iterator[Step]:
        """Draws a bar, or a spinner without a total, until the block ends, however it ends."""
        with self._lock:
            bars = self._bars = self._bars or _bars(self._console)
            self._open += 1
            task = bars.add_task(what, total=total, visible=False)
        timer = threading.Timer(self._delay_s, self._show, (bars, task))
        timer.daemon = True
        timer.start()
        try:
            yield lambda advance=1, /: bars.advance(task, advance)
        finally:
            timer.cancel()
            self._close(bars, task)

    def _show(self, bars: Bars, task: TaskID) -> None:
        with self._lock:
            if task in bars.task_ids:
                bars.update(task, visible=True)
                bars.start()

    def _close(self, bars: Bars, task: TaskID) -> None:
        with self._lock:
            bars.remove_task(task)
            self._open -= 1
            if not self._open:
                self._bars = None
                if bars.live.is_started:
                    bars.stop()


def for_stream(stream: TextIO, *, quiet: bool = False) -> Progress:
    """Bars if `stream` is a terminal that can draw them, and nothing otherwise."""
    if quiet or not stream.isatty():
        return SILENT
    terminal = Terminal(stream)
    return SILENT if terminal.is_dumb else terminal


def _bars(console: Console) -> Bars:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
