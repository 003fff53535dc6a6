"""Acting right after a module was imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from layerdiff.binding.on_import import AfterImport


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that modules are imported from; they are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def arrival(folder: Path) -> Iterator[list[int]]:
    """What `fresh_module.value` was whenever the module had been executed."""
    (folder / "fresh_module.py").write_text("value = 1\nvalue += 1\n")
    seen: list[int] = []
    finder = AfterImport("fresh_module", lambda module: seen.append(module.value))
    finder.install()
    yield seen
    finder.remove()
    finder.remove()  # twice does no harm


def test_it_acts_when_the_module_is_complete(arrival: list[int]) -> None:
    assert arrival == []
    module = importlib.import_module("fresh_module")
    assert arrival == [2]
    importlib.import_module("fresh_module")
    assert arrival == [2]
    importlib.reload(module)
    assert arrival == [2, 2]


def test_the_module_keeps_its_own_loader(arrival: list[int]) -> None:
    module = importlib.import_module("fresh_module")
    assert module.__spec__ is not None
    assert isinstance(module.__spec__.loader, SourceFileLoader)
    assert module.__loader__ is module.__spec__.loader


def test_other_modules_are_left_alone(arrival: list[int], folder: Path) -> None:
    (folder / "fresh_module_2.py").write_text("value = 3\n")
    importlib.import_module("fresh_module_2")
    assert arrival == []


def test_nothing_is_done_for_a_module_that_fails_or_does_not_exist(folder: Path) -> None:
    (folder / "failing_module.py").write_text("1 / 0\n")
    acted: list[ModuleType] = []
    for name, error in (("failing_module", ZeroDivisionError), ("missing_module", ModuleNotFoundError)):
        finder = AfterImport(name, acted.append)
        finder.install()
        with pytest.raises(error):
            importlib.import_module(name)
        finder.remove()
    assert acted == []
    assert not any(isinstance(finder, AfterImport) for finder in sys.meta_path)
