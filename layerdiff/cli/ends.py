"""How a command ends: an exit code, or one message in the house form; never a traceback unless it is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, NoReturn

import typer

from layerdiff.errors import LayerdiffError

if TYPE_CHECKING:
    from layerdiff.progress import Progress

REFUSED, INTERRUPTED = 2, 130


def end(action: Callable[[], int], *, debug: bool) -> NoReturn:
    with _third_party_shown() if debug else nullcontext():
        code = exit_code(action, debug=debug)
    raise typer.Exit(code)


def exit_code(action: Callable[[], int], *, debug: bool = False) -> int:
    """What `action` returns, or the code of what it raises; the one place that turns errors into messages."""
    try:
        return action()
    except KeyboardInterrupt as stop:
        kept = _noted("Interrupted; converted packages and the files of earlier runs are kept.", stop)
        return _say(kept, INTERRUPTED, debug=debug)
    except LayerdiffError as error:
        return _say(_noted(f"{type(error).__name__}: {error}", error), REFUSED, debug=debug)
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "please report it" if debug else "please report it with the output of --debug"
        return _say(f"InternalError: layerdiff itself failed ({cause}); {hint}.", REFUSED, debug=debug)


def _noted(message: str, error: BaseException) -> str:
    """A message with the notes of an error, such as where a partial trace is."""
    return "\n  ".join([message, *getattr(error, "__notes__", ())])


def _say(message: str, code: int, *, debug: bool) -> int:
    """Prints a message to stderr without control characters, under the traceback if that is wanted."""
    with tolerant_of_closed_pipe():
        if debug:
            import traceback

            traceback.print_exc()
        print("".join(c for c in message if c.isprintable() or c == "\n"), file=sys.stderr, flush=True)
    return code


@contextmanager
def tolerant_of_closed_pipe() -> Iterator[None]:
    """Lets `| head` end the output without a word; the exit code stays what it would have been."""
    try:
        yield
    except BrokenPipeError:
        # what is still buffered would raise again when the interpreter ends
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
                continue
            os.dup2(nowhere, stream.fileno())


@contextmanager
def _third_party_shown() -> Iterator[None]:
    """Sends what other libraries print to the user's stderr, through the logger that collects it."""
    import logging

    from layerdiff import quiet as noise

    handler = logging.StreamHandler(noise.user_stderr())
    handler.setFormatter(logging.Formatter("[%(name)s] %(message)s"))
    before = noise.LOGGER.level, noise.LOGGER.propagate
    noise.LOGGER.addHandler(handler)
    noise.LOGGER.setLevel(logging.DEBUG)
    noise.LOGGER.propagate = False
    try:
        yield
    finally:
        noise.LOGGER.removeHandler(handler)
        noise.LOGGER.level, noise.LOGGER.propagate = before


def progress_bar(*, quiet: bool) -> Progress:
    """What shows the progress of a command on the user's stderr."""
    from layerdiff import progress
    from layerdiff import quiet as noise

    return progress.for_stream(noise.user_stderr(), quiet=quiet)
