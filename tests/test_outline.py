"""The structure of a model: names, aliases, order, sizes, and weights that are read on request only."""

from __future__ import annotations

import numpy as np
import pytest

from layerdiff.fingerprint import fingerprint
from layerdiff.outline import COMPUTING, KINDS, MOVEMENT, SAME_VALUES, WEIGHTED, Weight
from tests.align.outlines import node, outline

FOUND = outline(
    node("a", "linear", "x", shape=(1, None, 8), aliases=("block.a",)),
    node("b", "relu", "a", shape=(1, 4, 8)),
    node("c", "add", "b", "a", "a"),
    outputs=("c", "b"),
)


def test_a_tensor_is_found_by_its_name_and_by_its_aliases() -> None:
    assert FOUND.by_name["block.a"] is FOUND.by_name["a"]
    assert FOUND.by_name["x"].kind == "input"


def test_an_alias_never_hides_a_tensor_of_that_name() -> None:
    found = outline(node("a", "relu", "x", aliases=("b",)), node("b", "tanh", "a"))
    assert found.by_name["b"].kind == "tanh"


def test_readers_are_listed_once_each_in_order() -> None:
    assert {name: [n.name for n in nodes] for name, nodes in FOUND.readers.items()} == {
        "x": ["a"],
        "a": ["b", "c"],
        "b": ["c"],
    }


def test_the_order_begins_with_the_inputs_and_knows_aliases() -> None:
    assert FOUND.order() == {"x": 0, "a": 1, "block.a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(("name", "size"), [("a", 8), ("block.a", 8), ("b", 32), ("c", 1), ("nothing", 1)])
def test_an_unknown_length_counts_as_one(name: str, size: int) -> None:
    assert FOUND.size(name) == size


def test_names_are_listed_with_the_outputs_first() -> None:
    assert list(FOUND.names()) == ["c", "b", "a", "block.a", "x"]


def test_the_groups_of_kinds_do_not_overlap() -> None:
    groups = [set(WEIGHTED), COMPUTING, MOVEMENT, {"input", "constant", "other"}]
    assert sum(map(len, groups)) == len(KINDS)
    assert SAME_VALUES <= MOVEMENT


def test_a_fingerprint_is_computed_from_the_values_or_known() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    read = Weight("w", "float32", (3, 4), lambda: values)
    known = Weight("w", "float32", (3, 4), known_fingerprint=fingerprint(values))
    np.testing.assert_array_equal(read.fingerprint.norms[0], known.fingerprint.norms[0])
    with pytest.raises(ValueError, match="neither values nor a fingerprint"):
        _ = Weight("w", "float32", (3, 4)).fingerprint
