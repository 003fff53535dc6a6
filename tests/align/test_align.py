"""The whole alignment of hand-written outlines: the order of its steps, what is left, and the reasons."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pytest

from layerdiff.align import Alignment, Signature, align
from layerdiff.align.anchors import WeightLink
from layerdiff.align.values import signature
from layerdiff.outline import Outline
from tests.align.outlines import node, outline


def aligned(reference: Outline, candidate: Outline, **options: Any) -> Alignment:
    return align(reference, candidate, **{"inputs": {"x": "x"}, "weights": (), **options})


def pairs(alignment: Alignment) -> dict[str, tuple[str, str]]:
    return {pair.reference: (pair.candidate, pair.method) for pair in alignment.pairs}


def probing(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> Any:
    """A probe that knows these values, and fails if anything is asked for that is decided already."""

    def probe(ours: Collection[str], theirs: Collection[str]) -> tuple[dict[str, Signature], dict[str, Signature]]:
        return {n: signature(reference[n]) for n in ours}, {n: signature(candidate[n]) for n in theirs}

    return probe


LINEAR = outline(node("a", "linear", "x", weights={"weight": "w"}), node("r", "relu", "a"), node("y", "tanh", "r"))
OTHER = outline(node("p", "linear", "x", weights={"weight": "v"}), node("q", "relu", "p"), node("z", "tanh", "q"))


def test_weights_anchor_and_structure_follows() -> None:
    found = aligned(LINEAR, OTHER, weights=[WeightLink("w", "v", "weights", 1.0, "equal")])
    assert pairs(found) == {"a": ("p", "weights"), "r": ("q", "structure"), "y": ("z", "structure")}
    assert found.methods == {"weights": 1, "structure": 2}
    assert (found.reference_tensors, found.candidate_tensors, found.unmatched) == (3, 3, ())


def test_the_users_map_comes_before_everything() -> None:
    """Even where it contradicts the weights."""
    found = aligned(LINEAR, OTHER, weights=[WeightLink("w", "v", "weights", 1.0, "equal")], given=[("a", "q")])
    assert pairs(found)["a"] == ("q", "map")


def test_values_decide_what_structure_leaves_open_and_structure_goes_on_from_there() -> None:
    def network(*names: str) -> Outline:
        a, b, c, d, y = names
        return outline(
            node(a, "relu", "x"), node(b, "relu", "x"), node(c, "sin", a), node(d, "sin", b), node(y, "concat", c, d)
        )

    rng = np.random.default_rng(0)
    one, two, three = rng.standard_normal((3, 40))
    found = aligned(
        network("a", "b", "c", "d", "y"),
        outline(
            node("q", "relu", "x"),
            node("p", "relu", "x"),
            node("r", "sin", "p"),
            node("s", "sin", "q"),
            node("other", "mul", "r", "s"),
            outputs=("other", "s"),
        ),
        probe=probing(
            {"a": one, "b": two, "c": np.sin(one), "d": np.sin(two), "y": np.r_[one, two]},
            {"p": one.reshape(5, 8), "q": two, "r": three, "s": -three, "other": three},
        ),
    )
    assert pairs(found) == {
        "a": ("p", "values"),
        "b": ("q", "values"),
        "c": ("r", "structure"),
        "d": ("s", "structure"),
    }
    assert {(left.side, left.tensor) for left in found.unmatched} == {("reference", "y"), ("candidate", "other")}


def test_outputs_of_one_name_are_compared_and_their_operands_follow() -> None:
    found = aligned(
        outline(node("h", "sin", "x"), node("logits", "exp", "h")),
        outline(node("k", "cos", "x"), node("logits", "log", "k")),
    )
    assert pairs(found) == {"logits": ("logits", "structure")}


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [(("a", "b"), ("p", "q"), {"a": "p", "b": "q"}), (("a", "b"), ("p",), {}), (("a", "b"), ("b", "q"), {"b": "b"})],
    ids=["as many", "not as many", "a common name"],
)
def test_outputs_without_common_names_are_paired_by_place(
    ours: tuple[str, ...], theirs: tuple[str, ...], expected: dict[str, str]
) -> None:
    kinds = iter(("sin", "cos", "exp", "log"))
    reference = outline(*[node(n, next(kinds), "x") for n in ours], outputs=ours)
    candidate = outline(*[node(n, next(kinds), "x") for n in theirs], outputs=theirs)
    assert {one: other for one, (other, _) in pairs(aligned(reference, candidate)).items()} == expected


def test_an_output_that_was_paired_inside_is_compared_with_the_output_too() -> None:
    """A log-softmax that only the candidate has does not hide behind the pair before it."""
    reference = outline(node("logits", "linear", "x", weights={"weight": "w"}))
    candidate = outline(node("raw", "linear", "x", weights={"weight": "v"}), node("logits", "log_softmax", "raw"))
    found = aligned(reference, candidate, weights=[WeightLink("w", "v", "weights", 1.0, "equal")])
    assert [(pair.candidate, pair.evidence) for pair in found.pairs] == [
        ("raw", "equal"),
        ("logits", "returned as 'logits'"),
    ]


def test_the_output_stands_for_the_tensor_whose_values_it_holds() -> None:
    reference = outline(node("a", "relu", "x"), node("y", "transpose", "a"))
    candidate = outline(node("p", "relu", "x"), node("p16", "cast", "p"), node("z", "reshape", "p16"))
    assert pairs(aligned(reference, candidate)) == {"y": ("z", "structure")}


def test_leftovers_carry_their_reasons() -> None:
    reference = outline(
        node("e", "erf", "x"), node("m", "mul", "x", "e"), node("y", "linear", "m"), node("t", "sin", "x")
    )
    candidate = outline(node("g", "gelu", "x"), node("z", "linear", "g"), node("u", "cos", "x"))
    found = aligned(reference, candidate, given=[("y", "z")], outputs={})
    reasons = {(left.side, left.tensor): left.reason for left in found.unmatched}
    assert reasons == {
        ("reference", "e"): "a step towards 'm' that the candidate does not take, or takes in another way",
        ("reference", "t"): "nothing that the candidate has too is computed from it",
        ("candidate", "u"): "nothing that the reference has too is computed from it",
    }
    assert next(left for left in found.unmatched if left.tensor == "t").is_output


def test_an_ambiguous_tensor_names_all_that_it_could_be() -> None:
    names = ("p1", "p2", "p3", "p4", "p5")
    reference = outline(node("a", "relu", "x"), outputs=())
    candidate = outline(*[node(name, "relu", "x") for name in names], outputs=())
    (left, *_) = aligned(reference, candidate, outputs={}).unmatched
    assert left.candidates == names
    assert left.reason == "ambiguous: it could be p1, p2, p3, p4 …"


def test_complex_tensors_are_no_pairs() -> None:
    reference = outline(node("s", "other", "x", dtype="complex64"))
    assert aligned(reference, outline(node("s", "other", "x"))).pairs == ()
