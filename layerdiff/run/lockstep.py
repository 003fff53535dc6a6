"""Both sides at once, tensor by tensor: nothing is kept but what is still waited for.

The reference pushes its tensors as it computes them. For each one that has a counterpart, every run of the candidate
(as declared, widened, dithered, …) is advanced just until that is computed, and the pair is handed on.

The two sides rarely compute everything in one order. `early` says beforehand on which side a tensor waits for its
counterpart, so that as little as possible does: a mask that one side makes first and the other last must not make a
run go to its end. What waits is in memory up to `HELD_BYTES`, then on disk. So two models of any size are compared in
the memory of their own executions.

One of the candidate's runs is forced: every compared tensor of it is replaced by the reference's before the run goes
on. What it shows at a stage is therefore what the ops since the last stages make of the reference's tensors, which is
the stage's own error; one such run measures it for all stages.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from layerdiff.records import Array

HELD_BYTES = 256 * 2**20
"""How much of held tensors stays in memory; what does not fit is written to a temporary file."""


@dataclass
class Shelf:
    """Tensors that were computed before they are needed."""

    room_bytes: int = HELD_BYTES
    _values: dict[str, Array] = field(default_factory=dict)
    _files: dict[str, Path] = field(default_factory=dict)
    _used_bytes: int = 0
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def put(self, name: str, value: Array) -> None:
        """Keeps a copy of a tensor."""
        if self._used_bytes + value.nbytes <= self.room_bytes:
            self._values[name] = value.copy()
            self._used_bytes += value.nbytes
            return
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="layerdiff-")
        path = Path(self._folder.name) / f"{len(self._files)}.npy"
        np.save(path, value)
        self._files[name] = path

    def take(self, name: str) -> Array | None:
        """Gives a tensor back and forgets it; None if it is not here."""
        if name in self._files:
            path = self._files.pop(name)
            value: Array = np.load(path)
            path.unlink()
            return value
        found = self._values.pop(name, None)
        self._used_bytes -= 0 if found is None else found.nbytes
        return found

    def close(self) -> None:
        """Removes what is on disk."""
        self._values.clear()
        if self._folder is not None:
            self._folder.cleanup()


@dataclass
class Cursor:
    """One run of a candidate, from which tensors are taken in any order, each as often as it is expected."""

    tensors: Iterator[tuple[str, Array]]
    """Values may be lent: they need to hold only until the next one is computed."""
    expected: Counter[str]
    overrides: MutableMapping[str, Array] | None = None
    """Of a forced run: tensor → the value with which it goes on."""
    shelf: Shelf = field(default_factory=Shelf)
    _last: str = ""

    def take(self, name: str) -> Array | None:
        """The tensor of that name; None if the run has ended without it."""
        found = self.shelf.take(name)
        while found is None:
            step = next(self.tensors, None)
            if step is None:
                return None
            self._last, value = step
            if self._last == name:
                found = value
            elif self.expected[self._last] > 0:
                self.shelf.put(self._last, value)
        self.expected[name] -= 1
        if self.expected[name] > 0:
            self.shelf.put(name, found)
        return found

    def replace(self, name: str, value: Array) -> None:
        """Lets a forced run go on with `value`, if `name` is the tensor that it computed last."""
        if self.overrides is not None and name == self._last:
            self.overrides[name] = value

    def finish(self) -> None:
        """Runs to the end, so that what the run does last is done too."""
        for _ in self.tensors:
            pass


@dataclass
class Lockstep:
    """The runs of one candidate beside one run of the reference."""

    cursors: Mapping[str, Cursor]
    """Variant → its run."""
    waiting: Shelf = field(default_factory=Shelf)
    """Tensors of the reference that the candidate has not come to."""

    def __enter__(self) -> Lockstep:
        return self

    def __exit__(self, *_: Any) -> None:
        with ExitStack() as ends:
            ends.callback(self.waiting.close)
            for cursor in self.cursors.values():
                ends.callback(cursor.shelf.close)
                close = getattr(cursor.tensors, "close", None)
                if close is not None:
                    ends.callback(close)

    def take(self, name: str) -> dict[str, Array]:
        """Variant → the tensor of that name, of every run that computes it."""
        found = {variant: cursor.take(name) for variant, cursor in self.cursors.items()}
        return {variant: value for variant, value in found.items() if value is not None}


def expected_of(names: Iterable[str]) -> Counter[str]:
    """How often each tensor will be taken."""
    return Counter(names)


def early(places: Sequence[int], sizes: Sequence[int]) -> frozenset[int]:
    """The pairs whose reference's tensor waits for the candidate's.

    As many elements as possible are compared as soon as both sides have it: the heaviest chain of pairs that both
    sides compute in one order. Of what is left, it is the tensor of the side that is ahead of the chain that waits.

    Args:
        places: of each pair, in the order of the reference, the place of the candidate's tensor in its own order.
        sizes: of each pair, its number of elements.

    Returns:
        Indices of `places`. Memory is O(n), time O(n²) in NumPy.
    """
    order, weights = np.asarray(places, np.int64), np.asarray(sizes, np.int64) + 1
    best, before = weights.copy(), np.full(len(order), -1)
    for index in range(1, len(order)):
        fits = np.where(order[:index] <= order[index], best[:index], 0)
        last = int(np.argmax(fits))
        if fits[last]:
            best[index] += fits[last]
            before[index] = last
    chain: list[int] = []
    link = int(np.argmax(best)) if len(order) else -1
    while link >= 0:
        chain.append(link)
        link = int(before[link])
    following, waits = np.iinfo(np.int64).max, set()
    members = set(chain)
    for index in range(len(order) - 1, -1, -1):
        if index in members:
            following = order[index]
        elif order[index] > following:
            waits.add(index)
    return frozenset(waits)
