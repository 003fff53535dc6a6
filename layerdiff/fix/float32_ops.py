"""Which ops of a float16 package have to stay float32: a greedy search, each step a conversion and a comparison.

All of them stay float32 at first. Then one after the other is given up, those with the most weights first, and stays
given up if the package still passes. So each one that is left was tried: in float16 it makes something fail, though all
others that are left are float32. Ops that only move values go with the op whose result they move.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from layerdiff.convert.conversion import SELECTABLE
from layerdiff.outline import MOVEMENT
from layerdiff.sources.coreml_kinds import KINDS

if TYPE_CHECKING:
    from layerdiff.mil import Model

Passes = Callable[[Sequence["Group"]], bool]
"""Whether a package passes whose float32 ops are those of the groups."""


@dataclass(frozen=True)
class Group:
    """An op that computes something, and the ops that move its result."""

    name: str
    """As coremltools names the op."""
    type: str
    """`linear`, `add`, …"""
    ops: tuple[str, ...]
    """All of them by name, the computing one first."""
    values: int
    """How many values its constants have."""

    def __str__(self) -> str:
        return f"{self.type} '{self.name}'"

    def described(self, inner: Mapping[str, str]) -> str:
        """`linear 'linear_0' (joint.enc)`.

        Args:
            inner: the reference's tensors → those of the float16 package.
        """
        result = f"{self.name.replace('.', '_')}_cast_fp16"
        tensor = next((reference for reference, name in inner.items() if name == result), None)
        return f"{self}{f' ({tensor})' if tensor else ''}"


def selectable(model: Model) -> list[Group]:
    """The groups of a package that was rebuilt in float16, in the order of the program."""
    groups: dict[str, list[dict[str, object]]] = {}
    head: dict[str, str] = {}
    for op in json.loads(model.package.metadata.get(SELECTABLE, "[]")):
        moved = next((head[name] for name in op["after"] if name in head), None)
        is_moved = moved is not None and KINDS.get(op["type"]) in MOVEMENT
        head[op["name"]] = moved if is_moved and moved is not None else op["name"]
        groups.setdefault(head[op["name"]], []).append(op)
    return [_group(ops) for ops in groups.values()]


def _group(ops: Sequence[dict[str, object]]) -> Group:
    first = ops[0]
    values = sum(int(str(op["values"])) for op in ops)
    return Group(str(first["name"]), str(first["type"]), tuple(str(op["name"]) for op in ops), values)


def ever_fewer(groups: Sequence[Group], passes: Passes) -> Iterator[Sequence[Group]]:
    """Ever smaller sets of groups that pass; no group of the last one can be left out. Nothing if all don't pass."""
    kept = list(groups)
    if not passes(kept):
        return
    yield tuple(kept)
    for group in sorted(groups, key=lambda group: -group.values):
        fewer = [other for other in kept if other is not group]
        if passes(fewer):
            kept = fewer
            yield tuple(kept)


def bytes_of(package: Path) -> int:
    """The size of all files of a package."""
    return sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
