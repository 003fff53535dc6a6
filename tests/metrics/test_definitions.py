"""The definitions against rational arithmetic, and their documented edge cases."""

import inspect
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layerdiff.metrics import definitions as d
from layerdiff.records import METRICS

ALL = d.definitions(dtype="float32", atol=1e-5, rtol=1e-3)
ERRORS = [name for name in METRICS if not name.endswith("_count")]

shapes = hnp.array_shapes(max_dims=3, max_side=6)
floats = st.floats(-(2.0**100), 2.0**100, width=32)


@st.composite
def pairs(draw, elements=floats, dtype=np.float32):
    shape = draw(shapes)
    return tuple(draw(hnp.arrays(dtype, shape, elements=elements)) for _ in range(2))


def test_every_metric_of_the_records_is_defined():
    assert tuple(ALL) == METRICS


@pytest.mark.parametrize("name", METRICS)
def test_docstring_has_the_house_form(name):
    function = getattr(d, name)
    text = inspect.getdoc(function)
    headings = re.findall(r"^(Args|Returns|Raises|Source):", text, re.MULTILINE)
    assert headings == ["Args", "Returns", "Raises", "Source"]
    assert re.search(r"(lower|higher) is (closer|better)", text.splitlines()[0])
    assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(function).parameters.values())
    assert list(inspect.signature(function).parameters)[:2] == ["reference", "candidate"]


@settings(deadline=None)
@given(pairs())
def test_definitions_agree_with_rational_arithmetic(oracle, pair):
    reference, candidate = pair
    for name, expected in oracle.metrics(reference, candidate, atol=1e-5, rtol=1e-3).items():
        value = ALL[name](reference=reference, candidate=candidate)
        if expected is None:
            assert math.isnan(value), name
        else:
            assert value == pytest.approx(expected, rel=1e-12, abs=1e-12 if name.endswith(("db", "larity")) else 0), (
                name
            )


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "candidate", "both"])
def test_errors_are_nan_where_anything_is_not_finite(name, bad, side):
    sides = {key: np.array([[1.0, 2.0], [3.0, 4.0]], np.float32) for key in ("reference", "candidate")}
    for key, array in sides.items():
        array[1, 0] = bad if side in (key, "both") else array[1, 0]
    assert math.isnan(ALL[name](**sides))


@pytest.mark.parametrize("name", ERRORS)
def test_errors_of_nothing_are_nan(name):
    assert math.isnan(ALL[name](reference=np.empty((0, 5), np.float32), candidate=np.empty((0, 5), np.float32)))


@pytest.mark.parametrize(
    ("name", "equal", "zero_reference", "both_zero"),
    [
        ("max_abs_error", 0.0, 2.0, 0.0),
        ("mean_abs_error", 0.0, 1.5, 0.0),
        ("rmse", 0.0, math.sqrt(2.5), 0.0),
        ("relative_l2_error", 0.0, math.inf, 0.0),
        ("cosine_similarity", 1.0, math.nan, math.nan),
        ("snr_db", math.inf, -math.inf, math.inf),
        ("psnr_db", math.inf, -math.inf, math.inf),
        ("max_ulp", 0.0, float(0x40000000), 0.0),
        ("mismatch_ratio", 0.0, 1.0, 0.0),
        ("nan_count", 0.0, 0.0, 0.0),
        ("inf_count", 0.0, 0.0, 0.0),
    ],
)
def test_zero_and_equality(name, equal, zero_reference, both_zero):
    zero, some = np.zeros(2, np.float32), np.array([1.0, 2.0], np.float32)
    results = [ALL[name](reference=r, candidate=c) for r, c in ((some, some), (zero, some), (zero, zero))]
    assert results == pytest.approx([equal, zero_reference, both_zero], nan_ok=True)


def test_counts_are_the_candidates():
    reference = np.array([np.nan, 1.0, 2.0, np.inf], np.float32)
    candidate = np.array([np.nan, np.nan, -np.inf, np.inf], np.float32)
    assert d.nan_count(reference=reference, candidate=candidate) == 2
    assert d.inf_count(reference=reference, candidate=candidate) == 2


def test_psnr_takes_the_peak_by_magnitude():
    reference, candidate = np.array([-10.0, 1.0]), np.array([-10.0, 2.0])
    assert d.psnr_db(reference=reference, candidate=candidate) == pytest.approx(10 * math.log10(100 / 0.5))


def test_ulp_in_float16_counts_the_sorted_float16_values(oracle):
    grid = oracle.float16_values()
    chosen = np.random.default_rng(1).choice(grid[1:-1], (2, 4000))
    reference, candidate = chosen.astype(np.float16)
    distances = np.abs(np.searchsorted(grid, chosen[0]) - np.searchsorted(grid, chosen[1]))
    for row in range(0, 4000, 400):
        part = slice(row, row + 400)
        value = d.max_ulp(reference=reference[part], candidate=candidate[part], dtype="float16")
        assert value == distances[part].max()


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(0, 50))
def test_ulp_in_float32_counts_nextafter(oracle, start, count):
    value = np.float32(start)
    for _ in range(count):
        value = np.nextafter(value, np.float32(np.inf)) if value < np.finfo(np.float32).max else value
    expected = oracle.steps(start, value, np.float32)
    assert d.max_ulp(reference=np.float32([start]), candidate=np.float32([value])) == expected


def test_ulp_spans_the_whole_range_and_knows_one_zero():
    extreme = np.finfo(np.float32).max
    assert d.max_ulp(reference=np.float32([-extreme]), candidate=np.float32([extreme])) == 2 * 0x7F7FFFFF
    assert d.max_ulp(reference=np.float32([-0.0]), candidate=np.float32([0.0])) == 0
    assert d.max_ulp(reference=np.float32([65504]), candidate=np.float32([1e30]), dtype="float16") == 1


def test_ulp_refuses_other_dtypes():
    with pytest.raises(ValueError, match="float16, float32, not 'float64'"):
        d.max_ulp(reference=np.ones(1), candidate=np.ones(1), dtype="float64")


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("reference", "candidate", "message"),
    [
        (np.zeros((2, 3)), np.zeros((1, 3)), "shapes differ"),
        (np.zeros((2, 3)), np.zeros(()), "shapes differ"),
        (np.zeros(2), np.zeros(2, np.int32), "kinds differ"),
        (np.zeros(2, bool), np.zeros(2, np.int32), "kinds differ"),
        (np.zeros(2, complex), np.zeros(2, complex), "only floating"),
    ],
)
def test_disagreeing_sides_are_refused(name, reference, candidate, message):
    with pytest.raises(ValueError, match=message):
        ALL[name](reference=reference, candidate=candidate)


def test_int_and_bool_tensors_have_metrics():
    reference, candidate = np.array([1, 2, 3], np.int64), np.array([1, 2, 5], np.int32)
    assert d.max_abs_error(reference=reference, candidate=candidate) == 2
    assert d.mismatch_ratio(reference=np.array([True, False]), candidate=np.array([True, True])) == 0.5
