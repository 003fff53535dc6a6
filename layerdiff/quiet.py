"""What other libraries print is kept away from the user: `with quiet.third_party(): …`.

NeMo, OneLogger, coremltools, tqdm, torch's tracer, Python warnings and native code write to stdout and stderr
through four different routes: `sys.stdout`, a logging handler that took hold of it when it was created, the
file descriptor itself, and a C buffer that is emptied later. All four end in one temporary file while the
context is active. Its lines go to the logger `layerdiff.third_party` at debug level when the outermost context
ends, so `--debug` shows them; `Noise.text()` gives them to whoever has to explain a failure.

What is drawn for the user meanwhile goes to `user_stderr()`. The redirection belongs to the process, not to a
thread: contexts may be nested and may overlap in several threads, and the last one out restores the streams.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TextIO

LOGGER = logging.getLogger("layerdiff.third_party")

ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "KMP_WARNINGS": "0",
}
"""Set, where the user has not set them, before the first library is imported."""

_STDOUT_FD, _STDERR_FD = 1, 2
_lock = threading.RLock()


@dataclass(frozen=True)
class Noise:
    """What was printed since one `third_party()` began."""

    _start: int
    _kept: list[str] = field(default_factory=list)
    """The text, once its context has ended."""

    def text(self) -> str:
        """Everything printed so far, in the order in which it was printed."""
        with _lock:
            return self._kept[0] if self._kept else _redirection.text(self._start)

    def last_lines(self, count: int) -> str:
        """The last `count` lines that are not blank; a progress bar counts as its last state."""
        return "\n".join(_lines(self.text())[-count:])


@contextmanager
def third_party() -> Iterator[Noise]:
    """Keeps everything that is printed in the body away from stdout and stderr.

    Python warnings neither reach the user nor become errors in the body, whatever filters are set outside.
    Streams, file descriptors and warning filters are restored when the outermost context ends, also after an
    exception. A logging handler that was created in the body stays quiet afterwards: it logs to
    `layerdiff.third_party` for the rest of the process.
    """
    with _lock:
        noise = Noise(_redirection.enter())
    try:
        yield noise
    finally:
        with _lock:
            noise._kept.append(_redirection.text(noise._start))
            printed = _redirection.leave()
        for line in _lines(printed):
            _log(line)


def _lines(text: str) -> list[str]:
    """The lines that are not blank; of a line that was redrawn after a carriage return, its last state."""
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in text.split("\n")]
    return [line for line in lines if line.strip()]


def user_stderr() -> TextIO:
    """A text stream on the user's stderr, also while `third_party()` is active.

    It may be kept: it always writes to what `sys.stderr` was before the redirection, or is without one.
    """
    return _user_stream


class _Redirection:
    """The state of the process: how many contexts are active and where their output goes."""

    def __init__(self) -> None:
        self.depth = 0
        self.file: BinaryIO | None = None
        self.user: TextIO | None = None
        self._undo = ExitStack()

    def enter(self) -> int:
        """Begins the redirection if it is not active; the length in bytes of what was printed so far."""
        if self.depth == 0:
            with ExitStack() as stack:
                self._begin(stack)
                self._undo = stack.pop_all()
        self.depth += 1
        _flush_all()
        assert self.file is not None
        return os.fstat(self.file.fileno()).st_size

    def leave(self) -> str:
        """Ends the redirection if this was the last context; then all that was printed, else nothing."""
        self.depth -= 1
        if self.depth:
            return ""
        printed = self.text(0)
        self._undo.close()
        return printed

    def text(self, start: int) -> str:
        """What was printed from the byte `start` on."""
        if self.file is None:
            return ""
        _flush_all()
        return _read_from(self.file.fileno(), start).decode("utf-8", errors="replace")

    def _begin(self, stack: ExitStack) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        _flush_all()
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed by the stack)
        self.file = stack.enter_context(file)
        stack.callback(setattr, self, "file", None)
        self.user = stack.enter_context(_kept_stderr())
        stack.callback(setattr, self, "user", None)
        for fd in (_STDOUT_FD, _STDERR_FD):
            _redirect_fd(fd, self.file.fileno(), stack)
        for name, sink in (("stdout", _SINKS[_STDOUT_FD]), ("stderr", _SINKS[_STDERR_FD])):
            stack.callback(setattr, sys, name, getattr(sys, name))
            setattr(sys, name, sink)
        stack.callback(_flush_all)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default")
        warnings.showwarning = _show_warning


def _read_from(fd: int, start: int) -> bytes:
    """The bytes of a file from `start` on, without moving the position at which others write."""
    length = os.fstat(fd).st_size - start
    if sys.platform == "win32":  # has no pread; reading to the end leaves the position there
        os.lseek(fd, start, os.SEEK_SET)
        return os.read(fd, length)
    return os.pread(fd, length, start)


def _redirect_fd(fd: int, target: int, stack: ExitStack) -> None:
    """Points `fd` at `target` until the stack is closed; a closed `fd` is left alone."""
    try:
        saved = os.dup(fd)
    except OSError:
        return
    stack.callback(os.close, saved)
    stack.callback(os.dup2, saved, fd)
    os.dup2(target, fd)


@contextmanager
def _kept_stderr() -> Iterator[TextIO]:
    """The user's stderr: a stream on a duplicate of its descriptor, or the object that replaced it."""
    stream = sys.stderr
    if stream is None:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            yield nowhere
    elif _descriptor(stream) != _STDERR_FD:
        yield stream  # a test's or an application's own stream: the descriptors do not reach it
    else:
        with open(os.dup(_STDERR_FD), "w", encoding=stream.encoding, errors="backslashreplace", newline="") as copy:
            yield copy


def _descriptor(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return None


def _flush_all() -> None:
    """Empties Python's and C's output buffers into wherever the descriptors point now."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()  # type: ignore[union-attr]
    import ctypes

    with suppress(AttributeError, OSError):
        libc = ctypes.cdll.ucrtbase if sys.platform == "win32" else ctypes.CDLL(None)
        libc.fflush(None)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> None:
    _SINKS[_STDERR_FD].write(warnings.formatwarning(message, category, filename, lineno))


_logging = threading.local()


def _log(line: str) -> None:
    """Logs a line, unless a handler of the logger writes into a sink itself."""
    if getattr(_logging, "active", False) or not line.strip():
        return
    _logging.active = True
    try:
        LOGGER.debug("%s", line.rstrip())
    finally:
        _logging.active = False


class _SinkBytes(io.RawIOBase):
    """Bytes of one descriptor: into the temporary file while a context is active, else line by line to the log."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._line = b""
        self.name = f"<third party {fd}>"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        with _lock:
            if _redirection.file is not None:
                return os.write(_redirection.file.fileno(), data)
        *lines, self._line = (self._line + bytes(data)).split(b"\n")
        for line in lines:
            _log(line.decode("utf-8", errors="replace"))
        return len(data)


class _UserStream(io.TextIOBase, TextIO):
    """Text to the user's stderr, wherever that is at the moment of writing."""

    def _stream(self) -> TextIO | None:
        return _redirection.user or sys.stderr

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream(), "encoding", None) or "utf-8"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        with _lock:
            stream = self._stream()
            return stream is not None and stream.isatty()

    def fileno(self) -> int:
        with _lock:
            descriptor = _descriptor(self._stream())
        if descriptor is None:
            raise io.UnsupportedOperation("the user's stderr has no file descriptor")
        return descriptor

    def write(self, text: str) -> int:
        with _lock:
            stream = self._stream()
            return len(text) if stream is None else stream.write(text)

    def flush(self) -> None:
        with _lock:
            stream = self._stream()
            if stream is not None:
                stream.flush()


def _sink(fd: int) -> io.TextIOWrapper:
    # unbuffered, so that Python's and native text stay in order
    return io.TextIOWrapper(_SinkBytes(fd), encoding="utf-8", errors="backslashreplace", write_through=True)


_redirection = _Redirection()
_SINKS = {fd: _sink(fd) for fd in (_STDOUT_FD, _STDERR_FD)}
_user_stream = _UserStream()
