"""Reads a recorded trace as if its model ran here.

What was recorded on a GPU server or a Mac is compared on any machine. The trace answers for the feeds that it was
recorded on and for no other; it hands out what was stored, after a check of its hash, or refuses. Opening reads the
index and the headers of the shards; reading a tensor touches that tensor only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.errors import LISTED_NAMES, FeedError, TraceError
from layerdiff.fingerprint import Fingerprint
from layerdiff.outline import Outline, Weight
from layerdiff.sources.recorded_format import Stored, damaged, node_from_json, read_index
from layerdiff.sources.recorded_shards import ShardReader
from layerdiff.store import sha256_array

if TYPE_CHECKING:
    from layerdiff.records import Array
    from layerdiff.sources import Feed, Sink

FINGERPRINT_TOLERANCE = 1e-6
"""How far the fingerprints of one weight, relative to a row's norm, may lie apart on two machines, which add up in
different orders."""

_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What an index raises that has a good hash and not the fields of its format."""


@dataclass(frozen=True, eq=False)
class RecordedCall:
    """One run of the model on one feed."""

    label: str
    complete: bool
    """False if the recording was interrupted in it."""
    outline: int
    """The number of its outline."""
    feed: Mapping[str, Stored]
    tensors: Mapping[str, Stored]
    """In the order in which they were computed."""

    @cached_property
    def key(self) -> frozenset[tuple[str, str]]:
        """Name and sha256 of every input."""
        return frozenset((name, stored.sha256) for name, stored in self.feed.items())

    @cached_property
    def stored(self) -> Mapping[str, Stored]:
        """Inputs and tensors; an input that was also recorded as a tensor stands among the tensors."""
        inputs = {name: stored for name, stored in self.feed.items() if name not in self.tensors}
        return {**inputs, **self.tensors}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RecordedCall:
        feed, tensors = (
            {stored["name"]: Stored.from_json(stored) for stored in value[part]} for part in ("feed", "tensors")
        )
        return cls(str(value["label"]), bool(value["complete"]), int(value["outline"]), feed, tensors)


class StoredTensors(Mapping[str, "Array"]):
    """Tensors of a trace by name, each of which is read when it is asked for."""

    def __init__(self, tensors: Mapping[str, Stored], shards: ShardReader) -> None:
        self._tensors, self._shards = tensors, shards

    def __getitem__(self, name: str) -> Array:
        """Raises TraceError if the values are damaged."""
        return self._shards.read(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclass(frozen=True, eq=False)
class RecordedSource:
    """A recorded trace as a source; opened by `open`."""

    path: Path
    index: Mapping[str, Any]
    """The inner part of `index.json`."""
    _calls: tuple[RecordedCall, ...]
    _shards: ShardReader

    @classmethod
    def open(cls, path: str | Path, *, expect_model: Outline | None = None) -> RecordedSource:
        """Opens a trace, complete or partial.

        Args:
            path: the folder.
            expect_model: the model that it must have been recorded from; None if any will do.

        Raises:
            TraceError: it is missing, damaged, truncated, of another version, or of another model.
        """
        path = Path(path)
        index = read_index(path)
        try:
            calls = tuple(RecordedCall.from_json(call) for call in index["calls"])
            sizes_bytes = {str(name): int(shard["bytes"]) for name, shard in index["shards"].items()}
            source = cls(path, index, calls, ShardReader(path, sizes_bytes))
            tables = [table for weight in index["weights"] for table in _tables(weight)]
        except _UNREADABLE as error:
            raise damaged(path, f"the index lacks what its format asks for: {error!r}") from error
        for call in calls:
            for stored in (*call.feed.values(), *call.tensors.values()):
                source._shards.check(stored)
        for stored in tables:
            source._shards.check(stored)
        if expect_model is not None:
            source.require_same_model(expect_model)
        return source

    @property
    def title(self) -> str:
        """What was recorded, for messages."""
        return str(self.index["title"])

    @property
    def complete(self) -> bool:
        """False if the recording was interrupted."""
        return bool(self.index["complete"])

    @property
    def description(self) -> dict[str, Any]:
        """The source that was recorded, where and how; a partial trace says what it holds."""
        described = {
            "trace": str(self.path),
            "title": self.title,
            "complete": self.complete,
            "calls": len(self._calls),
            "recorded": self.index["description"],
            "environment": self.index["environment"],
            "settings": self.index["settings"],
        }
        return described if self.complete else described | {"state": self.state}

    @property
    def state(self) -> str:
        """`complete`, or how far a partial trace goes, in words."""
        if self.complete:
            return "complete"
        whole = sum(call.complete for call in self._calls)
        state = f"partial: {whole} complete call{'' if whole == 1 else 's'}"
        if self._calls and not self._calls[-1].complete:
            last = self._calls[-1]
            state += f", and the call '{last.label}' up to its tensor {len(last.tensors)}"
        return state

    @property
    def calls(self) -> dict[str, Feed]:
        """Label → feed of every call, in the order of the recording; an input is read when it is asked for."""
        return {call.label: StoredTensors(call.feed, self._shards) for call in self._calls}

    @property
    def complete_calls(self) -> tuple[str, ...]:
        """The labels of the calls that were recorded to their end."""
        return tuple(call.label for call in self._calls if call.complete)

    def feeds(self) -> Iterator[tuple[str, Feed]]:
        """Label and feed of every call, read: what another source is run on to be compared with this one."""
        for label, feed in self.calls.items():
            yield label, dict(feed)

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Tensors that were to be recorded and that some call does not hold."""
        asked = self.index["settings"]["names"]
        missing: dict[str, None] = {}
        for call in self._calls:
            nodes = self.index["outlines"][call.outline]["nodes"]
            names = [node["name"] for node in nodes] if asked is None else asked
            missing |= {name: None for name in names if name not in call.tensors}
        return tuple(missing)

    def outline(self, feed: Feed) -> Outline:
        """The whole structure of the model on this feed, also where only some tensors were recorded.

        Raises:
            FeedError: the trace was recorded on other inputs.
            TraceError: the fingerprints of the weights are damaged.
        """
        return self._outlines[self._call(feed).outline]

    def stream(self, feed: Feed, sink: Sink, wanted: Collection[str] | None = None) -> None:
        """Hands the tensors of the call with this feed to `sink`; see `trace`."""
        for name, value in self.trace(feed, wanted):
            sink(name, value)

    def trace(self, feed: Feed, wanted: Collection[str] | None = None) -> Iterator[tuple[str, Array]]:
        """The recorded tensors, in the order in which they were computed, or those of `wanted`.

        A name of `wanted` may be an alias, or an input; what was not recorded is left out (see `missing`).

        Raises:
            FeedError: the trace was recorded on other inputs; before anything is read.
            TraceError: a tensor is damaged; when it is reached.
        """
        call = self._call(feed)
        names = {name: [name] for name in call.tensors} if wanted is None else self._asked(call, wanted)
        return self._read(call.stored, names)

    def require_same_model(self, outline: Outline) -> None:
        """Compares the names and fingerprints of all weights with those of another outline.

        Raises:
            TraceError: the trace was recorded from another model.
        """
        ours = {name: weight for own in self._outlines for name, weight in own.weights.items()}
        theirs = outline.weights
        pairs = {name: (ours[name].fingerprint, theirs[name].fingerprint) for name in ours if name in theirs}
        groups = {
            "with other values": [name for name, pair in pairs.items() if not _same(*pair)],
            "only in the trace": [name for name in ours if name not in theirs],
            "only in the model": [name for name in theirs if name not in ours],
        }
        if not any(groups.values()):
            return
        lines = [f"{title}: {_listed(names)}" for title, names in groups.items() if names]
        raise TraceError(
            f"the trace was recorded from another model than '{outline.title}'.",
            where=str(self.path),
            detail="\n".join([f"expected its {len(theirs)} weights, got {len(ours)} of '{self.title}'", *lines]),
            action="record it again from this model, or compare it with the model that it was recorded from",
        )

    def _read(self, tensors: Mapping[str, Stored], names: Mapping[str, list[str]]) -> Iterator[tuple[str, Array]]:
        for stored in tensors.values():
            for name in names.get(stored.name, ()):
                yield name, self._shards.read(stored)

    def _asked(self, call: RecordedCall, wanted: Collection[str]) -> dict[str, list[str]]:
        """Name of a stored tensor → the names under which it is wanted."""
        nodes = self._outlines[call.outline].by_name
        stored = call.stored
        by_node = {nodes[name].name: name for name in stored if name in nodes}
        asked: dict[str, list[str]] = {}
        for name in sorted(set(wanted)):
            node = nodes[name].name if name in nodes else name
            if (found := name if name in stored else by_node.get(node)) is not None:
                asked.setdefault(found, []).append(name)
        return asked

    def _call(self, feed: Feed) -> RecordedCall:
        """The call with this feed; a complete one if there are several."""
        given = {name: np.asarray(value) for name, value in feed.items()}
        key = frozenset((name, sha256_array(value)) for name, value in given.items())
        matching = [call for call in self._calls if call.key == key]
        if not matching:
            raise self._other_feed(given)
        return next((call for call in matching if call.complete), matching[0])

    def _other_feed(self, given: Mapping[str, Array]) -> FeedError:
        """The error for a feed of no call; it shows the call with the most inputs in common."""

        def common(call: RecordedCall) -> int:
            return sum(name in given and str(stored) == _described(given[name]) for name, stored in call.feed.items())

        nearest = max(self._calls, key=common, default=None)
        lines = []
        for name in dict.fromkeys([*(nearest.feed if nearest else ()), *given]):
            stored = nearest.feed.get(name) if nearest else None
            expected = f"{stored} with sha256 {stored.sha256[:12]}…" if stored else "nothing"
            got = "nothing"
            if name in given:
                got = f"{_described(given[name])} with sha256 {sha256_array(given[name])[:12]}…"
            if expected != got:
                lines.append(f"'{name}': expected {expected}, got {got}")
        return FeedError(
            "the trace was recorded on other inputs.",
            where=str(self.path) + (f", the call '{nearest.label}'" if nearest else ", which holds no call"),
            detail="\n".join(lines),
            action=f"run the comparison on the inputs that were recorded: {_listed(list(self.calls))}",
        )

    @cached_property
    def _outlines(self) -> tuple[Outline, ...]:
        try:
            weights = [self._weight(value) for value in self.index["weights"]]
            return tuple(_outline(value, weights) for value in self.index["outlines"])
        except _UNREADABLE as error:
            raise damaged(self.path, f"the index lacks what its format asks for: {error!r}") from error

    def _weight(self, value: Mapping[str, Any]) -> Weight:
        tables = [self._shards.read(table) for table in _tables(value)]
        axes = len(tables) // 2
        print_ = Fingerprint(tuple(value["fingerprint"]["shape"]), tuple(tables[:axes]), tuple(tables[axes:]))
        return Weight(
            value["name"],
            value["dtype"],
            tuple(value["shape"]),
            known_fingerprint=print_,
            compression=value["compression"],
        )


def _tables(weight: Mapping[str, Any]) -> list[Stored]:
    """The tables of a weight's fingerprint: products of every axis, then norms of every axis."""
    parts = weight["fingerprint"]
    return [Stored.from_json(table) for kind in ("products", "norms") for table in parts[kind]]


def _outline(value: Mapping[str, Any], weights: list[Weight]) -> Outline:
    return Outline(
        value["title"],
        inputs=tuple(node_from_json(node) for node in value["inputs"]),
        nodes=tuple(node_from_json(node) for node in value["nodes"]),
        outputs=tuple(value["outputs"]),
        weights={key: weights[number] for key, number in value["weights"]},
    )


def _same(reference: Fingerprint, candidate: Fingerprint) -> bool:
    """True if two fingerprints are of one weight, up to the order in which two machines add."""
    if reference.shape != candidate.shape:
        return False
    sides = [
        np.concatenate([*(np.c_[p, n] for p, n in zip(print_.products, print_.norms, strict=True))]).astype(np.float64)
        for print_ in (reference, candidate)
    ]
    with np.errstate(invalid="ignore"):
        near = np.abs(sides[0] - sides[1]) <= FINGERPRINT_TOLERANCE * sides[0][:, -1:]
    same = near | (sides[0] == sides[1]) | (np.isnan(sides[0]) & np.isnan(sides[1]))
    return bool(same.all())


def _described(value: Array) -> str:
    return f"{value.dtype}{list(value.shape)}"


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:LISTED_NAMES])
    return shown + (f" … and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else "")
