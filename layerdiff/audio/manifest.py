"""The lines of a NeMo manifest: one JSON object each, with `audio_filepath`, `duration`, `offset` and `text`."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from layerdiff.audio.files import Recording, check_header
from layerdiff.errors import AudioError, nearest


def manifest_lines(manifest: Path) -> list[str]:
    try:
        return manifest.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise AudioError(
            f"The manifest '{manifest}' is not UTF-8 text.",
            detail=f"byte {error.start}: {error.reason}",
            action="a manifest holds one JSON object per line; for audio files use inputs.audio",
        ) from error


def parse_line(line: str, *, folder: Path, where: str) -> Recording:
    """The recording that a line of a manifest names; reads its header.

    Args:
        line: one JSON object.
        folder: the manifest's, in which a relative path is looked for first.
        where: file and line, for the message.

    Raises:
        AudioError: the line is broken, or the recording cannot be read as audio.
    """
    entry = _json_object(line, where=where)
    path = _resolve(_string(entry, "audio_filepath", where=where) or _missing(entry, where=where), folder=folder)
    offset_s = _seconds(entry, "offset", where=where) or 0.0
    duration_s = _seconds(entry, "duration", where=where)
    check_header(path, where=where)
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
