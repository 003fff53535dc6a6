"""Signatures do not change with the layout; equal ones pair tensors, and only where nothing else could be meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.align import values
from layerdiff.align.values import FEWEST, TOLERANCE, Signature, by_values, narrowed, signature, undecided
from tests.align.outlines import matching, node, outline

Array = Any


def random(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape or (3, 5, 7)).astype(np.float32)


def signatures(**tensors: Array) -> dict[str, Signature]:
    return {name: signature(value) for name, value in tensors.items()}


def fan(*names: str) -> Any:
    """An outline of that many ops on one input, each of another kind, so that structure decides nothing."""
    return outline(*[node(name, "other", "x", op=name) for name in names])


def found_pairs(reference: dict[str, Signature], candidate: dict[str, Signature]) -> dict[str, str]:
    known = matching(fan(*reference), fan(*candidate))
    links = list(by_values(known, reference, candidate))
    assert len({link.reference for link in links}) == len(links)
    return {link.reference: link.candidate for link in links}


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(3)))
def test_a_signature_does_not_depend_on_the_layout(seed: int, order: list[int]) -> None:
    value = random(seed)
    moved = value.transpose(order)
    for other in (moved, moved.reshape(1, -1), moved.copy().reshape(-1, 5)):
        assert signature(value).distance(signature(other)) <= 1e-12


def test_its_numbers_are_those_of_numpy() -> None:
    value = random(1, 40, 50).astype(np.float64)
    numbers = signature(value).numbers
    assert numbers[:5] == pytest.approx(
        [np.sqrt((value**2).mean()), value.mean(), np.abs(value).mean(), value.min(), value.max()], rel=1e-12
    )
    expected = np.quantile(value, np.linspace(0, 1, values.QUANTILES), method="lower")
    assert np.abs(numbers[5:] - expected).max() < 0.02  # nearest value below, not rounded alike


def test_a_large_tensor_is_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    value = random(2, 1000)
    whole = signature(value)
    monkeypatch.setattr(values, "SAMPLES", 64)
    parts = signature(value)
    assert len(parts.numbers) == 5
    assert parts.numbers == pytest.approx(whole.numbers[:5], rel=1e-12)


@pytest.mark.parametrize(
    "value",
    [np.zeros(50), np.ones((5, 9)), np.full(20, np.nan), np.r_[random(1, 30), np.inf], random(3, FEWEST - 1)],
    ids=["zeros", "ones", "nan", "inf", "few"],
)
def test_what_could_be_anything_tells_nothing(value: Array) -> None:
    assert not signature(value).is_telling
    assert found_pairs(signatures(a=value), signatures(p=value)) == {}


@pytest.mark.parametrize("value", [np.empty((0, 3)), random(1).astype(np.complex64)], ids=["empty", "complex"])
def test_what_has_no_order_has_an_empty_signature(value: Array) -> None:
    assert signature(value).count == 0


def test_other_counts_are_infinitely_far() -> None:
    assert signature(random(1, 30)).distance(signature(random(1, 31))) == np.inf
    assert not signature(random(1, 30)).agrees(signature(random(1, 31)))


def test_equal_values_pair_whatever_their_layout() -> None:
    one, two = random(1), random(2)
    assert found_pairs(signatures(a=one, b=two), signatures(p=two.T, q=one.reshape(7, 15) * (1 + TOLERANCE / 4))) == {
        "a": "q",
        "b": "p",
    }


def test_equal_shapes_alone_pair_nothing() -> None:
    assert found_pairs(signatures(a=random(1), c=random(3)), signatures(p=random(2), q=random(4))) == {}


def test_as_many_twins_on_both_sides_are_paired_in_order() -> None:
    value = random(1)
    assert found_pairs(signatures(a=value, b=value), signatures(p=value, q=value)) == {"a": "p", "b": "q"}


def test_one_that_fits_several_is_ambiguous() -> None:
    value = random(1)
    known = matching(fan("a"), fan("p", "q"))
    assert list(by_values(known, signatures(a=value), signatures(p=value, q=value))) == []
    assert known.ambiguous == {"a": ("p", "q")}


def test_a_near_one_far_from_all_others_has_to_be_confirmed() -> None:
    value = random(1)
    rough = np.round(value * 16) / 16
    known = matching(fan("a", "b"), fan("p", "q"))
    links = list(by_values(known, signatures(a=value, b=50 * random(2)), signatures(p=rough, q=900 * random(3))))
    assert [(link.reference, link.candidate, link.composite) for link in links] == [("a", "p", True)]


def test_only_what_is_open_on_both_sides_is_asked_for() -> None:
    known = matching(fan("a", "b"), fan("p"), {"x": "x", "a": "p"})
    assert undecided(known) == ((), ())
    known = matching(fan("a", "b"), fan("p", "q"), {"x": "x", "a": "p"})
    assert undecided(known) == (("b",), ("q",))


def test_the_number_of_values_narrows_down_what_is_ambiguous() -> None:
    known = matching(fan("a", "b", "c"), fan("p", "q", "r"))
    known.ambiguous = {"a": ("p", "q"), "b": ("p", "r"), "c": ("q",)}
    ours = signatures(a=random(1, 30), b=random(2, 40), c=random(3, 50))
    theirs = signatures(p=random(4, 40), q=random(5, 30), r=random(6, 40))
    links = list(narrowed(known, ours, theirs))
    assert [(link.reference, link.candidate, link.composite) for link in links] == [("a", "q", True)]
    assert known.ambiguous == {"b": ("p", "r")}
