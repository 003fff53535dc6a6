"""Configurations that decode clips with packages of the bundled model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from layerdiff import config
from layerdiff.config import Config, ConvertConfig
from layerdiff.convert import build
from layerdiff.records import COMPONENTS
from layerdiff.store import Cache

if TYPE_CHECKING:
    from layerdiff.sources.nemo import NemoSource

AUDIO = Path(__file__).parents[2] / "audio"
CORPUS = AUDIO / "corpus" / "manifest.jsonl"

Make = Callable[..., Config]


@pytest.fixture(scope="package")
def packages(reference: NemoSource, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Precision → component → package."""
    cache = Cache(tmp_path_factory.mktemp("packages"))
    return {
        precision: {
            name: str(build(reference, name, ConvertConfig(precision=precision, debug=False), cache=cache))
            for name in COMPONENTS
        }
        for precision in ("float32", "float16")
    }


def manifest_of(path: Path, count: int, *, start: int = 0) -> Path:
    """A manifest of some clips of the corpus, with absolute paths."""
    lines = CORPUS.read_text().splitlines()[start : start + count]
    entries = [json.loads(line) for line in lines]
    for entry in entries:
        entry["audio_filepath"] = str(CORPUS.parent / entry["audio_filepath"])
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.fixture
def make(packages: Mapping[str, Any], tmp_path: Path) -> Make:
    """A configuration with the float16 packages as its candidate, on the first clips of the corpus."""

    def made(*, clips: int = 6, shard: int = 2, **changes: Any) -> Config:
        values = {
            "reference": {"nemo": "parakeet-tdt-mini", "component": "whole"},
            "candidates": {"float16": {"coreml": dict(packages["float16"])}},
            "inputs": {"manifest": str(manifest_of(tmp_path / "clips.jsonl", clips))},
            "execution": {"shard": shard},
            "outputs": {"dir": str(tmp_path / "out")},
        }
        return config.from_mapping(values | changes)

    return made
