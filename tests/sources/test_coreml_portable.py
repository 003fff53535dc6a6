"""Packages as a source: what they declare, what they give, and what a cast at the end hides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff import convert, mil
from layerdiff.config import ConvertConfig
from layerdiff.records import Call
from layerdiff.sources.coreml_portable import PortableSource, declared_dtype, origin
from layerdiff.store import Cache

RNG = np.random.default_rng(0)
CALL = Call(
    "joint",
    {
        "encoder": RNG.normal(size=(4, 96, 1)).astype(np.float32),
        "decoder": RNG.normal(size=(4, 64, 1)).astype(np.float32),
    },
)


@pytest.fixture(scope="module")
def sources(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PortableSource]:
    cache = Cache(tmp_path_factory.mktemp("packages"))

    def build(precision: str) -> Path:
        options = ConvertConfig.model_validate({"precision": precision})
        return convert.build(reference, "joint", options, cache=cache)

    return {name: PortableSource({"joint": mil.load(build(name))}) for name in ("float32", "float16")}


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_declared_dtype_is_that_of_the_op_behind_the_cast(
    sources: dict[str, PortableSource], precision: str
) -> None:
    model = sources[precision].packages["joint"]
    assert model.outputs["logits"].dtype == "float32"
    assert declared_dtype(model, "logits") == precision
    assert (origin(model, "logits") != "logits") == (precision == "float16")
    assert origin(model, origin(model, "logits")) == origin(model, "logits")


def test_the_description_reads_the_precision_from_the_ops(sources: dict[str, PortableSource]) -> None:
    description = sources["float16"].description
    assert (description["engine"], description["precision"]) == ("portable", {"joint": "float16"})
    assert Path(description["packages"]["joint"]).suffix == ".mlpackage"


def test_outputs_are_named_first_and_every_tensor_once(sources: dict[str, PortableSource]) -> None:
    names = sources["float16"].tensor_names("joint")
    outputs = tuple(sources["float16"].packages["joint"].outputs)
    assert names[: len(outputs)] == outputs
    assert len(names) == len(set(names)) > len(outputs)


def test_any_tensor_can_be_asked_for_and_given(sources: dict[str, PortableSource]) -> None:
    """The logits of given hidden values are theirs; what comes before them is not run."""
    source = sources["float16"]
    hidden = origin(source.packages["joint"], "relu_hidden")
    plain = source.run(CALL, [hidden])
    assert plain.tensors[hidden].dtype == np.float16
    again = source.run(CALL, ["logits"], inject={hidden: plain.tensors[hidden]})
    np.testing.assert_array_equal(again.tensors["logits"], plain.outputs["logits"])
    none = source.run(CALL, ["logits"], inject={hidden: np.zeros_like(plain.tensors[hidden])}).tensors["logits"]
    np.testing.assert_array_equal(none, np.broadcast_to(none[:1], none.shape))


def test_other_precisions_leave_the_source_as_it_is(sources: dict[str, PortableSource]) -> None:
    source = sources["float16"]
    declared = source.run(CALL, []).outputs["logits"]
    widened = source.with_precision("float32").run(CALL, []).outputs["logits"]
    assert 0 < np.abs(widened - declared).max() < 0.1
    np.testing.assert_array_equal(source.run(CALL, []).outputs["logits"], declared)
