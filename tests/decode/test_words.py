from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerdiff.decode.words import Edits, character_edits, differences, normalised, word_edits

WORDS = st.lists(st.sampled_from(["one", "two", "three", "four"]), max_size=8)


def distance(reference: list[str], candidate: list[str]) -> int:
    """The edit distance by its definition."""

    @cache
    def rest(i: int, j: int) -> int:
        if i == len(reference) or j == len(candidate):
            return len(reference) - i + len(candidate) - j
        change = rest(i + 1, j + 1) + (reference[i] != candidate[j])
        return min(change, rest(i + 1, j) + 1, rest(i, j + 1) + 1)

    return rest(0, 0)


@given(WORDS, WORDS)
def test_word_errors_are_the_edit_distance(reference: list[str], candidate: list[str]) -> None:
    found = word_edits(" ".join(reference), " ".join(candidate))
    assert found.errors == distance(reference, candidate)
    assert found.length == len(reference)
    assert found.rate == (found.errors / len(reference) if reference else None)


@given(WORDS, WORDS)
def test_differences_hold_every_word_of_both(reference: list[str], candidate: list[str]) -> None:
    parts = differences(reference, candidate)
    assert [word for part in parts for word in part.reference] == reference
    assert [word for part in parts for word in part.candidate] == candidate
    for part in parts:
        assert (part.kind == "equal") == (part.reference == part.candidate)
    changed = sum(max(len(part.reference), len(part.candidate)) for part in parts if part.kind != "equal")
    assert changed == distance(reference, candidate)


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        ("", "", Edits()),
        ("a b", "", Edits(deletions=2)),
        ("", "a b", Edits(insertions=2)),
        ("a b c", "a x c d", Edits(hits=2, substitutions=1, insertions=1)),
        (" a  b ", "a b", Edits(hits=2)),
    ],
)
def test_edges(reference: str, candidate: str, expected: Edits) -> None:
    assert word_edits(reference, candidate) == expected


def test_characters_count_spaces() -> None:
    assert character_edits("ab c", "abc") == Edits(hits=3, deletions=1)


def test_edits_add_up() -> None:
    assert Edits(1, 2, 3, 4) + Edits(10, 20, 30, 40) == Edits(11, 22, 33, 44)


def test_normalised() -> None:
    assert normalised("  Hello,   World! It's 5 o'clock. ") == "hello world its 5 oclock"
