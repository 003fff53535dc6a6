"""From weights that are the same to ops that are the same."""

from __future__ import annotations

from typing import Any

from layerdiff.align.anchors import WeightLink, add_anchors
from layerdiff.outline import Node
from tests.align.outlines import matching, node, outline, pairs


def holds(name: str, kind: str, operand: str, *weights: str, **fields: Any) -> Node:
    return node(name, kind, operand, weights={f"w{i}": weight for i, weight in enumerate(weights)}, **fields)


def same(one: str, other: str, **fields: Any) -> WeightLink:
    return WeightLink(one, other, "weights", fields.pop("confidence", 1.0), "equal", **fields)


def test_ops_that_hold_the_same_weight_are_the_same() -> None:
    found = matching(outline(holds("a", "linear", "x", "w")), outline(holds("p", "linear", "x", "v")))
    add_anchors(found, [same("w", "v")])
    assert pairs(found) == {"a": "p"}
    assert (found.links["a"].method, found.links["a"].confidence) == ("weights", 1.0)


def test_a_module_that_is_called_twice_is_paired_in_order_of_execution() -> None:
    found = matching(
        outline(holds("a", "linear", "x", "w"), holds("b", "linear", "a", "w")),
        outline(holds("p", "linear", "x", "v"), holds("q", "linear", "p", "v")),
    )
    add_anchors(found, [same("w", "v")])
    assert pairs(found) == {"a": "p", "b": "q"}


def test_tied_weights_are_paired_by_kind() -> None:
    """An embedding and a projection share a table; a converter stores it twice."""
    found = matching(
        outline(holds("e", "embedding", "x", "w"), holds("l", "linear", "e", "w")),
        outline(holds("q", "embedding", "x", "v1"), holds("p", "linear", "q", "v2")),
    )
    add_anchors(found, [same("w", "v1"), same("w", "v2")])
    assert pairs(found) == {"e": "q", "l": "p"}


def test_a_weight_that_another_number_of_ops_holds_decides_nothing() -> None:
    found = matching(
        outline(holds("a", "linear", "x", "w"), holds("b", "linear", "a", "w")), outline(holds("p", "linear", "x", "v"))
    )
    add_anchors(found, [same("w", "v")])
    assert pairs(found) == {}


def test_of_a_product_and_a_sum_the_sum_is_compared() -> None:
    found = matching(
        outline(node("l", "linear", "x", weights={"weight": "w", "bias": "b"})),
        outline(holds("m", "linear", "x", "v"), holds("s", "add", "m", "c")),
    )
    add_anchors(found, [same("w", "v"), same("b", "c")])
    assert pairs(found) == {"l": "s"}


def test_a_convolution_with_a_folded_norm_is_the_norm() -> None:
    reference = outline(holds("c", "conv", "x", "w"), holds("n", "batch_norm", "c", "g"), node("r", "relu", "n"))
    candidate = outline(holds("d", "conv", "x", "v"), node("s", "relu", "d"))
    folded, plain = matching(reference, candidate), matching(reference, candidate)
    add_anchors(folded, [same("w", "v", folded=True)])
    add_anchors(plain, [same("w", "v")])
    assert pairs(folded) == {"n": "d"}
    assert pairs(plain) == {"c": "d"}


def test_a_transposed_convolution_ends_with_the_slice_that_trims_it() -> None:
    reference = outline(holds("c", "conv_transpose", "x", "w"))
    candidate = outline(holds("d", "conv_transpose", "x", "v"), node("t", "slice", "d"))
    found = matching(reference, candidate)
    add_anchors(found, [same("w", "v")])
    assert pairs(found) == {"c": "t"}
    both = matching(
        outline(holds("c", "conv_transpose", "x", "w"), node("s", "slice", "c")), candidate
    )  # both sides trim: the slices are found by structure
    add_anchors(both, [same("w", "v")])
    assert pairs(both) == {"c": "d"}


def test_the_further_results_of_an_op_follow_and_have_to_be_confirmed() -> None:
    def recurrent(first: str, second: str, weight: str) -> Any:
        one = holds(first, "lstm", "x", weight)
        return outline(one, node(second, "lstm", "x", result=1, weights=one.weights))

    found = matching(recurrent("h", "c", "w"), recurrent("p", "q", "v"))
    add_anchors(found, [same("w", "v")])
    assert pairs(found) == {"h": "p", "c": "q"}
    assert (found.links["h"].composite, found.links["c"].composite) == (False, True)


def test_parts_of_a_fused_weight_are_pairs_of_channels() -> None:
    found = matching(
        outline(holds("q", "linear", "x", "wq"), holds("k", "linear", "x", "wk")),
        outline(holds("qk", "linear", "x", "v")),
    )
    add_anchors(found, [same("wq", "v", candidate_rows=(0, 4)), same("wk", "v", candidate_rows=(4, 8))])
    assert pairs(found) == {}
    assert [(p.reference, p.candidate, p.candidate_rows) for p in found.parts] == [
        ("q", "qk", (0, 4)),
        ("k", "qk", (4, 8)),
    ]


def test_the_more_weights_agree_the_earlier_a_pair_is_taken() -> None:
    """Two equal biases, one weight: the op that shares both is the one."""
    found = matching(
        outline(holds("a", "linear", "x", "w", "b")),
        outline(holds("p", "linear", "x", "other", "c"), holds("q", "linear", "p", "v", "d")),
    )
    add_anchors(found, [same("b", "c", confidence=0.9), same("b", "d", confidence=0.9), same("w", "v", confidence=0.9)])
    assert pairs(found) == {"a": "q"}
