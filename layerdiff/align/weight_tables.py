"""The weights of one side as tables of rows, which is all that the search for weights looks at.

A table holds the rows along one axis, each as at most `PROJECTIONS` numbers whose length is about the row's norm: the
values themselves where a row is that short, else its products with random vectors. Scalars, weights with a value that
is not finite, and integers of the reference (`num_batches_tracked`) are not searched for.

Which weights belong together is known from the ops that hold them, and of a checkpoint, which has no ops, from the
modules in its keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdiff.align.weight_match import is_finite
from layerdiff.fingerprint import PROJECTIONS, Fingerprint, random_vectors
from layerdiff.outline import Outline, Weight

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a weight along one axis, or some of them."""

    weight: str
    axis: int
    length: int
    """Elements of a row."""
    numbers: Array
    """float64[rows, min(length, PROJECTIONS)]; squared, they sum up to about the row's squared norm."""
    norms: Array
    """float64[rows]; the rows' norms."""
    place: tuple[int, int] = (0, 1)
    """The axis counted among the axes longer than one, and how many of these there are."""

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def squares(self) -> Array:
        """float64[rows]; what the squares of a row's numbers sum up to."""
        return np.asarray((self.numbers * self.numbers).sum(axis=1))

    @cached_property
    def directions(self) -> Array:
        """The rows' numbers at length one; zeros of a row of zeros."""
        lengths = np.sqrt(self.squares)[:, None]
        found: Array = np.divide(self.numbers, lengths, out=np.zeros_like(self.numbers), where=lengths > 0)
        return found

    @cached_property
    def unordered(self) -> Array:
        """What does not change with the order of the rows: their sum; of a vector the sorted values."""
        return np.sort(self.numbers[:, 0]) if self.length == 1 else np.asarray(self.numbers.sum(axis=0))

    def part(self, first: int, end: int) -> Rows:
        """Some of the rows."""
        return replace(self, numbers=self.numbers[first:end], norms=self.norms[first:end])

    def reordered(self, order: Iterable[int]) -> Rows:
        """The rows in another order."""
        rows = list(order)
        return replace(self, numbers=self.numbers[rows], norms=self.norms[rows])

    def plus(self, other: Rows) -> Rows:
        """The table of the sum of two weights: products are linear."""
        numbers = self.numbers + other.numbers
        return replace(self, numbers=numbers, norms=np.linalg.norm(numbers, axis=1))


def vector(weight: str, values: Array, *, axis: int = 0) -> Rows:
    """The table of a vector, float64[n]."""
    return Rows(weight, axis, 1, values[:, None], np.abs(values))


@dataclass(frozen=True, eq=False)
class Side:
    """What is searched of one outline."""

    outline: Outline
    tables: Mapping[str, tuple[Rows, ...]] = field(default_factory=dict)
    """Weight → its tables, one per axis longer than one."""

    @cached_property
    def vectors(self) -> Mapping[str, Rows]:
        """The weights with one axis longer than one: their rows are their values."""
        return {name: tables[0] for name, tables in self.tables.items() if len(tables) == 1}

    @cached_property
    def matrices(self) -> Mapping[str, tuple[Rows, ...]]:
        """All others."""
        return {name: tables for name, tables in self.tables.items() if len(tables) > 1}

    @cached_property
    def groups(self) -> tuple[Mapping[str, str], ...]:
        """The weights that belong together, by their roles: those of an op, or of a module."""
        if any(node.weights for node in self.outline.nodes):
            return tuple(dict(node.weights) for node in self.outline.nodes if node.weights)
        modules: dict[str, dict[str, str]] = {}
        for name in self.outline.weights:
            module, dot, role = name.rpartition(".")
            if dot:
                modules.setdefault(module, {})[role] = name
        return tuple(modules.values())

    @cached_property
    def groups_of(self) -> Mapping[str, tuple[int, ...]]:
        """Weight → the numbers of the groups that it is in."""
        found: dict[str, list[int]] = {}
        for number, group in enumerate(self.groups):
            for name in group.values():
                found.setdefault(name, []).append(number)
        return {name: tuple(dict.fromkeys(numbers)) for name, numbers in found.items()}

    def role(self, name: str) -> str:
        """The role of a weight in its first group; empty if it is in none."""
        for number in self.groups_of.get(name, ())[:1]:
            return next(role for role, member in self.groups[number].items() if member == name)
        return ""

    def partners(self, name: str) -> tuple[str, ...]:
        """The other weights of its groups."""
        members = (member for number in self.groups_of.get(name, ()) for member in self.groups[number].values())
        return tuple(dict.fromkeys(member for member in members if member != name))


def side(outline: Outline, *, integers: bool) -> Side:
    """The tables of an outline; computes the fingerprints that are not known yet, which reads every weight once.

    Args:
        outline: of a model or a checkpoint.
        integers: whether weights that are stored as integers count; those of a package are compressed floats.
    """
    weights = (w for w in outline.weights.values() if prod(w.shape) > 1 and (integers or w.dtype.startswith(_FLOAT)))
    return Side(outline, {weight.name: tables for weight in weights if (tables := _tables(weight))})


_FLOAT = ("float", "bfloat")


def _tables(weight: Weight) -> tuple[Rows, ...]:
    found = weight.fingerprint
    if not is_finite(found):
        return ()
    return tuple(_table(weight.name, found, axis) for axis in found.axes)


def _table(name: str, found: Fingerprint, axis: int) -> Rows:
    length = prod(found.shape) // found.shape[axis]
    numbers, norms = _numbers(found.products[axis], length), found.norms[axis].astype(np.float64)
    return Rows(name, axis, length, numbers, norms, (found.axes.index(axis), len(found.axes)))


def _numbers(products: NDArray[np.float32], length: int) -> Array:
    wide = products.astype(np.float64)
    return np.asarray(wide / np.sqrt(PROJECTIONS) if length > PROJECTIONS else wide @ _recovering(length))


@lru_cache(maxsize=PROJECTIONS)
def _recovering(length: int) -> Any:
    """float64[PROJECTIONS, length]: gets a short row back from its products."""
    return np.linalg.pinv(random_vectors(length))
