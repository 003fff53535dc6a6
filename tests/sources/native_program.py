"""A small program for the tests of the native source, with the values that its tensors have on one feed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff import mil
from tests.mil.conftest import build as build
from tests.sources.core_ml_stand_ins import Recorded

X = np.random.default_rng(3).standard_normal((2, 5)).astype(np.float32)
CHAIN = tuple(f"t{index}" for index in range(9))
"""Tensors one behind the other."""


class Program:
    """A package, opened; `recorded` makes stand-ins that answer for it."""

    def __init__(self, package: Path, folder: Path) -> None:
        self.model: Any = mil.load(package)
        exposed = mil.expose(package, None, folder / "everything.mlpackage").path
        self.values: dict[str, np.ndarray] = mil.load(exposed).predict({"x": X})
        """Output of a package that shows everything → value."""
        np.savez(folder / "values.npz", **self.values)
        self.folder, self.log = folder, folder / "log"

    def recorded(self, **options: Any) -> Recorded:
        self.log.write_text("")
        return Recorded(str(self.folder / "values.npz"), str(self.log), **options)

    @property
    def loaded(self) -> list[list[str]]:
        """The outputs of every package that was loaded since `recorded`, its own output left out."""
        return [line.split(",")[1:] for line in self.log.read_text().splitlines()]

    def expected(self, name: str) -> np.ndarray:
        """A tensor as the portable engine has it."""
        found: np.ndarray = self.model.run({"x": X}, [name])[name]
        return found


@pytest.fixture(scope="module")
def program(build: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Program:
    """t0 … t8, then `flag` (bool), `total` (without axes), `choice` (a condition with `doubled` in it) and `result`."""
    from coremltools.converters.mil import Builder as mb

    def body(x: Any) -> Any:
        for index, name in enumerate(CHAIN):
            x = mb.mul(x=x, y=-0.75, name=name) if index % 2 else mb.add(x=x, y=0.25 * (index + 1), name=name)
        flag = mb.greater(x=x, y=0.9, name="flag")
        total = mb.reduce_sum(x=x, axes=[0, 1], keep_dims=False, name="total")
        choice = mb.cond(
            pred=mb.greater(x=total, y=0.0, name="positive"),
            _true_fn=lambda: mb.mul(x=x, y=2.0, name="doubled"),
            _false_fn=lambda: mb.identity(x=x, name="same"),
            name="choice",
        )
        return mb.select(cond=flag, a=choice, b=x, name="result")

    return Program(build(body, x=X), tmp_path_factory.mktemp("program"))


def leftovers(folder: Path) -> list[Path]:
    """Temporary folders of native probes."""
    return list(folder.glob("layerdiff-native-*"))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for all temporary files."""
    import tempfile

    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
