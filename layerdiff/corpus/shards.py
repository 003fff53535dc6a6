"""A shard of a corpus: decoded as a whole, kept as a whole, merged in the order of the corpus.

A shard's result depends on its clips and on the models alone, and shards are cut by number, so it makes no difference
how many workers there are or which of them decodes what.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff import audio, store
from layerdiff.corpus.clips import Hearing, compare_clip, tally_of
from layerdiff.decode.tally import Tally
from layerdiff.errors import LayerdiffError

if TYPE_CHECKING:
    from layerdiff.config import DecodeConfig
    from layerdiff.corpus.items import Corpus, Item
    from layerdiff.corpus.models import Models

Mixtures = Mapping[str, Mapping[str, Tally]]
"""Candidate → its components, joined by `+` → counts."""


@dataclass(frozen=True)
class Shard:
    """What decoding a number of clips gave; all of it merges by `+`."""

    clips: int = 0
    """Clips that were asked for."""
    samples: int = 0
    reference: Tally = field(default_factory=Tally)
    candidates: Mapping[str, Tally] = field(default_factory=dict)
    mixtures: Mixtures = field(default_factory=dict)

    def __add__(self, other: Shard) -> Shard:
        return Shard(
            self.clips + other.clips,
            self.samples + other.samples,
            self.reference + other.reference,
            _merged(self.candidates, other.candidates),
            {
                name: _merged(self.mixtures.get(name, {}), other.mixtures.get(name, {}))
                for name in {**self.mixtures, **other.mixtures}
            },
        )


def _merged(ours: Mapping[str, Tally], theirs: Mapping[str, Tally]) -> dict[str, Tally]:
    return {name: ours.get(name, Tally()) + theirs.get(name, Tally()) for name in {**ours, **theirs}}


GROUP = 20
"""Clips that are taken component by component: a component that runs several times in turn runs faster."""


def decode_shard(items: Sequence[Item], corpus: Corpus, models: Models, config: DecodeConfig) -> list[dict[str, Any]]:
    """The rows of some clips; one that can't be decoded has a `problem`, and the others go on."""
    groups = [items[start : start + GROUP] for start in range(0, len(items), GROUP)]
    return [row for group in groups for row in _decode_group(group, corpus, models, config)]


def _decode_group(items: Sequence[Item], corpus: Corpus, models: Models, config: DecodeConfig) -> list[dict[str, Any]]:
    rows = [_opened(item, corpus, models, config) for item in items]
    hearings = [row["hearing"] for row in rows if "hearing" in row]
    for component in ("preprocessor", "encoder"):
        for hearing in hearings:
            hearing.prepare(component)
    found = []
    for item, row in zip(items, rows, strict=True):
        hearing = row.pop("hearing", None)
        try:
            if hearing is not None:
                row |= compare_clip(hearing, is_audited=item.index < config.lengths)
        except LayerdiffError as error:
            row["problem"] = str(error)
        found.append(row)
    return found


def _opened(item: Item, corpus: Corpus, models: Models, config: DecodeConfig) -> dict[str, Any]:
    """The beginning of a row, with the clip ready to be heard or the problem that it has."""
    row: dict[str, Any] = {"index": item.index, "clip": Path(item.name).name if item.line is None else item.name}
    try:
        recording = corpus.recording(item)
        row["clip"] = recording.name
        clip = audio.read_one(recording, sample_rate_hz=models.reference.sample_rate_hz)
        return {**row, "hearing": Hearing(models, config, clip)}
    except LayerdiffError as error:
        return {**row, "problem": str(error)}


def counted(rows: Iterable[Mapping[str, Any]], candidates: Iterable[str]) -> Shard:
    """What the rows of clips add up to.

    Args:
        rows: of `decode_shard`.
        candidates: the names of those that were to be decoded.
    """
    names, total = list(candidates), Shard()
    for row in rows:
        if "problem" in row:
            lost = Tally(problems=1)
            total += Shard(1, 0, lost, dict.fromkeys(names, lost))
            continue
        sides = {name: row["candidates"].get(name, {"problem": ""}) for name in names}
        total += Shard(
            1,
            row["samples"],
            tally_of(row, row["reference"]),
            {name: tally_of(row, side) for name, side in sides.items()},
            {
                name: {mixed: tally_of(row, part) for mixed, part in side["mixtures"].items()}
                for name, side in sides.items()
                if "mixtures" in side
            },
        )
    return total


ABOUT = "about.json"


@dataclass(frozen=True)
class Checkpoints:
    """The rows of every finished shard, one file each; what is there is whole."""

    folder: Path

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.json"

    def load(self, index: int) -> list[dict[str, Any]] | None:
        """The rows of a shard; None if it isn't finished, or its file was damaged."""
        try:
            rows = json.loads(self.path(index).read_bytes())
        except (OSError, ValueError):
            return None
        return rows if isinstance(rows, list) else None

    def all(self) -> Iterator[list[dict[str, Any]]]:
        """The rows of every shard, in order."""
        index = 0
        while (rows := self.load(index)) is not None:
            yield rows
            index += 1

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of all clips, in order."""
        return (row for rows in self.all() for row in rows)

    def tell(self, about: Mapping[str, Any]) -> None:
        """Keeps what is known of the models."""
        store.write_atomically(self.folder / ABOUT, store.json_bytes(about))

    def about(self) -> dict[str, Any] | None:
        """What `tell` kept; None if there is nothing."""
        try:
            found = json.loads((self.folder / ABOUT).read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def save(self, index: int, rows: list[dict[str, Any]]) -> None:
        """Keeps a finished shard."""
        store.write_atomically(self.path(index), store.json_bytes(rows))
