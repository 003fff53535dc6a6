"""What several test files share: the bundled model, restored once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from layerdiff.sources.nemo import NemoSource
    from tests.sources.nemo_zoo import Zoo


@pytest.fixture(scope="session")
def reference() -> NemoSource:
    """The bundled model as a reference."""
    from layerdiff.sources.nemo import NemoSource

    return NemoSource.open("parakeet-tdt-mini")


@pytest.fixture(scope="session")
def nemo_model(reference: NemoSource) -> Any:
    """The bundled model itself, in the reference's state; tests leave it as they found it."""
    return reference.model


@pytest.fixture(scope="session")
def zoo(reference: NemoSource, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """NeMo models of every class, with random weights."""
    from tests.sources.nemo_zoo import Zoo

    return Zoo(tmp_path_factory.mktemp("zoo"))
