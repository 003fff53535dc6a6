"""Configurations of one candidate, and references with changed joints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerdiff import config, convert, fix
from layerdiff.config import Config
from layerdiff.progress import SILENT
from layerdiff.sources.nemo import NemoSource

ROOT = Path(__file__).parents[2]
CLIPS = [str(ROOT / "audio" / f"{name}.wav") for name in ("call_peter_on_three_two", "leading_silence")]


@pytest.fixture(scope="package", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Packages are converted for these tests, not found in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def one(tmp_path: Path) -> Callable[..., Config]:
    """A configuration of one candidate `it`, whose run directory is the test's."""

    def make(entry: dict[str, Any], **changes: Any) -> Config:
        values = {
            "reference": {"nemo": "parakeet-tdt-mini", "component": "joint"},
            "candidates": {"it": entry},
            "inputs": {"audio": CLIPS},
            "outputs": {"dir": str(tmp_path / "out")},
        }
        return config.from_mapping(values | changes)

    return make


@pytest.fixture
def repair(reference: NemoSource) -> Callable[..., Any]:
    def run(of: Config, *, source: NemoSource | None = None, **options: Any) -> Any:
        return fix.repair(of, progress=SILENT, reference=source or reference, **options)

    return run


@pytest.fixture(scope="package")
def large() -> NemoSource:
    """The same function with hidden values up to 180 000, beyond float16, and output weights below its normal range."""
    source = NemoSource.open("parakeet-tdt-mini")
    for projection in (source.joint.enc, source.joint.pred):
        projection.weight.data *= 1e4
        projection.bias.data *= 1e4
    source.joint.joint_net[-1].weight.data /= 1e4
    return source


@pytest.fixture
def package(reference: NemoSource) -> Callable[[str], Path]:
    """Component → its float32 package."""
    options = config.ConvertConfig(precision="float32")
    return lambda component: convert.build(reference, component, options)
