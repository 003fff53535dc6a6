"""Outlines without what only moves values."""

from __future__ import annotations

import pytest

from layerdiff.align.graph import COMMUTATIVE, Graph, same_operands
from layerdiff.outline import KINDS, SAME_VALUES
from tests.align.outlines import node, outline


def moving() -> Graph:
    """x → transpose → linear → cast → reshape → add (with a constant and a reshaped x)."""
    return Graph(
        outline(
            node("t", "transpose", "x", aliases=("t.alias",)),
            node("y", "linear", "t", weights={"weight": "w", "bias": "w"}),
            node("y16", "cast", "y"),
            node("flat", "reshape", "y16"),
            node("c", "constant"),
            node("c32", "cast", "c"),
            node("sum", "add", "flat", "c32", "t"),
            node("out", "concat", "sum", "sum"),
        )
    )


def test_what_only_moves_values_is_one_with_its_operand() -> None:
    graph = moving()
    assert [graph.root(name) for name in ("x", "t", "t.alias", "flat", "c32", "out")] == [
        *("x", "x", "x", "y", "c", "out"),
    ]
    assert list(graph.nodes) == ["y", "sum", "out"]
    assert graph.layouts == {"x": ("t",), "y": ("y16", "flat"), "c": ("c32",)}


def test_operands_and_readers_are_roots_without_constants() -> None:
    graph = moving()
    assert graph.operands == {"y": ("x",), "sum": ("y", "x"), "out": ("sum", "sum")}
    assert graph.readers == {"x": ("y", "sum"), "y": ("sum",), "sum": ("out",)}


def test_a_name_that_the_outline_does_not_know_is_its_own_root() -> None:
    assert moving().root("nothing") == "nothing"


@pytest.mark.parametrize("kind", sorted(KINDS - {"constant", "input"}))
def test_exactly_the_moving_kinds_vanish(kind: str) -> None:
    assert (list(Graph(outline(node("y", kind, "x"))).nodes) == []) == (kind in SAME_VALUES)


def test_a_moving_op_that_holds_a_weight_or_reads_two_tensors_stays() -> None:
    graph = Graph(outline(node("a", "cast", "x", weights={"scale": "w"}), node("b", "reshape", "a", "x")))
    assert list(graph.nodes) == ["a", "b"]


def test_the_users_of_a_weight_are_its_ops_by_their_first_results() -> None:
    graph = Graph(
        outline(
            node("h", "lstm", "x", weights={"weight": "w", "bias": "b"}),
            node("h_n", "lstm", "x", weights={"weight": "w", "bias": "b"}, result=1),
            node("y", "linear", "h", weights={"weight": "w", "other": "w"}),
        )
    )
    assert {name: [user.name for user in users] for name, users in graph.users.items()} == {
        "w": ["h", "y"],
        "b": ["h"],
    }
    assert graph.results == {"h": ("h", "h_n"), "h_n": ("h", "h_n")}


def test_the_order_of_operands_counts_unless_the_op_commutes() -> None:
    assert {kind for kind in KINDS if same_operands(kind, ("a", "b"), ("b", "a"))} == COMMUTATIVE
    assert all(same_operands(kind, ("a", "b"), ("a", "b")) for kind in KINDS)
    assert not same_operands("add", ("a", "a"), ("a", "b"))
    assert not same_operands("add", ("a",), ("a", "a"))
