"""The list of excused tests: what an entry matches, what it may excuse, and when it is no longer needed."""

import pytest

from conformance import excused, records
from conformance.excused import KINDS, Excuse
from conformance.records import Record

FAILED = Record("a/b.py::TestX::test_y[dtype=<class 'int'>-shape=(1, 2)]", records.FAILED, error="ValueError: 3 is odd")


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("a/b.py::TestX::test_y", True),
        ("a/b.py::TestX::test_y[dtype=<class 'int'>-shape=(1, 2)]", True),
        ("a/b.py::TestX::*", True),
        ("*::test_y[*int*(1, 2)]", True),
        ("a/b.py::TestX::test_", False),
        ("a/b.py::TestX::test_y[dtype=<class 'int'>-shape=(1, 3)]", False),
        ("b.py::TestX::test_y", False),
    ],
)
def test_patterns_know_one_wildcard_and_no_brackets(pattern, matches):
    assert Excuse(pattern, "test", "because").names(FAILED.test) is matches


def test_the_error_must_be_the_one_that_is_excused():
    assert Excuse("*", "test", "because", error=r"\d is odd").covers(FAILED)
    assert not Excuse("*", "test", "because", error="is even").covers(FAILED)


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("conversion", records.FAILED),
        ("package", records.FAILED),
        ("random", records.CRASHED),
        ("random", records.UNCONVERTED),
        ("core ml", records.FAILED),
        ("test", records.XPASSED),
        ("test", records.CRASHED),
    ],
)
def test_a_kind_does_not_excuse_what_it_cannot_explain(kind, outcome):
    assert not Excuse("*", kind, "because").covers(Record("x", outcome))


@pytest.mark.parametrize("kind", KINDS)
def test_passing_tests_need_no_excuse(kind):
    assert excused.excuse_of(Record("x", records.PASSED, predictions=1), [Excuse("*", kind, "because")]) is None


def test_the_first_entry_that_covers_a_failure_excuses_it():
    entries = [Excuse("*", "core ml", "no"), Excuse("other", "test", "no"), Excuse("*::test_y", "random", "yes")]
    assert excused.excuse_of(FAILED, entries) is entries[2]


def test_an_entry_whose_tests_pass_is_not_needed():
    passing = Record("x.py::test_a[1]", records.PASSED, predictions=1)
    entries = [
        Excuse("x.py::test_a", "test", "old"),
        Excuse("x.py::test_b", "test", "not run"),
        Excuse("a/*", "test", "yes"),
    ]
    assert excused.needless([passing, FAILED], entries) == entries[:1]


def test_unsupported_is_no_kind_of_excuse():
    with pytest.raises(ValueError, match="'unsupported' is no kind of excuse; known: conversion"):
        Excuse("*", "unsupported", "because")


def test_an_excuse_has_a_reason():
    with pytest.raises(ValueError, match="has no reason"):
        Excuse("*", "test", "")


def test_the_list_can_be_read_and_holds_no_entry_for_whole_suites():
    for entry in excused.excuses():
        assert "::" in entry.tests or entry.tests.endswith(".py")
        assert len(entry.why) > 20


def test_the_list_of_toothless_tests_names_functions():
    assert all("::" in name and "[" not in name for name in excused.toothless())
