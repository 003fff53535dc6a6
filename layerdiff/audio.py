"""Reads recordings into clips: 32-bit float, mono, at the rate that the reference expects.

Two steps, so that a missing file is reported before anything heavy is imported and memory does not grow
with the number of files:

1. `list_clips` (globs) or `read_manifest` (a NeMo manifest) makes `Recording`s from headers alone.
2. `read` yields one `Clip` at a time; `load` is the two steps in one.

What was done to the samples is said in `Clip.notes`. What cannot be used raises AudioError: a missing or
empty file, a folder, something that is not audio, NaN or Inf, less than one analysis window.
"""

from __future__ import annotations

import glob
import json
import math
import re
import stat
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from layerdiff.errors import AudioError, nearest
from layerdiff.records import Clip

LOWEST_RATE_HZ = 1000
"""A header that announces less is damaged, and resampling by so much would fill the memory."""
WINDOW_S = 0.025
"""The shortest clip: one analysis window of the mel spectrogram."""
LOUDEST = 10.0
"""Float samples beyond this (full scale is 1) are integers stored as floats, not a loud recording."""
END_TOLERANCE_S = 0.05
"""How far a manifest's `offset + duration` may lie behind the end of the file: they are often rounded."""


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


# ------------------------------------------------------------------ listing


def list_clips(patterns: str | Sequence[str]) -> list[Recording]:
    """The recordings that `patterns` name, with unique names; reads headers only.

    Args:
        patterns: paths or globs (`*`, `?`, `[…]`, `**`). Patterns keep their order, the matches of each are
            sorted, and a file that several name is listed once. Folders among the matches are left out.

    Raises:
        AudioError: a pattern matches nothing, or a match cannot be read as audio.
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    if not given:
        raise AudioError("No audio is given.", action="name at least one file or glob, such as 'audio/*.wav'")
    paths = dict.fromkeys(path for pattern in given for path in _expand(pattern))
    for path in paths:
        _check_header(path, where=None)
    return _with_unique_names([Recording(name=path.name, path=path) for path in paths])


def read_manifest(path: str | Path) -> list[Recording]:
    """The recordings of a NeMo manifest: one JSON object per line; reads headers only.

    The keys `audio_filepath` (required), `duration`, `offset` (seconds) and `text` are used, others are
    ignored. A relative `audio_filepath` is looked for in the manifest's folder, then in the working
    directory, as NeMo does.

    Raises:
        AudioError: the manifest is missing, empty, or has a bad line (its number is named), or a recording
            cannot be read as audio.
    """
    manifest = Path(path).expanduser()
    _check_file(manifest, where=None)
    recordings = []
    for number, line in enumerate(_lines(manifest), start=1):
        if line.strip():
            recordings.append(_parse_line(line, folder=manifest.parent, where=f"{manifest}, line {number}"))
    if not recordings:
        raise AudioError(f"The manifest '{manifest}' has no lines.", action="name at least one recording in it")
    return _with_unique_names(recordings)


def _expand(pattern: str) -> list[Path]:
    """The file that `pattern` is, or the files that it matches."""
    literal = Path(pattern).expanduser()
    if not glob.has_magic(pattern) or literal.is_file():
        return [literal]
    matches = sorted(Path(match) for match in glob.glob(str(literal), recursive=True))
    if files := [match for match in matches if not match.is_dir()]:
        return files
    found = f"it matches folders only, such as '{matches[0]}'" if matches else f"searched from {Path.cwd()}"
    action = "check the folder and the ending, such as .wav"
    raise AudioError(f"No audio file matches '{pattern}'.", detail=found, action=action)


def _with_unique_names(recordings: Sequence[Recording]) -> list[Recording]:
    """Equal names get parent folders, then, for parts of one file, their offset, then a count."""
    paths: dict[str, set[Path]] = defaultdict(set)
    for recording in recordings:
        paths[recording.path.name].add(recording.path)
    named = [replace(r, name=_shortest_distinct(r.path, paths[r.path.name])) for r in recordings]
    named = _told_apart(named, [f"{r.name}@{r.offset_s:g}s" for r in named])
    seen: dict[str, int] = defaultdict(int)
    counted = []
    for recording in named:
        seen[recording.name] += 1
        counted.append(f"{recording.name}#{seen[recording.name]}")
    return _told_apart(named, counted)


def _shortest_distinct(path: Path, same_name: set[Path]) -> str:
    """As many of the last parts of `path` as tell apart all paths of the same file name."""
    full = {other: other.absolute().parts for other in same_name}
    depth = 1
    while len({parts[-depth:] for parts in full.values()}) < len(set(full.values())):
        depth += 1
    return "/".join(full[path][-depth:])


def _told_apart(recordings: Sequence[Recording], longer: Sequence[str]) -> list[Recording]:
    """`recordings` in which every name that occurs more than once is replaced by its `longer` one."""
    uses = Counter(recording.name for recording in recordings)
    return [replace(r, name=new) if uses[r.name] > 1 else r for r, new in zip(recordings, longer, strict=True)]


# ------------------------------------------------------------------ manifest lines


def _lines(manifest: Path) -> list[str]:
    try:
        return manifest.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise AudioError(
            f"The manifest '{manifest}' is not UTF-8 text.",
            detail=f"byte {error.start}: {error.reason}",
            action="a manifest holds one JSON object per line; for audio files use inputs.audio",
        ) from error


def _parse_line(line: str, *, folder: Path, where: str) -> Recording:
    entry = _json_object(line, where=where)
    path = _resolve(_string(entry, "audio_filepath", where=where) or _missing(entry, where=where), folder=folder)
    offset_s = _seconds(entry, "offset", where=where) or 0.0
    duration_s = _seconds(entry, "duration", where=where)
    _check_header(path, where=where)
    return Recording(path.name, path, offset_s, duration_s, _string(entry, "text", where=where))


def _json_object(line: str, *, where: str) -> Mapping[str, Any]:
    action = 'a line reads {"audio_filepath": "x.wav", "duration": 1.5, "text": "…"}'
    shown = textwrap.shorten(line, 60, placeholder="…")
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise AudioError(f"'{shown}' is not JSON.", where=where, detail=str(error), action=action) from error
    if not isinstance(entry, dict):
        raise AudioError(f"'{shown}' is not a JSON object.", where=where, action=action)
    return entry


def _missing(entry: Mapping[str, Any], *, where: str) -> NoReturn:
    guess = nearest("audio_filepath", entry)
    raise AudioError(
        "The line has no 'audio_filepath'.",
        where=where,
        detail=f"its keys: {', '.join(entry) or 'none'}" + (f" — did you mean '{guess}'?" if guess else ""),
        action="known keys: audio_filepath, duration, text, offset",
    )


def _string(entry: Mapping[str, Any], key: str, *, where: str) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise AudioError(f"'{key}' is '{value}', which is not a string.", where=where, action="put it in quotes")
    return value


def _seconds(entry: Mapping[str, Any], key: str, *, where: str) -> float | None:
    """The value of `key`, a finite number of seconds: `duration` above 0, `offset` from 0."""
    value = entry.get(key)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (value == 0 and key == "duration"):
        bound = "above 0" if key == "duration" else "from 0"
        raise AudioError(
            f"'{key}' is '{value}'.",
            where=where,
            detail=f"expected a finite number of seconds {bound}",
            action=f"give '{key}' in seconds, or leave it out",
        )
    return float(value)


def _resolve(audio_path: str, *, folder: Path) -> Path:
    """The file in the manifest's folder, else the one in the working directory, else the former."""
    path = Path(audio_path).expanduser()
    beside = folder / path
    try:
        return path if not beside.exists() and path.exists() else beside
    except (OSError, ValueError):
        return beside


# ------------------------------------------------------------------ reading


def load(path: str | Path, *, sample_rate_hz: int) -> Clip:
    """The whole recording at `path` as float32[samples], mono, at `sample_rate_hz`.

    Raises:
        AudioError: it is missing, a folder, empty, not audio, too short, or holds NaN or Inf.
    """
    path = Path(path).expanduser()
    return _read_one(Recording(path.name, path), sample_rate_hz=sample_rate_hz)


def read(recordings: Sequence[Recording], *, sample_rate_hz: int) -> Iterator[Clip]:
    """Decodes one recording at a time; a clip that the caller drops is freed before the next is read."""
    return (_read_one(recording, sample_rate_hz=sample_rate_hz) for recording in recordings)


def _read_one(recording: Recording, *, sample_rate_hz: int) -> Clip:
    path = recording.path
    with _opened(path, where=None) as file:
        rate_hz, told = file.samplerate, _missing_end(file)
        frames, part = _decode(file, recording)
    _check_length(path, frames=len(frames), rate_hz=rate_hz, where=None)
    _check_finite(frames, rate_hz=rate_hz, recording=recording)
    _check_peak(frames, path)
    samples, changes = _conformed(frames, rate_hz=rate_hz, wanted_hz=sample_rate_hz)
    notes = tuple(note for note in (told, part, *changes) if note)
    return Clip(recording.name, str(path), samples, sample_rate_hz, recording.text, notes)


def _conformed(
    frames: NDArray[np.float64], *, rate_hz: int, wanted_hz: int
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """`frames` [samples, channels] mixed, resampled and within [-1, 1], and what was done, in words.

    The mix is the mean of the channels, in float64; the resampler is soxr at its very high quality.
    """
    notes = []
    samples = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)
    if frames.shape[1] > 1:
        notes.append(f"mixed from {frames.shape[1]} channels")
    if rate_hz != wanted_hz:
        samples = soxr.resample(samples, rate_hz, wanted_hz, quality="VHQ")
        notes.append(f"resampled from {rate_hz} Hz")
    if beyond := int(np.count_nonzero(np.abs(samples) > 1.0)):
        notes.append(f"{beyond} samples beyond full scale clipped")
    if not samples.any():
        notes.append("every sample is zero")
    return np.clip(samples, -1.0, 1.0).astype(np.float32), tuple(notes)


def _decode(file: soundfile.SoundFile, recording: Recording) -> tuple[NDArray[np.float64], str]:
    """float64[samples, channels] of the part that `recording` names, and the note that says which part."""
    start, stop = _span(file, recording)
    file.seek(start)
    frames: NDArray[np.float64] = file.read(stop - start, dtype="float64", always_2d=True)
    rate_hz, total = file.samplerate, file.frames
    if len(frames) < stop - start:
        raise AudioError(
            f"'{recording.path}' ends after {(start + len(frames)) / rate_hz:g} s.",
            detail=f"expected {total / rate_hz:g} s according to its header: the file is cut short",
            action="copy the file again",
        )
    left_out = total - len(frames) > END_TOLERANCE_S * rate_hz
    note = f"{start / rate_hz:g} s to {stop / rate_hz:g} s of {total / rate_hz:g} s"
    return frames, note if left_out else ""


def _span(file: soundfile.SoundFile, recording: Recording) -> tuple[int, int]:
    """First and last sample (exclusive) of the part that `recording` names, which must lie in the file."""
    rate_hz, total = file.samplerate, file.frames
    start = round(recording.offset_s * rate_hz)
    stop = total if recording.duration_s is None else start + round(recording.duration_s * rate_hz)
    if total and (start >= total or stop > total + round(END_TOLERANCE_S * rate_hz)):
        raise AudioError(
            f"The part from {start / rate_hz:g} s to {stop / rate_hz:g} s lies outside '{recording.path}'.",
            detail=f"expected a part of its {total / rate_hz:g} s",
            action="correct 'offset' and 'duration' in the manifest",
        )
    return start, min(stop, total)


def _missing_end(file: soundfile.SoundFile) -> str:
    """The note for a file shorter than its header announces: streamed, or cut short; libsndfile reads on."""
    is_short = re.search(r"^data\s*: .*\(should be", file.extra_info, flags=re.MULTILINE)
    return "shorter than its header announces: streamed, or cut short" if is_short else ""


# ------------------------------------------------------------------ checks


def _check_file(path: Path, *, where: str | None) -> None:
    """Raises unless `path` is a regular file with at least one byte."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        action = f"paths are relative to {Path.cwd()}; check the spelling"
        raise AudioError(f"'{path}' does not exist.", where=where, action=action) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise _unreadable(path, error, where=where) from error
    if stat.S_ISDIR(found.st_mode):
        raise AudioError(f"'{path}' is a folder.", where=where, action=f"name files: '{path}/*.wav'")
    if not stat.S_ISREG(found.st_mode):
        raise AudioError(f"'{path}' is not a regular file.", where=where, action="name an audio file")
    if found.st_size == 0:
        raise AudioError(f"'{path}' is empty (0 bytes).", where=where, action="copy the file again, or leave it out")


def _unreadable(path: Path, error: Exception, *, where: str | None) -> AudioError:
    reason = getattr(error, "strerror", None) or str(error)
    return AudioError(f"'{path}' cannot be read.", where=where, detail=reason, action="check the file and its rights")


@contextmanager
def _opened(path: Path, *, where: str | None) -> Iterator[soundfile.SoundFile]:
    """The open sound file; whatever fails in opening or decoding it becomes an AudioError."""
    _check_file(path, where=where)
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
        raise _unreadable(path, error, where=where) from error


def _check_header(path: Path, *, where: str | None) -> None:
    """Raises unless `path` is audio of at least one window, as far as its header says."""
    with _opened(path, where=where) as file:
        _check_length(path, frames=file.frames, rate_hz=file.samplerate, where=where)


def _check_length(path: Path, *, frames: int, rate_hz: int, where: str | None) -> None:
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


def _check_peak(frames: NDArray[np.float64], path: Path) -> None:
    peak = float(np.abs(frames).max())
    if peak > LOUDEST:
        raise AudioError(
            f"The samples of '{path}' reach {peak:g}.",
            detail="expected float samples within [-1, 1]: these look like integers stored as floats",
            action="divide them by 32768 (16-bit) and write the file again",
        )


def _check_finite(frames: NDArray[np.float64], *, rate_hz: int, recording: Recording) -> None:
    bad = ~np.isfinite(frames)
    if not bad.any():
        return
    first = recording.offset_s + int(np.argmax(bad.any(axis=1))) / rate_hz
    raise AudioError(
        f"'{recording.path}' holds {int(bad.sum())} samples that are not finite, the first at {first:.3f} s.",
        detail=f"NaN: {int(np.isnan(frames).sum())}, Inf: {int(np.isinf(frames).sum())}, of {frames.size} samples",
        action="repair the recording, or leave it out",
    )
