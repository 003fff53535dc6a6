"""Which names of coremltools are replaced so that its `predict` reaches the portable engine, and how they are put back.

coremltools asks two questions before it predicts: is this macOS, and is there a binding to Core ML? Each of its
modules holds its own copy of the answers, so they are found by name, in every module of coremltools that is loaded:
`NAMES` is the whole list. Modules that are loaded later take their copies from the replaced ones. Nothing outside
of coremltools is touched: `sys.platform` and `platform.machine()` keep telling the truth.

coremltools itself is not imported for it: if it is not loaded yet, its names are replaced when it is.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from types import ModuleType, TracebackType
from typing import Any, Self

from layerdiff.binding.on_import import AfterImport

COREMLTOOLS = "coremltools"
BINDING = "coremltools.libcoremlpython"
"""The compiled module that coremltools has on macOS only."""

MACOS_VERSION = (26, 0)
"""What coremltools is told: the first version that takes everything coremltools 9.0 can write."""


def _is_macos() -> bool:
    return True


def _macos_version() -> tuple[int, ...]:
    return MACOS_VERSION


CLASSES = (
    "_MLModelProxy",
    "_MLModelAssetProxy",
    "_MLComputePlanProxy",
    "_MLCPUComputeDeviceProxy",
    "_MLGPUComputeDeviceProxy",
    "_MLNeuralEngineComputeDeviceProxy",
)
"""What the binding offers, as `proxy.OFFERED`; coremltools' modules hold None under these names where it is missing."""

ANSWERS: dict[str, Any] = {"_IS_MACOS": True, "_is_macos": _is_macos, "_macos_version": _macos_version}
"""How coremltools asks for the operating system, and what it is told."""

NAMES = (*ANSWERS, *CLASSES)
"""What is replaced in every module of coremltools that has it."""

HOMES = {
    "_IS_MACOS": "coremltools._deps",
    "_is_macos": "coremltools.models.utils",
    "_macos_version": "coremltools.models.utils",
}
"""Name → the module whose original is given to a module that was loaded while the names were replaced."""

_ABSENT: Any = object()


def enable_predict(force: bool = False) -> Enabled:
    """Makes coremltools' own `predict` work on this machine, through the portable engine.

    It works from the call on, for the rest of the process; as a context manager until the end of the block, which
    puts back every name of coremltools. Calls may be nested: names are put back when the last block ends, and never
    if one call was not made as a block. Models that were loaded before are not affected; those that are loaded
    meanwhile keep predicting afterwards.

    Args:
        force: replace Core ML on macOS too; without it nothing happens there.

    Returns:
        A context manager; it need not be used.
    """
    return Enabled(wanted=force or sys.platform != "darwin")


class Enabled:
    """That coremltools predicts through the portable engine; made by `enable_predict`."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._held = False
        self.__enter__()

    def __enter__(self) -> Self:
        if self._wanted and not self._held:
            _REPLACEMENT.take()
            self._held = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held:
            self._held = False
            _REPLACEMENT.release()


class _Replacement:
    """The one set of replaced names of the process, with the number of those who want it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._wanted = 0
        self._arrival = AfterImport(COREMLTOOLS, self._replace)
        self._binding: Any = _ABSENT
        self._before: dict[tuple[str, str], Any] = {}
        """Module and name → what was there."""

    def take(self) -> None:
        with self._lock:
            self._wanted += 1
            if self._wanted > 1:
                return
            if sys.platform == "darwin":
                importlib.import_module(COREMLTOOLS)  # takes its own binding, which is put back later
            self._binding = sys.modules.get(BINDING, _ABSENT)
            sys.modules[BINDING] = _Binding(BINDING)
            self._arrival.install()
            if COREMLTOOLS in sys.modules:
                self._replace(sys.modules[COREMLTOOLS])

    def release(self) -> None:
        with self._lock:
            self._wanted -= 1
            if self._wanted:
                return
            self._arrival.remove()
            _put_back(sys.modules, BINDING, self._binding)
            if COREMLTOOLS in sys.modules:
                self._restore(sys.modules[COREMLTOOLS])
            self._before, self._binding = {}, _ABSENT

    def _replace(self, coremltools: ModuleType) -> None:
        vars(coremltools)["libcoremlpython"] = sys.modules[BINDING]
        for module, name in _copies():
            replacement = ANSWERS[name] if name in ANSWERS else getattr(sys.modules[BINDING], name)
            if vars(module)[name] is not replacement:
                self._before[module.__name__, name] = vars(module)[name]
                vars(module)[name] = replacement

    def _restore(self, coremltools: ModuleType) -> None:
        _put_back(vars(coremltools), "libcoremlpython", self._binding)
        for module, name in _copies():
            before = self._before.get((module.__name__, name), _ABSENT)
            vars(module)[name] = self._original(name) if before is _ABSENT else before

    def _original(self, name: str) -> Any:
        """What a module would hold that was loaded while the names were replaced."""
        return getattr(self._binding, name, None) if name in CLASSES else self._before[HOMES[name], name]


def _put_back(names: dict[str, Any], name: str, value: Any) -> None:
    if value is _ABSENT:
        names.pop(name, None)
    else:
        names[name] = value


class _Binding(ModuleType):
    """Stands for coremltools' binding to Core ML. Its classes, and numpy with them, are loaded when they are asked for:
    a script may set variables of the environment that numpy and torch read when they are imported.
    """

    def __getattr__(self, name: str) -> type:
        if name not in CLASSES:
            raise AttributeError(f"module '{BINDING}' has no attribute '{name}'")
        from layerdiff.binding.proxy import OFFERED

        return OFFERED[name]


def _copies() -> Iterator[tuple[ModuleType, str]]:
    """Every name of `NAMES` in every module of coremltools that is loaded, with the module."""
    for path, module in list(sys.modules.items()):
        if path != BINDING and path.partition(".")[0] == COREMLTOOLS and isinstance(module, ModuleType):
            yield from ((module, name) for name in NAMES if name in vars(module))


_REPLACEMENT = _Replacement()
