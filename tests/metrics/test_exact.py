"""ExactSum against rational arithmetic: exact, whatever the order, the cut and the tree of merges."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerdiff.metrics import ExactSum
from layerdiff.metrics.exact import ExactSums

finite = st.floats(allow_nan=False, allow_infinity=False)


def rounded(values):
    """The float64 nearest to the exact sum: Fraction → float rounds to nearest, ties to even."""
    total = sum(map(Fraction, values), Fraction(0))
    try:
        return float(total)
    except OverflowError:
        return math.inf if total > 0 else -math.inf


def exact(*parts):
    total = ExactSum()
    for part in parts:
        total.add(part)
    return total


@given(st.lists(finite, max_size=40))
def test_result_is_the_exact_sum_correctly_rounded(values):
    assert exact(values).result() == rounded(values)


@given(st.lists(finite, min_size=1, max_size=40), st.data())
def test_any_order_cut_and_merge_gives_the_same(values, data):
    shuffled = data.draw(st.permutations(values))
    cut = data.draw(st.integers(0, len(values)))
    left, right = exact(shuffled[:cut]), exact(*shuffled[cut:])
    right.merge(left)
    assert right.result() == exact(values).result()


@given(st.lists(finite, max_size=20), st.lists(finite, max_size=20))
def test_units_can_be_kept_added_and_read_back(first, second):
    units = exact(first).units + exact(second).units
    assert Fraction(units, 2**1126) == sum(map(Fraction, first + second))
    assert ExactSum.of_units(units).result() == rounded(first + second)
    assert ExactSum.of_units(units).units == units


def test_sums_that_are_kept_together_do_not_touch_each_other():
    sums = ExactSums(3)
    sums.add(np.array([[1.0, 2.0], [math.inf, 1.0], [-4.0, 0.5]]))
    sums[1].merge(exact([5.0]))
    sums[2].add([-1.0])
    sums[0].merge(sums[2])
    assert [sums[place].result() for place in range(3)] == [-1.5, math.inf, -4.5]


def test_cancellation_and_subnormals_leave_nothing_out():
    tiny = 5e-324
    assert exact([1e308, tiny, 1e308, -1e308, -1e308]).result() == tiny
    assert exact([tiny] * 3).result() == 3 * tiny
    assert exact([1.0, 2.0**-53]).result() == 1.0  # a tie goes to even …
    assert exact([1.0, 2.0**-53, tiny]).result() == 1.0 + 2.0**-52  # … and the smallest number breaks it


def test_large_arrays_agree_with_fsum():
    values = np.random.default_rng(0).standard_normal(50_000) * np.logspace(-200, 200, 50_000)
    assert exact(values.reshape(100, 500)).result() == math.fsum(values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0.0),
        ([-0.0], 0.0),
        ([1.0, math.inf], math.inf),
        ([-math.inf, 1e308], -math.inf),
        ([1.7e308, 1.7e308], math.inf),
        ([-1.7e308, -1.7e308], -math.inf),
    ],
)
def test_special_values(values, expected):
    assert exact(values).result() == expected


@pytest.mark.parametrize("values", [[math.nan, 1.0], [math.inf, -math.inf], [math.inf, 1.0, math.nan]])
def test_nan_stays(values):
    assert math.isnan(exact(values).result())
    assert math.isnan(exact(*values).result())
