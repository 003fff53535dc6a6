"""The clips of a corpus, one after the other, however many there are.

A manifest is read line by line and never held as a whole; what is wrong with a line is found out by whoever decodes it,
and is a row of the result like any other. Items are numbered as they come, which is the order of the report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from layerdiff import audio
from layerdiff.audio.files import check_file
from layerdiff.errors import AudioError, ConfigError

if TYPE_CHECKING:
    from layerdiff.audio import Recording
    from layerdiff.config import InputsConfig


@dataclass(frozen=True)
class Item:
    """One clip that was asked for; nothing of it has been opened."""

    index: int
    """From 0, in the order of the inputs."""
    name: str
    """The line of a manifest, or the path of a file."""
    line: bytes | None = None
    """The line of a manifest; None for a file that was named by its path."""


@dataclass(frozen=True)
class Corpus:
    """All clips of a configuration."""

    manifest: Path | None
    paths: tuple[Path, ...]

    def items(self) -> Iterator[Item]:
        """The clips in order; empty lines of a manifest are no clips."""
        if self.manifest is None:
            yield from (Item(index, str(path)) for index, path in enumerate(self.paths))
            return
        count = 0
        with open(self.manifest, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield Item(count, f"{self.manifest}, line {number}", line)
                    count += 1

    def shards(self, size: int) -> Iterator[tuple[Item, ...]]:
        """The clips in groups of `size`; the last one may be smaller."""
        items = self.items()
        while shard := tuple(islice(items, size)):
            yield shard

    def recording(self, item: Item) -> Recording:
        """What an item names, its header checked.

        Raises:
            AudioError: the line is broken, or the recording cannot be read as audio.
        """
        if item.line is None or self.manifest is None:
            return audio.list_clips(_literal(item.name))[0]
        try:
            text = item.line.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise AudioError("The line is not UTF-8 text.", where=item.name, detail=error.reason) from error
        return audio.parse_line(text, folder=self.manifest.parent, where=item.name)

    def fingerprint(self) -> tuple[str, int]:
        """sha256 of what was asked for, and the number of clips; reads a manifest once."""
        digest, count = hashlib.sha256(), 0
        for item in self.items():
            digest.update(item.line if item.line is not None else _stamp(Path(item.name)))
            count += 1
        return digest.hexdigest(), count


def _literal(path: str) -> str:
    """A path as a pattern that matches nothing else."""
    import glob

    return path if Path(path).is_file() else glob.escape(path)


def _stamp(path: Path) -> bytes:
    """A file's path, size and time of change; its samples need not be read to know that it is another one."""
    try:
        found = path.stat()
    except OSError:
        return f"{path}\n".encode()
    return f"{path} {found.st_size} {found.st_mtime_ns}\n".encode()


def find_corpus(entry: InputsConfig) -> Corpus:
    """The clips that a configuration names.

    Raises:
        AudioError: the manifest is missing, or a pattern matches nothing.
        ConfigError: the inputs are tensors.
    """
    if entry.tensors is not None or not entry.given:
        action = "Give inputs.audio or inputs.manifest."
        raise ConfigError("There is nothing to decode: the inputs are no audio.", where="inputs", action=action)
    if entry.manifest is not None:
        manifest = Path(entry.manifest).expanduser()
        check_file(manifest, where="inputs.manifest")
        return Corpus(manifest, ())
    patterns = [entry.audio] if isinstance(entry.audio, str) else list(entry.audio or ())
    return Corpus(None, tuple(audio.matching(patterns)))
