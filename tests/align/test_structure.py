"""What follows from known pairs along the ops between them, and what is left alone."""

from __future__ import annotations

import pytest

from layerdiff.align.structure import COMPOSITE, OTHER_OP, SAME_OP, SAME_OPERAND, Link, explained, propagate
from tests.align.outlines import matching, node, outline, pairs


def test_an_op_on_paired_operands_is_the_same_op_on_their_counterparts() -> None:
    found = matching(
        outline(node("a", "relu", "x"), node("b", "tanh", "a")),
        outline(node("p", "relu", "x"), node("q", "tanh", "p")),
    )
    propagate(found)
    assert pairs(found) == {"a": "p", "b": "q"}
    assert {(link.method, link.confidence) for name, link in found.links.items() if name != "x"} == {
        ("structure", SAME_OP)
    }


def test_two_branches_of_one_kind_are_left_open_and_listed() -> None:
    found = matching(
        outline(node("a", "relu", "x"), node("b", "relu", "x"), node("c", "concat", "a", "b")),
        outline(node("p", "relu", "x"), node("q", "relu", "x"), node("r", "concat", "p", "q")),
    )
    propagate(found)
    assert pairs(found) == {}
    assert found.ambiguous == {"a": ("p", "q"), "b": ("p", "q")}


def test_a_known_end_decides_between_branches_by_position() -> None:
    found = matching(
        outline(node("a", "relu", "x"), node("b", "relu", "x"), node("c", "concat", "a", "b")),
        outline(node("q", "relu", "x"), node("p", "relu", "x"), node("r", "concat", "p", "q")),
        {"x": "x", "c": "r"},
    )
    propagate(found)
    assert pairs(found) == {"a": "p", "b": "q", "c": "r"}
    assert found.links["a"].confidence == SAME_OPERAND
    assert not found.ambiguous


def test_operands_of_a_sum_are_told_apart_by_elimination_only() -> None:
    """The order of a sum says nothing: one known operand tells the other one, none tells nothing."""
    reference = outline(node("a", "relu", "x"), node("b", "linear", "x"), node("c", "add", "a", "b"))
    candidate = outline(node("q", "linear", "x"), node("p", "gelu", "x"), node("r", "add", "q", "p"))
    known = matching(reference, candidate, {"x": "x", "c": "r", "b": "q"})
    propagate(known)
    assert pairs(known) == {"a": "p", "b": "q", "c": "r"}
    assert (known.links["a"].confidence, known.links["a"].composite) == (OTHER_OP, False)
    open_ = matching(
        outline(node("a", "relu", "x"), node("b", "sin", "x"), node("c", "add", "a", "b")),
        outline(node("p", "gelu", "x"), node("q", "cos", "x"), node("r", "add", "q", "p")),
        {"x": "x", "c": "r"},
    )
    propagate(open_)
    assert pairs(open_) == {"c": "r"}


def test_a_decomposed_op_is_paired_by_its_end_and_has_to_be_confirmed() -> None:
    """gelu on one side, its formula on the other: 1-to-N."""
    found = matching(
        outline(node("g", "gelu", "x"), node("y", "linear", "g")),
        outline(node("e", "erf", "x"), node("h", "add", "e"), node("m", "mul", "x", "h"), node("z", "linear", "m")),
        {"x": "x", "y": "z"},
    )
    propagate(found)
    assert pairs(found) == {"g": "m", "y": "z"}
    link = found.links["g"]
    assert (link.confidence, link.composite) == (COMPOSITE, True)
    assert explained(found, side="candidate") == {"e": "m", "h": "m"}


def test_a_fused_op_is_paired_by_its_end_too() -> None:
    """N-to-1, the other way round."""
    found = matching(
        outline(node("e", "erf", "x"), node("m", "mul", "x", "e"), node("y", "linear", "m")),
        outline(node("g", "gelu", "x"), node("z", "linear", "g")),
        {"x": "x", "y": "z"},
    )
    propagate(found)
    assert pairs(found) == {"m": "g", "y": "z"}
    assert explained(found, side="reference") == {"e": "m"}


def test_operands_are_paired_through_affine_ops_that_were_folded() -> None:
    found = matching(
        outline(node("r", "relu", "x"), node("c", "conv", "r"), node("n", "batch_norm", "c")),
        outline(node("s", "relu", "x"), node("d", "conv", "s")),
        {"n": "d"},
    )
    propagate(found)
    assert pairs(found) == {"n": "d", "r": "s"}


def test_results_of_one_op_are_paired_by_their_number() -> None:
    reference = outline(node("h", "lstm", "x"), node("c", "lstm", "x", result=1))
    candidate = outline(node("out", "lstm", "x"), node("state", "lstm", "x", result=1))
    found = matching(reference, candidate)
    propagate(found)
    assert pairs(found) == {"h": "out", "c": "state"}


@pytest.mark.parametrize("taken", [("a", "z"), ("z", "p")])
def test_a_tensor_has_one_partner(taken: tuple[str, str]) -> None:
    found = matching(outline(node("a", "relu", "x")), outline(node("p", "relu", "x")))
    assert found.add(Link("a", "p", "name", 1.0, "known"))
    assert not found.add(Link(*taken, "structure", 0.9, "later"))
    assert found.partner("a") == "p"
    assert not found.open_reference("a")
    assert not found.open_candidate("p")


def test_a_tensor_that_nothing_reads_is_explained_by_nothing() -> None:
    found = matching(outline(node("a", "relu", "x"), node("b", "tanh", "x")), outline(node("p", "relu", "x")))
    propagate(found)
    assert explained(found, side="reference") == {}
