from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from layerdiff.config import ConvertConfig
from layerdiff.config.corpora import Target, Weights
from layerdiff.convert import build
from layerdiff.convert.compression import COMPRESSIONS, SYSTEMS
from layerdiff.errors import ConversionError
from layerdiff.mil import load
from layerdiff.store import Cache

if TYPE_CHECKING:
    from layerdiff.sources.nemo import NemoSource


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("packages"))


def size(path: Any) -> int:
    return sum(file.stat().st_size for file in path.rglob("weight.bin"))


def test_every_name_of_the_configuration_is_known() -> None:
    assert set(get_args(Weights)) == {"full", *COMPRESSIONS}
    assert set(get_args(Target)) == set(SYSTEMS)


@pytest.mark.parametrize("weights", COMPRESSIONS)
def test_weights_become_smaller_and_stay_close(reference: NemoSource, cache: Cache, weights: str) -> None:
    """The prediction network: its output moves by what so few bits must cost, and no more."""
    full = build(reference, "decoder", ConvertConfig(precision="float32", target="iOS18", debug=False), cache=cache)
    options = ConvertConfig(precision="float32", target="iOS18", debug=False, weights=weights)
    small = build(reference, "decoder", options, cache=cache)
    shares = {"int8": 0.3, "int4": 0.17, "palette_8": 0.3, "palette_6": 0.25, "palette_4": 0.16, "palette_2": 0.12}
    assert size(small) < shares.get(weights, 0.8) * size(full)
    feed = {
        "targets": np.array([[5]], np.int32),
        "target_length": np.ones(1, np.int32),
        "h_in": np.zeros((2, 1, 64), np.float32),
        "c_in": np.zeros((2, 1, 64), np.float32),
    }
    ours, theirs = (
        load(path).predict({name: feed[name] for name in load(path).inputs})["decoder"] for path in (full, small)
    )
    error = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
    limit = 0.03 if weights.endswith("8") or "int8" in weights else 1.0
    assert 0 < error < limit


@pytest.mark.parametrize("weights", ["int4", "int4_block", "int8_block"])
def test_a_target_that_cannot_read_the_weights_is_refused(reference: NemoSource, cache: Cache, weights: str) -> None:
    with pytest.raises(ConversionError, match=f"weights '{weights}' need iOS18, and the package is to run on iOS17"):
        build(reference, "decoder", ConvertConfig(weights=weights), cache=cache)


def test_ops_by_their_type_stay_float32(reference: NemoSource, cache: Cache) -> None:
    options = ConvertConfig(float32_ops=["linear"], debug=False)
    model = load(build(reference, "joint", options, cache=cache))
    dtypes = {op.type: {out.type.dtype for out in op.outputs} for op in model.graph.producers.values()}
    assert dtypes["linear"] == {"float32"}
    assert dtypes["relu"] == {"float16"}
