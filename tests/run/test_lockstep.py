"""Tensors of two runs meet in any order, and as few as possible wait for it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.run.lockstep import Cursor, Lockstep, Shelf, early, expected_of


def tensors(*names, log=None):
    """A run that says when it computes what; every value is lent, and spoilt by the next step."""
    buffer = np.zeros(4, np.float32)
    for place, name in enumerate(names):
        buffer[:] = place
        if log is not None:
            log.append(name)
        yield name, buffer


def cursor(*names, expected, log=None, **settings):
    return Cursor(tensors(*names, log=log), expected_of(expected), **settings)


# ------------------------------------------------------------------ a run


def test_a_run_goes_only_as_far_as_what_is_asked_for():
    log = []
    run = cursor("a", "b", "c", expected=["b", "c"], log=log)
    assert run.take("b")[0] == 1
    assert log == ["a", "b"]


def test_what_is_passed_is_kept_as_it_was():
    run = cursor("a", "b", "c", expected=["a", "b", "c"])
    assert run.take("c")[0] == 2
    assert [run.take(name)[0] for name in ("a", "b")] == [0, 1]


def test_what_nobody_asks_for_is_not_kept():
    run = cursor("a", "b", expected=["b"])
    run.take("b")
    assert run.shelf.take("a") is None


def test_a_tensor_is_given_as_often_as_it_is_expected():
    run = cursor("a", "b", expected=["a", "a", "b"])
    run.take("b")
    assert [run.take("a")[0], run.take("a")[0]] == [0, 0]
    assert run.shelf.take("a") is None


def test_a_tensor_that_never_comes_is_none():
    assert cursor("a", expected=["z"]).take("z") is None


def test_only_the_tensor_that_was_computed_last_can_be_replaced():
    overrides = {}
    run = cursor("a", "b", expected=["a", "b"], overrides=overrides)
    run.take("b")
    run.replace("a", np.ones(4))
    assert not overrides
    run.replace("b", np.ones(4))
    assert list(overrides) == ["b"]


def test_a_run_without_overrides_is_not_forced():
    run = cursor("a", expected=["a"])
    run.take("a")
    run.replace("a", np.ones(4))
    assert run.overrides is None


# ------------------------------------------------------------------ what waits


@pytest.mark.parametrize("room_bytes", [0, 20, 10**6])
def test_a_shelf_gives_back_what_it_was_given_from_memory_or_from_disk(room_bytes):
    shelf = Shelf(room_bytes)
    values = {f"t{i}": np.full(4, i, np.float32) for i in range(3)} | {"mask": np.array([True, False])}
    for name, value in values.items():
        shelf.put(name, value)
    for name, value in reversed(values.items()):
        found = shelf.take(name)
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)
        assert shelf.take(name) is None
    shelf.close()


def test_what_lies_on_disk_is_removed_when_a_shelf_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shelf = Shelf(0)
    shelf.put("t", np.ones(4))
    assert list(tmp_path.rglob("*.npy"))
    shelf.close()
    assert not list(tmp_path.iterdir())


def test_a_shelf_has_room_again_for_what_replaces_what_was_taken():
    shelf = Shelf(16)
    for _ in range(5):
        shelf.put("t", np.ones(4, np.float32))
        shelf.take("t")
    assert shelf._folder is None


def test_a_lockstep_ends_its_runs_and_its_shelves():
    ended = []

    def run():
        try:
            yield from tensors("a", "b")
        finally:
            ended.append(True)

    with Lockstep({"declared": Cursor(run(), expected_of(["a"]))}) as lockstep:
        assert list(lockstep.take("a")) == ["declared"]
        lockstep.waiting.put("later", np.ones(3))
    assert ended
    assert lockstep.waiting.take("later") is None


def test_a_run_that_has_ended_is_left_out_of_what_is_taken():
    runs = {"declared": cursor("a", "b", expected=["b"]), "float32": cursor("a", expected=["b"])}
    assert list(Lockstep(runs).take("b")) == ["declared"]


# ------------------------------------------------------------------ which side waits


def test_nothing_waits_where_both_sides_compute_in_one_order():
    assert early([0, 1, 1, 5, 9], [1, 1, 1, 1, 1]) == frozenset()


def test_a_small_tensor_that_the_candidate_computes_last_waits_as_the_reference_has_it():
    assert early([9, 0, 1, 2], [1, 100, 100, 100]) == {0}


def test_a_small_tensor_that_the_candidate_computes_first_is_kept_by_its_run():
    assert early([1, 2, 3, 0], [100, 100, 100, 1]) == frozenset()


def test_the_smaller_tensors_wait_for_a_large_one():
    assert early([9, 0, 1, 2], [1000, 1, 1, 1]) == frozenset()


def test_without_pairs_nothing_waits():
    assert early([], []) == frozenset()


def held(places, sizes, waits):
    """What is held at all, going by the rule of `AlignedTrial`: replayed one tensor at a time."""
    passed, total, open_ = -1, 0, []
    for index, place in enumerate(places):
        if index in waits:
            total += sizes[index]
            open_.append(place)
            continue
        total += sizes[index] if place < passed else 0
        due = [p for p in open_ if p < place]
        passed = max([passed, place, *due])
        open_ = [p for p in open_ if p >= place]
    return total


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50)), max_size=7))
def test_as_little_as_possible_is_held(pairs):
    places, sizes = [p for p, _ in pairs], [s for _, s in pairs]
    found = early(places, sizes)
    choices = (set(c) for n in range(len(pairs) + 1) for c in combinations(range(len(pairs)), n))
    assert held(places, sizes, found) <= min(held(places, sizes, waits) for waits in choices) + len(pairs)
