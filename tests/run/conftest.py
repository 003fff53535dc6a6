"""What the tests of the pipeline share: packages of their own, runs of the shipped configurations, fixed windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerdiff import config, run
from layerdiff.convert import build, recipes
from layerdiff.convert.recipes import Port
from layerdiff.progress import SILENT
from layerdiff.records import Report
from layerdiff.sources.nemo import NemoSource
from layerdiff.store import Cache

ROOT = Path(__file__).parents[2]
CLIPS = [
    str(ROOT / "audio" / name)
    for name in ("call_peter_on_three_two.wav", "turn_off_the_radio_in_the_kitchen.wav", "leading_silence.wav")
]
WINDOWS: dict[str, Callable[[int], tuple[Port, ...]]] = {
    "preprocessor": lambda n: (
        Port("audio_signal", "float32", (1, n)),
        Port("audio_length", "int32", (1,), example=n),
    ),
    "encoder": lambda n: (Port("mel", "float32", (1, "F", n)), Port("mel_length", "int32", (1,), example=n)),
    "joint": lambda n: (Port("encoder", "float32", (1, "D", n)), Port("decoder", "float32", (1, "P", 1))),
}
"""Component → its inputs, given the length of its window."""

Execute = Callable[..., Report]
Window = Callable[[str, int], str]


@pytest.fixture(scope="package", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Packages are converted for these tests, not found in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="package")
def execute(reference: NemoSource) -> Execute:
    """A shipped configuration by name, with changes; on three clips."""

    def run_it(name: str, *, source: NemoSource | None = None, **changes: Any) -> Report:
        loaded = config.load(ROOT / "configs" / f"{name}.yaml")
        values = loaded.model_dump(exclude_none=True) | {"inputs": {"audio": CLIPS}} | changes
        return run.execute(config.from_mapping(values), progress=SILENT, reference=source or reference)

    return run_it


@pytest.fixture(scope="package")
def window(reference: NemoSource, tmp_path_factory: pytest.TempPathFactory) -> Window:
    """Component and length → the path of a float32 package whose input has that length and no other."""

    def convert(component: str, length: int) -> str:
        name, recipe = recipes.find(component, "raw_logits")
        fixed = {name: dataclasses.replace(recipe, inputs=WINDOWS[component](length))}
        options = config.ConvertConfig(recipe="raw_logits", precision="float32")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(recipes.RECIPES, component, {**recipes.RECIPES[component], **fixed})
            # the recipe's shapes are no part of a cache entry's key
            return str(build(reference, component, options, cache=Cache(tmp_path_factory.mktemp("window"))))

    return convert
