"""Progress is drawn on terminals only, only when it lasts, and leaves nothing behind."""

from __future__ import annotations

import io
import threading

import pytest

from layerdiff import progress


class Screen(io.StringIO):
    """A terminal that remembers everything that was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if "importing" in text:
            self.drawn.set()
        return super().write(text)


def test_nothing_is_drawn_without_a_terminal_or_when_it_is_not_wanted() -> None:
    assert progress.for_stream(io.StringIO()) is progress.SILENT
    assert progress.for_stream(Screen(), quiet=True) is progress.SILENT


def test_nothing_is_drawn_on_a_terminal_that_cannot_remove_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert progress.for_stream(Screen()) is progress.SILENT


def test_silence_takes_steps_too() -> None:
    with progress.SILENT.task("importing", total=2) as step:
        step()
        step(1)


def test_a_task_that_ends_soon_is_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    with progress.Terminal(screen, delay_s=60).task("importing", total=3) as step:
        step(3)
    assert screen.getvalue() == ""


def test_a_task_that_lasts_is_drawn_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    terminal = progress.for_stream(screen)
    assert isinstance(terminal, progress.Terminal)
    with progress.Terminal(screen, delay_s=0.0).task("importing [NeMo]", total=2) as step:
        step(1)
        assert screen.drawn.wait(timeout=30)
    text = screen.getvalue()
    assert "importing [NeMo]" in text
    assert text.rstrip("\n").endswith("\x1b[2K") or "\x1b[2K" in text[text.rindex("importing") :]
    assert "\x1b[?25h" in text  # the cursor is shown again


def test_an_error_ends_the_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    terminal = progress.Terminal(screen, delay_s=0.0)
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="invalid literal"), terminal.task("outer"), terminal.task("importing"):
        int("x" if screen.drawn.wait(timeout=30) else "0")
    written = screen.getvalue()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert screen.getvalue() == written


def test_tasks_may_be_nested_and_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    terminal = progress.Terminal(screen, delay_s=0.0)
    for _ in range(2):
        screen.drawn.clear()
        with terminal.task("whole", total=1) as outer, terminal.task("importing") as inner:
            assert screen.drawn.wait(timeout=30)
            inner()
            outer()
