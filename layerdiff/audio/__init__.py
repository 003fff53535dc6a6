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
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from layerdiff.audio.files import Recording, check_file, check_header, check_length, opened
from layerdiff.audio.manifest import manifest_lines, parse_line
from layerdiff.errors import AudioError
from layerdiff.installed import package_path
from layerdiff.records import Clip

__all__ = ["Recording", "list_clips", "load", "matching", "parse_line", "read", "read_manifest", "read_one"]

LOUDEST = 10.0
"""Float samples beyond this (full scale is 1) are integers stored as floats, not a loud recording."""
END_TOLERANCE_S = 0.05
"""How far a manifest's `offset + duration` may lie behind the end of the file: they are often rounded."""


# ------------------------------------------------------------------ listing


def list_clips(patterns: str | Sequence[str]) -> list[Recording]:
    """The recordings that `patterns` name, with unique names; reads headers only.

    Args:
        patterns: paths or globs (`*`, `?`, `[…]`, `**`); `package:path` lies in an installed Python package. Patterns
            keep their order, the matches of each are sorted, and a file that several name is listed once. Folders
            among the matches are left out.

    Raises:
        AudioError: a pattern matches nothing, or a match cannot be read as audio.
    """
    paths = matching([patterns] if isinstance(patterns, str) else patterns)
    for path in paths:
        check_header(path, where=None)
    return _with_unique_names([Recording(name=path.name, path=path) for path in paths])


def matching(patterns: Sequence[str]) -> list[Path]:
    """The files that patterns name, each once; none of them is opened.

    Raises:
        AudioError: there is no pattern, or one matches nothing.
    """
    if not patterns:
        raise AudioError("No audio is given.", action="name at least one file or glob, such as 'audio/*.wav'")
    return list(dict.fromkeys(path for pattern in patterns for path in _expand(pattern)))


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
    check_file(manifest, where=None)
    recordings = []
    for number, line in enumerate(manifest_lines(manifest), start=1):
        if line.strip():
            recordings.append(parse_line(line, folder=manifest.parent, where=f"{manifest}, line {number}"))
    if not recordings:
        raise AudioError(f"The manifest '{manifest}' has no lines.", action="name at least one recording in it")
    return _with_unique_names(recordings)


def _expand(pattern: str) -> list[Path]:
    """The file that `pattern` is, or the files that it matches."""
    literal = package_path(pattern, where="inputs.audio")
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


# ------------------------------------------------------------------ reading


def load(path: str | Path, *, sample_rate_hz: int) -> Clip:
    """The whole recording at `path` as float32[samples], mono, at `sample_rate_hz`.

    Raises:
        AudioError: it is missing, a folder, empty, not audio, too short, or holds NaN or Inf.
    """
    path = Path(path).expanduser()
    return read_one(Recording(path.name, path), sample_rate_hz=sample_rate_hz)


def read(recordings: Sequence[Recording], *, sample_rate_hz: int) -> Iterator[Clip]:
    """Decodes one recording at a time; a clip that the caller drops is freed before the next is read."""
    return (read_one(recording, sample_rate_hz=sample_rate_hz) for recording in recordings)


def read_one(recording: Recording, *, sample_rate_hz: int) -> Clip:
    """Decodes one recording; see `load`."""
    path = recording.path
    with opened(path, where=None) as file:
        rate_hz, told = file.samplerate, _missing_end(file)
        frames, part = _decode(file, recording)
    check_length(path, frames=len(frames), rate_hz=rate_hz, where=None)
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
