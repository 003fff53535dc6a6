"""Any tensor of a package from Core ML, which shows outputs only.

The tensors are made outputs of a temporary package (`layerdiff.mil.outputs`), as many at a time as one chunk holds, and
each such package runs in a child process of its own. Where Core ML refuses one, crashes or hangs, its tensors are
halved until those are alone that it does not show: these are kept with the reason, and all others are delivered. The
same tensors are halved in the same way each time.

At most one temporary package of a probe exists at a time. All that a probe and its children write lies in one folder,
which goes with the probe, or with the process; what a killed process has left goes when the next probe is made.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from layerdiff.errors import EngineError, OutputError
from layerdiff.mil.compiled import is_compiled
from layerdiff.mil.exposure import CHUNK, SUFFIX, write_exposed
from layerdiff.mil.outputs import Exposure, Selection, select
from layerdiff.sources.coreml_native_process import (
    ANSWER_WITHIN_S,
    Child,
    Load,
    NativePackage,
    Place,
    Placement,
    load_core_ml,
    place_core_ml,
    require_compute_unit,
)

if TYPE_CHECKING:
    from layerdiff.mil import Model
    from layerdiff.mil.program import TensorType
    from layerdiff.records import Array

T = TypeVar("T")
Group = tuple[str, ...]
"""Tensors that one package shows, in the order of the program."""

PREFIX = "layerdiff-native-"
"""How the names of temporary folders begin; the number of their process follows."""


@dataclass
class Probe:
    """One package on Core ML, as it is and with more outputs."""

    model: Model
    """The opened package, for what it declares."""
    compute_unit: str = "ALL"
    load: Load = load_core_ml
    """Loads a package in the child."""
    chunk: int = CHUNK
    """Most tensors that one temporary package shows."""
    answer_within_s: float = ANSWER_WITHIN_S
    refused: dict[str, str] = field(default_factory=dict, init=False)
    """Tensors that Core ML was seen not to show → what it said."""
    _plain: Child | None = field(default=None, init=False)
    _exposed: tuple[Group, Path, Child] | None = field(default=None, init=False)
    """The temporary package that exists, if one does."""
    _shown: dict[Group, list[Group]] = field(default_factory=dict, init=False)
    """Tensors that were asked for together → the groups in which Core ML showed them."""

    def __post_init__(self) -> None:
        require_compute_unit(self.compute_unit)

    # -------------------------------------------------------------- what can be had

    @cached_property
    def selection(self) -> Selection:
        """Every tensor of the function: what can be an output, what is one, what cannot."""
        found = select(self.model.graph, None)
        package = self.model.package
        if not package.member and package.path.is_dir() and not is_compiled(package.path):
            return found
        reason = "is inside of a package that is no .mlpackage, to which no outputs can be added"
        return Selection((), found.already, {**{e.tensor: reason for e in found.exposures}, **found.left_out})

    @cached_property
    def exposures(self) -> Mapping[str, Exposure]:
        """Tensor → the output that shows it, in the order of the program."""
        return {exposure.tensor: exposure for exposure in self.selection.exposures}

    def why_not(self, tensor: str) -> str:
        """Why Core ML does not show a tensor, as a sentence without its end; empty if nothing is known against it."""
        if tensor in self.refused:
            return f"Core ML does not show '{tensor}': {self.refused[tensor]}"
        left_out = self.selection.left_out
        return f"Core ML cannot show '{tensor}': it {left_out[tensor]}" if tensor in left_out else ""

    # -------------------------------------------------------------- running

    @property
    def plain(self) -> Child:
        """The untouched package in its process."""
        if self._plain is None:
            self._plain = self._child(self.model.path)
        return self._plain

    def each(self, tensors: Iterable[str], use: Callable[[Child, Group], T]) -> Iterator[tuple[Group, T]]:
        """What `use` makes of every group of tensors, with the child whose package shows them.

        Args:
            tensors: those to show; what cannot be shown, or was seen not to be, is passed over.
            use: runs the child. An EngineError of it counts against the tensors of the group.

        Raises:
            OutputError: the temporary package cannot be written.
        """
        wanted = set(tensors)
        asked = tuple(name for name in self.exposures if name in wanted and name not in self.refused)
        pending = list(self._shown.get(asked, chunks(asked, self.chunk)))
        shown: list[Group] = []
        try:
            while pending:
                group = pending.pop(0)
                try:
                    answer = use(self._showing(group), group)
                except EngineError as error:
                    self._retire()
                    if len(group) == 1:
                        self.refused[group[0]] = error.detail or error.what
                    else:
                        pending[:0] = halves(group)
                    continue
                shown.append(group)
                yield group, answer
        except BaseException:  # interrupted, or left by whoever iterates
            self.close()
            raise
        self._shown[tuple(name for name in asked if name not in self.refused)] = shown
        if len(shown) > 1:  # the only one may be asked again
            self._retire()

    def placements(self, place: Place = place_core_ml) -> Mapping[str, Placement]:
        """Where Core ML means to run each op of the untouched package; see `Child.placements`."""
        return self.plain.placements(place)

    def declared(self, outputs: Mapping[str, Any], group: Group = ()) -> dict[str, Array]:
        """What a child returned, by the names of tensors and as the program declares them.

        Floats stay as wide as Core ML returns them. What is no array, as an image or a label, is left out.
        """
        types = self.model.graph.types
        names = {name: name for name in self.model.outputs} | {self.exposures[name].output: name for name in group}
        return {
            names[output]: as_declared(value, types[names[output]])
            for output, value in outputs.items()
            if output in names and isinstance(value, np.ndarray | np.generic)
        }

    def close(self) -> None:
        """Ends the children and removes what they and this have written."""
        self._retire()
        if self._plain is not None:
            self._plain.close()
            self._plain = None
        if self.__dict__.pop("_folder", None) is not None:
            self._finalizer()

    # -------------------------------------------------------------- temporary packages

    @cached_property
    def _folder(self) -> Path:
        place = workplace(self.model.path)
        remove_abandoned(place)
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))
        self._finalizer = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _showing(self, group: Group) -> Child:
        """The child whose package has the tensors of a group as outputs."""
        if self._exposed is not None and self._exposed[0] == group:
            return self._exposed[2]
        self._retire()
        place = Path(tempfile.mkdtemp(prefix="exposed-", dir=self._folder))
        path = place / f"{self.model.path.stem}{SUFFIX}"
        try:
            write_exposed(self.model.package, self.model.function, [self.exposures[name] for name in group], path)
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise OutputError(
                f"the temporary package '{path}' cannot be written: {error.strerror or error}.",
                action="make room there, or name another folder for temporary files in TMPDIR",
            ) from error
        child = self._child(path)
        self._exposed = group, place, child
        return child

    def _retire(self) -> None:
        """Ends the child of the temporary package and removes both's files."""
        if self._exposed is not None:
            _, place, child = self._exposed
            child.close()
            shutil.rmtree(place, ignore_errors=True)
            if child.scratch is not None:
                shutil.rmtree(child.scratch, ignore_errors=True)
            self._exposed = None

    def _child(self, path: Path) -> Child:
        model = self.model
        function = None if model.function == model.package.default_function else model.function
        package = NativePackage(str(path), self.compute_unit, function, stateful=bool(model.states))
        scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=self._folder))
        return Child(package, self.load, scratch, self.answer_within_s)


def chunks(tensors: Sequence[str], size: int) -> list[Group]:
    """The tensors in groups of at most `size`."""
    return [tuple(tensors[i : i + size]) for i in range(0, len(tensors), size)]


def halves(group: Group) -> tuple[Group, Group]:
    """The first half, which has the middle one of an odd number, and the second."""
    middle = (len(group) + 1) // 2
    return group[:middle], group[middle:]


def as_declared(value: Any, type_: TensorType) -> Array:
    """A tensor that Core ML returned, as the program declares it.

    Core ML returns tensors without axes as [1], float16 as float32, and of bool and narrow integers the cast to int32.
    """
    array = np.asarray(value)
    if type_.shape == () and array.shape == (1,):
        array = array.reshape(())
    if array.dtype.kind in "biu" and type_.dtype != array.dtype.name:
        array = array.astype(type_.dtype)
    return array.astype(np.float32) if array.dtype == np.float16 else array


# ------------------------------------------------------------------ temporary folders


def workplace(package: Path) -> Path:
    """Where temporary packages are written: where the weights can be hard links, if there is such a place."""
    system = Path(tempfile.gettempdir())
    beside = package.resolve().parent
    if system.stat().st_dev != package.stat().st_dev and os.access(beside, os.W_OK):
        return beside
    return system


def remove_abandoned(place: Path) -> None:
    """Removes the temporary folders of processes that are gone."""
    for folder in place.glob(f"{PREFIX}*-*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdecimal() and not is_running(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def is_running(process: int) -> bool:
    """Whether there is a process of that number; true where that cannot be found out."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
