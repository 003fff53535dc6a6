"""What a recording is, and the checks that its file and header have to pass before anything of it is decoded."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import soundfile

from layerdiff.errors import AudioError

LOWEST_RATE_HZ = 1000
"""A header that announces less is damaged, and resampling by so much would fill the memory."""
WINDOW_S = 0.025
"""The shortest clip: one analysis window of the mel spectrogram."""


@dataclass(frozen=True)
class Recording:
    """A recording that exists and whose header says that it is audio; nothing of it is decoded yet."""

    name: str
    """File name without its folder; with as many parent folders as make it unique in its list."""
    path: Path
    offset_s: float = 0.0
    """Where the clip begins in the file."""
    duration_s: float | None = None
    """The length to read; None reads to the end of the file."""
    text: str | None = None
    """The transcript, if a manifest gives one."""


def check_file(path: Path, *, where: str | None) -> None:
    """Raises unless `path` is a regular file with at least one byte."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        action = f"paths are relative to {Path.cwd()}; check the spelling"
        raise AudioError(f"'{path}' does not exist.", where=where, action=action) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise unreadable(path, error, where=where) from error
    if stat.S_ISDIR(found.st_mode):
        raise AudioError(f"'{path}' is a folder.", where=where, action=f"name files: '{path}/*.wav'")
    if not stat.S_ISREG(found.st_mode):
        raise AudioError(f"'{path}' is not a regular file.", where=where, action="name an audio file")
    if found.st_size == 0:
        raise AudioError(f"'{path}' is empty (0 bytes).", where=where, action="copy the file again, or leave it out")


def unreadable(path: Path, error: Exception, *, where: str | None) -> AudioError:
    reason = getattr(error, "strerror", None) or str(error)
    return AudioError(f"'{path}' cannot be read.", where=where, detail=reason, action="check the file and its rights")


@contextmanager
def opened(path: Path, *, where: str | None) -> Iterator[soundfile.SoundFile]:
    """The open sound file; whatever fails in opening or decoding it becomes an AudioError."""
    check_file(path, where=where)
    try:
        # A nameless descriptor makes libsndfile go by the content: `.raw` would be taken for bare samples.
        with open(path, "rb", closefd=True) as handle, soundfile.SoundFile(handle.fileno(), closefd=False) as file:
            yield file
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"'{path}' is not audio that can be read.",
            where=where,
            detail=error.error_string,
            action="expected WAV, FLAC, OGG, MP3 or another format of libsndfile; convert the file",
        ) from error
    except (OSError, MemoryError) as error:  # MemoryError: a damaged header announces terabytes
        raise unreadable(path, error, where=where) from error


def check_header(path: Path, *, where: str | None) -> None:
    """Raises unless `path` is audio of at least one window, as far as its header says."""
    with opened(path, where=where) as file:
        check_length(path, frames=file.frames, rate_hz=file.samplerate, where=where)


def check_length(path: Path, *, frames: int, rate_hz: int, where: str | None) -> None:
    if rate_hz < LOWEST_RATE_HZ:
        what, least = f"'{path}' has a sample rate of {rate_hz} Hz.", f"expected at least {LOWEST_RATE_HZ} Hz"
        raise AudioError(what, where=where, detail=least, action="its header is damaged: copy the file again")
    if frames == 0:
        raise AudioError(f"'{path}' holds no samples.", where=where, action="record it again, or leave it out")
    if frames < WINDOW_S * rate_hz:
        raise AudioError(
            f"'{path}' is too short: {frames / rate_hz:g} s.",
            where=where,
            detail=f"expected at least {WINDOW_S:g} s, one analysis window; got {frames} samples at {rate_hz} Hz",
            action="use a longer recording, or leave it out",
        )
