"""The pass rule: what it derives, what it demands, and in which words it refuses."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerdiff.thresholds import AT_LEAST, Limits, estimated, judge, limits

sizes = st.floats(0, 1e3)
depths = st.integers(0, 10_000)
optional = st.none() | sizes
WIDE = Limits(1e-6, 1e-3, "the float32 rounding level at this depth", "1.5 times what float16 must cost")


def metrics(total=0.0, **others):
    return {"relative_l2_error": total, "nan_count": 0.0, "inf_count": 0.0, **others}


def judged(total=0.0, conversion=0.0, bounds=WIDE, **rest):
    return judge(metrics=metrics(total), conversion_error=conversion, limits=bounds, **rest)


def test_float32_is_limited_by_its_rounding_level():
    assert limits(rounding_level=1e-5, depth=3).conversion == pytest.approx(8e-5)
    assert limits(rounding_level=0.0, depth=3).conversion == 16 * 2**-24 * 2
    bounds = limits(rounding_level=1e-5, depth=3)
    assert bounds.total == bounds.conversion


def test_float16_may_cost_what_it_must():
    bounds = limits(rounding_level=1e-7, depth=0, weight_cost=1e-4, precision_cost=6e-4)
    assert bounds.conversion == pytest.approx(16 * 2**-24 + 3e-4)
    assert bounds.total == pytest.approx(9e-4)
    assert limits(rounding_level=1e-7, depth=0, weight_cost=1e-4, precision_cost=1e-4).total == bounds.conversion


@given(sizes, depths, optional, optional)
def test_the_total_limit_is_never_below_the_conversion_limit(rounding, depth, weight, cost):
    bounds = limits(rounding_level=rounding, depth=depth, weight_cost=weight, precision_cost=cost)
    assert 16 * 2**-24 <= bounds.conversion <= bounds.total


@given(st.tuples(sizes, sizes), st.tuples(depths, depths), st.tuples(sizes, sizes), st.tuples(sizes, sizes))
def test_limits_grow_with_every_measurement(roundings, depth, weights, costs):
    measured = list(zip(*map(sorted, (roundings, depth, weights, costs)), strict=True))
    low, high = (limits(rounding_level=r, depth=d, weight_cost=w, precision_cost=c) for r, d, w, c in measured)
    assert low.conversion <= high.conversion
    assert low.total <= high.total


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -1.0])
def test_without_a_rounding_level_there_are_no_limits(value):
    bounds = limits(rounding_level=value, depth=1)
    assert (bounds.conversion, bounds.total) == (None, None)
    assert judged(bounds=bounds) == (
        "unknown",
        "the conversion error cannot be judged: the float32 rounding level was not measured; "
        "the total error cannot be judged: the float32 rounding level was not measured",
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_cost_that_is_not_finite_is_no_limit(value):
    assert limits(rounding_level=1e-7, depth=1, weight_cost=value).conversion is None
    bounds = limits(rounding_level=1e-7, depth=1, precision_cost=value)
    assert bounds.conversion is not None
    assert bounds.total is None
    assert judged(bounds=bounds)[0] == "unknown"
    assert judged(conversion=1.0, bounds=bounds)[0] == "fail"


def test_a_plain_pass_has_no_reason():
    assert judged(total=1e-3, conversion=1e-6) == ("pass", "")


def test_a_conversion_error_is_told_with_its_limit():
    bounds = Limits(4.1e-7, 1e-3, "the float32 rounding level at this depth", "…")
    assert judged(total=0.5, conversion=0.52, bounds=bounds) == (
        "fail",
        "conversion error 0.52 exceeds 4.1e-07, the float32 rounding level at this depth",
    )


def test_a_precision_error_is_told_with_what_float16_must_cost():
    assert judged(total=0.02) == ("fail", "total error 0.02 exceeds 0.001, 1.5 times what float16 must cost")


def test_numbers_are_written_with_enough_digits_to_differ():
    bounds = Limits(0.1, 0.1, "x", "x")
    assert judged(conversion=0.10004, bounds=bounds)[1].startswith("conversion error 0.10004 exceeds 0.1,")


def test_an_infinite_error_is_explained():
    assert (
        judged(total=math.inf)[1] == "total error is infinite: the reference is 0 throughout and the candidate is not"
    )


@given(sizes, sizes, sizes)
def test_a_smaller_error_never_does_worse(conversion, total, share):
    better = judged(total=total * min(share, 1), conversion=conversion * min(share, 1))
    assert judged(total=total, conversion=conversion)[0] == "fail" or better[0] == "pass"


def test_nonfinite_values_of_the_candidate_alone_fail():
    nothing = metrics(None)
    status, reason = judge(metrics=nothing, conversion_error=0.0, limits=WIDE, candidate_nonfinite=3)
    assert (status, reason) == ("fail", "3 NaN or Inf in the candidate where the reference has none")


def test_nonfinite_values_of_both_sides_are_unknown():
    found = judge(
        metrics=metrics(None), conversion_error=0.0, limits=WIDE, reference_nonfinite=3, candidate_nonfinite=3
    )
    assert found == (
        "unknown",
        "no error is defined: the reference has 3 NaN or Inf and the candidate has 3 NaN or Inf",
    )
    moved = judge(
        metrics=metrics(None),
        conversion_error=0.0,
        limits=WIDE,
        reference_nonfinite=3,
        candidate_nonfinite=3,
        unmatched_nonfinite=1,
    )
    assert moved[0] == "fail"


def test_nothing_compared_is_unknown():
    found = judge(metrics=metrics(None), conversion_error=None, limits=WIDE, thresholds={"rmse": 1.0})
    assert found == ("unknown", "no error is defined: nothing was compared")


def test_an_unmeasured_conversion_error_is_unknown_unless_something_fails():
    assert judged(conversion=None) == ("unknown", "the conversion error was not measured")
    assert judged(total=1.0, conversion=None)[0] == "fail"


def test_a_threshold_on_the_relative_error_replaces_both_limits():
    assert judged(total=0.05, conversion=0.05, thresholds={"relative_l2_error": 0.1}) == ("pass", "")
    status, reason = judged(total=1e-4, conversion=0.0, thresholds={"relative_l2_error": 1e-5})
    assert (status, reason) == ("fail", "total error 0.0001 exceeds 1e-05, the threshold of the configuration")
    unmeasured = limits(rounding_level=None, depth=1)
    assert judged(bounds=unmeasured, thresholds={"relative_l2_error": 0.1}) == ("pass", "")


@pytest.mark.parametrize("name", ["max_abs_error", "rmse", "max_ulp", "mismatch_ratio", "nan_count", *sorted(AT_LEAST)])
def test_other_thresholds_bound_from_the_right_side(name):
    good, bad = (2.0, 0.5) if name in AT_LEAST else (0.5, 2.0)
    found = {
        value: judge(metrics=metrics(**{name: value}), conversion_error=0.0, limits=WIDE, thresholds={name: 1.0})
        for value in (good, 1.0, bad)
    }
    assert found[good] == found[1.0] == ("pass", "")
    verb = "is below" if name in AT_LEAST else "exceeds"
    assert found[bad] == ("fail", f"{name} {bad:.2g} {verb} 1, the threshold")


def test_a_threshold_on_an_undefined_metric_is_unknown():
    found = judge(
        metrics=metrics(cosine_similarity=None),
        conversion_error=0.0,
        limits=WIDE,
        thresholds={"cosine_similarity": 0.9},
    )
    assert found == ("unknown", "cosine_similarity is undefined here")


def test_infinite_decibels_pass_a_threshold():
    found = judge(metrics=metrics(snr_db=math.inf), conversion_error=0.0, limits=WIDE, thresholds={"snr_db": 60.0})
    assert found == ("pass", "")


def test_a_broken_expectation_fails_with_its_words():
    assert judged(broken_expectation="no positive value in 3 of 4 rows") == ("fail", "no positive value in 3 of 4 rows")


def test_several_reasons_are_all_told():
    status, reason = judged(conversion=1.0, broken_expectation="nothing is positive", thresholds={"nan_count": -1.0})
    assert status == "fail"
    assert [part.split()[0] for part in reason.split("; ")] == ["conversion", "nan_count", "nothing"]


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 16 * 2.0**-24), ("float16", 2.0**-11)])
def test_an_estimate_grows_with_the_square_root_of_the_depth(dtype, rounding):
    for depth in (0, 3, 99):
        bounds = estimated(depth=depth, dtype=dtype)
        assert bounds.conversion == bounds.total == pytest.approx(4 * rounding * math.sqrt(depth + 1))
        _, reason = judged(total=2 * bounds.total, conversion=0.0, bounds=bounds)
        assert f"the estimate for {dtype} at this depth" in reason
