"""The bundled model and float32 packages of it, ready to be decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import soundfile

from layerdiff.config import ConvertConfig
from layerdiff.convert import build
from layerdiff.decode.nemo_parts import Speech, nemo_speech
from layerdiff.decode.package_parts import package_parts
from layerdiff.mil import load
from layerdiff.records import COMPONENTS
from layerdiff.sources.coreml_portable import PortableSource
from layerdiff.store import Cache

if TYPE_CHECKING:
    from layerdiff.records import Array
    from layerdiff.sources.nemo import NemoSource

AUDIO = Path(__file__).parents[2] / "audio"

Given = Mapping[str, Callable[..., Any]]


@pytest.fixture(scope="session")
def speech(reference: NemoSource) -> Speech:
    """The bundled model."""
    return nemo_speech(reference.model)


@pytest.fixture(scope="session")
def float32_packages(reference: NemoSource, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Component → float32 package of the bundled model."""
    cache, options = Cache(tmp_path_factory.mktemp("packages")), ConvertConfig(precision="float32", debug=False)
    return {name: build(reference, name, options, cache=cache) for name in COMPONENTS}


@pytest.fixture(scope="session")
def given(speech: Speech, float32_packages: Mapping[Any, Path]) -> Given:
    """The components of the float32 packages."""
    source = PortableSource({name: load(path) for name, path in float32_packages.items()})
    return package_parts(source, speech.alphabet, is_ctc=False)


@pytest.fixture(scope="session")
def clips() -> dict[str, Array]:
    """Name → float32[S] samples of every bundled clip, the corpus among them."""
    paths = [*sorted(AUDIO.glob("*.wav")), *sorted((AUDIO / "corpus").glob("*.opus"))]
    found = {}
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == 16_000
        found[path.name] = samples
    return found
