"""Samples: fixed by names and a seed, nested in each other, fair in order."""

import pytest

from conformance.sampling import Sample, drawn, function_of, rank

TESTS = [f"{file}.py::{function}[{value}]" for file in "ab" for function in ("f", "g", "h") for value in range(20)]


def test_everything_is_drawn_once_by_default():
    assert sorted(drawn(TESTS, Sample())) == sorted(TESTS)


def test_at_most_k_cases_of_each_function():
    cases = drawn(TESTS, Sample(per_function=3))
    assert len(cases) == 6 * 3
    assert {function_of(case) for case in cases} == {function_of(test) for test in TESTS}


def test_a_larger_sample_contains_the_smaller():
    small, large = (set(drawn(TESTS, Sample(per_function=k))) for k in (2, 7))
    assert small < large


def test_the_order_of_collection_does_not_matter():
    sample = Sample(per_function=4)
    assert drawn(TESTS, sample) == drawn(reversed(TESTS), sample)


def test_the_order_is_shuffled_over_files():
    files = [test[0] for test in drawn(TESTS, Sample())]
    assert 20 < files[:60].count("a") < 40


def test_another_seed_draws_other_cases():
    assert set(drawn(TESTS, Sample(2, seed=0))) != set(drawn(TESTS, Sample(2, seed=1)))


def test_a_share_takes_whole_functions():
    names = [f"x.py::test_{i}[{j}]" for i in range(400) for j in range(2)]
    kept = drawn(names, Sample(share=0.25))
    functions = {function_of(test) for test in kept}
    assert len(kept) == 2 * len(functions)
    assert 70 <= len(functions) <= 130
    assert set(kept) < set(drawn(names, Sample(share=0.5)))


@pytest.mark.parametrize(("seed", "names", "expected"), [(0, ("a", "b"), 0.6885876), (1, ("a", "b"), 0.1075195)])
def test_ranks_are_the_same_on_every_machine(seed, names, expected):
    assert rank(seed, *names) == pytest.approx(expected, abs=1e-7)
