"""Names settle what they can; values are looked at for what they leave open."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layerdiff.outline import Node, Outline, Weight
from layerdiff.run.weight_links import BY_NAME, weight_links

WEIGHTS = {
    name: np.random.default_rng(i).standard_normal((6 + i, 5)).astype(np.float32) for i, name in enumerate("abc")
}


def model(names: dict[str, str], *, unread: str = "", held: str = "abc") -> Outline:
    """One linear op per weight; `names`: weight → what it is called here; those in `unread` must not be read."""

    def refuse() -> Any:
        raise AssertionError("a weight was read though names settle it")

    weights = {
        name: Weight(name, "float32", WEIGHTS[key].shape, refuse if key in unread else lambda key=key: WEIGHTS[key])
        for key, name in names.items()
    }
    nodes = [Node(f"op_{key}", "linear", "linear", (), {"weight": names[key]}) for key in names if key in held]
    return Outline("test", (), tuple(nodes), (), weights)


DOTTED = {key: f"net.{key}.weight" for key in WEIGHTS}


def test_names_that_settle_everything_save_reading_the_weights() -> None:
    named = {key: f"net_{key}_weight" for key in WEIGHTS}
    links = weight_links(model(DOTTED, unread="abc"), model(named, unread="abc"))
    assert {(link.reference, link.candidate, link.method, link.confidence) for link in links} == {
        (DOTTED[key], named[key], "name", BY_NAME) for key in WEIGHTS
    }


def test_what_names_leave_open_is_found_by_values() -> None:
    named = {"a": "net_a_weight", "b": "const_7", "c": "const_3"}
    links = {link.reference: link for link in weight_links(model(DOTTED), model(named))}
    assert {name: (link.candidate, link.method) for name, link in links.items()} == {
        "net.a.weight": ("net_a_weight", "name"),
        "net.b.weight": ("const_7", "weights"),
        "net.c.weight": ("const_3", "weights"),
    }


def test_what_names_settle_is_not_read_beside_what_they_leave_open() -> None:
    named = {"a": "net_a_weight", "b": "const_7", "c": "net_c_weight"}
    links = weight_links(model(DOTTED, unread="ac"), model(named, unread="ac"))
    assert {link.reference: link.method for link in links} == {
        DOTTED["a"]: "name",
        DOTTED["b"]: "weights",
        DOTTED["c"]: "name",
    }


@pytest.mark.parametrize("factors", [False, True])
def test_rows_scaled_by_factors_of_their_own_are_folded(factors: bool) -> None:
    by = np.linspace(0.5, 2, 6, dtype=np.float32)[:, None] if factors else np.float32(1)
    reference = model({"a": "w"}, held="a")
    weights = {"v": Weight("v", "float32", (6, 5), lambda: WEIGHTS["a"] * by)}
    candidate = Outline("test", (), (Node("op", "linear", "linear", (), {"weight": "v"}),), (), weights)
    (link,) = weight_links(reference, candidate)
    assert (link.reference, link.candidate, link.folded) == ("w", "v", factors)
