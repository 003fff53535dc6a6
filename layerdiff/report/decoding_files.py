"""Writes what decoding gave into a run directory, clip by clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff import store
from layerdiff.report import decoding, json

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerdiff.config import OutputsConfig
    from layerdiff.decode.result import DecodeReport

Rows = Iterable[dict[str, Any]]


def write_decoding(report: DecodeReport, rows: Callable[[], Rows], outputs: OutputsConfig) -> tuple[Path, ...]:
    """The files of a decoded corpus, each the previous or the complete one.

    Args:
        report: the counts.
        rows: gives the clips, one after the other, as often as it is asked.
        outputs: the folder, and which of the files are wanted.

    Raises:
        OutputError: a file can't be written.
    """
    folder, pieces = Path(outputs.dir), dict(enumerate(report.pieces))
    files: list[Path] = []
    if outputs.csv:
        files.append(_written(folder / "clips.csv", decoding.clip_lines(rows())))
        files.append(
            _written(folder / "tokens.csv", decoding.token_lines(rows(), pieces=pieces, frame_s=report.frame_s))
        )
    if outputs.json:
        files.append(store.write_atomically(folder / "decode.json", json.dump(decoding.document(report))))
    return tuple(files)


def _written(path: Path, lines: Iterator[str]) -> Path:
    with store.written_atomically(path) as file:
        for line in lines:
            file.write(line.encode("utf-8", "backslashreplace"))
    return path
