"""Every architecture is converted once per session and only when a test asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from layerdiff.records import CandidateResult
from tests.align.networks import NETWORKS, Pair, convert, feed_of, module_of

Prepared = Callable[..., Pair]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """`prepared(name, precision=…, compression=…)`: a module of `NETWORKS`, its package, and a feed."""
    folder: Path = tmp_path_factory.mktemp("networks")

    def prepare(name: str, *, precision: str = "float32", compression: str = "") -> Pair:
        package = folder / f"{name}_{precision}_{compression or 'plain'}.mlpackage"
        if not package.exists():
            network = NETWORKS[name]
            options = {"target": network.target, "flexible": network.flexible, "compression": compression}
            convert(module_of(name), feed_of(name), package, precision=precision, **options)
        return Pair(module_of(name), package, feed_of(name))

    return prepare


def compared(pair: Pair, package: Path | None = None) -> CandidateResult:
    """The comparison of a module with its package, or with another one, with no stage map."""
    import layerdiff

    report = layerdiff.diff(reference=pair.module, candidates={"it": package or pair.package}, feed=pair.feed)
    return report.candidates["it"]
