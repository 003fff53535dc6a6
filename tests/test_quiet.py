"""Nothing that third parties print reaches the user, by whatever route, and everything is put back."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import pytest

from layerdiff import quiet

NOISY = """
    import ctypes, logging, os, subprocess, sys, warnings
    from layerdiff import quiet

    def shout():
        print("print-out")
        print("print-err", file=sys.stderr)
        print("dunder-out", file=sys.__stdout__)
        os.write(1, b"fd-out\\n")
        os.write(2, b"fd-err\\n")
        ctypes.CDLL(None).puts(b"native-out")
        subprocess.run(["sh", "-c", "echo child-out; echo child-err >&2"], check=True)
        warnings.warn("a-warning")
        sys.stdout.buffer.write(b"buffer-out\\n")
        logging.getLogger("stranger").addHandler(logging.StreamHandler())
        logging.getLogger("stranger").warning("logged-err")
"""
ROUTES = ["print-out", "print-err", "dunder-out", "fd-out", "fd-err", "native-out", "child-out", "child-err"]
ROUTES += ["a-warning", "buffer-out", "logged-err"]

posix = pytest.mark.skipif(sys.platform == "win32", reason="uses sh and the C library of POSIX")


def run(code: str, *arguments: str) -> tuple[str, str]:
    """stdout and stderr of a Python process that runs `code`."""
    source = textwrap.dedent(NOISY) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", source, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@posix
def test_every_route_is_silenced_and_kept(tmp_path: Path) -> None:
    out, err = run(
        """
        print("before")
        with quiet.third_party() as noise:
            shout()
        print("after")
        print("after", file=sys.stderr)
        open(sys.argv[1], "w").write(noise.text())
        """,
        str(tmp_path / "kept"),
    )
    assert (out, err) == ("before\nafter\n", "after\n")
    kept = (tmp_path / "kept").read_text()
    assert [route for route in ROUTES if route not in kept] == []


@posix
def test_noise_is_silenced_after_an_exception_and_when_nested() -> None:
    out, err = run(
        """
        try:
            with quiet.third_party():
                shout()
                with quiet.third_party() as inner:
                    print("deep")
                assert inner.text() == "deep\\n", inner.text()
                print("still quiet")
                raise ValueError("from the body")
        except ValueError as error:
            print(error)
        """
    )
    assert (out, err) == ("from the body\n", "")


@posix
def test_handlers_made_inside_stay_quiet_and_log_to_our_logger() -> None:
    out, err = run(
        """
        with quiet.third_party():
            shout()
        logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(name)s: %(message)s")
        logging.getLogger("stranger").propagate = False
        logging.getLogger("stranger").warning("late")
        """
    )
    assert (out, err) == ("layerdiff.third_party: late\n", "")


@posix
def test_progress_is_drawn_on_the_real_stderr_meanwhile() -> None:
    out, err = run(
        """
        stream = quiet.user_stderr()
        with quiet.third_party():
            shout()
            print("50 %", file=stream, flush=True)
        print("100 %", file=stream, flush=True)
        """
    )
    assert (out, err) == ("", "50 %\n100 %\n")


@posix
def test_closed_descriptors_are_left_alone() -> None:
    out, _ = run("os.close(2)\nwith quiet.third_party(): print('x')\nprint('after')")
    assert out == "after\n"


def test_replaced_streams_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with quiet.third_party() as noise:
        print("loud")
        print("drawn", file=quiet.user_stderr())
    print("after")
    assert (out.getvalue(), err.getvalue(), noise.text()) == ("after\n", "drawn\n", "loud\n")
    assert (sys.stdout, sys.stderr) == (out, err)


def test_nothing_reaches_pytests_capture(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet.third_party():
        print("loud")
        os.write(2, b"loud\n")
    assert capfd.readouterr() == ("", "")


def test_warnings_are_not_errors_inside_and_filters_come_back() -> None:
    with quiet.third_party() as noise:
        warnings.warn("numbers are odd", RuntimeWarning, stacklevel=1)
    assert "numbers are odd" in noise.text()
    with pytest.raises(RuntimeWarning):
        warnings.warn("outside", RuntimeWarning, stacklevel=1)


def test_text_goes_to_the_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="layerdiff.third_party"), quiet.third_party():
        print("first\n\nsecond")
    assert [record.getMessage() for record in caplog.records] == ["first", "second"]


def test_last_lines_show_a_progress_bar_as_its_last_state() -> None:
    with quiet.third_party() as noise:
        print("one\ntwo\n\n 0 %\r 50 %\r100 %")
        assert noise.last_lines(2) == "two\n100 %"
    assert noise.last_lines(2) == "two\n100 %"


def test_overlapping_threads_restore_the_streams_once() -> None:
    before = (sys.stdout, sys.stderr, os.fstat(1).st_ino, os.fstat(2).st_ino)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with quiet.third_party():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    with quiet.third_party():
        thread.start()
        assert entered.wait(10)
    assert sys.stdout is not before[0]
    leave.set()
    thread.join()
    assert (sys.stdout, sys.stderr, os.fstat(1).st_ino, os.fstat(2).st_ino) == before


@posix
def test_native_text_is_in_order_with_pythons() -> None:
    with quiet.third_party() as noise:
        print("1")
        ctypes.CDLL(None).puts(b"2")
        ctypes.CDLL(None).fflush(None)
        print("3")
    assert noise.text() == "1\n2\n3\n"


def test_nemo_and_coremltools_say_nothing_until_the_process_ends() -> None:
    out, err = run(
        """
        with quiet.third_party() as noise:
            import coremltools
            import nemo.collections.asr
        from nemo.utils import logging as nemo_logging
        nemo_logging.warning("late")
        assert "Failed to load _MLModelProxy" in noise.text() or sys.platform == "darwin"
        """
    )
    assert (out, err) == ("", "")
