"""The streaming pass against the definitions, and its promise: the same bits for any cut, order and merging."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.metrics import Accumulator, RelativeL2, Summary, rows
from layerdiff.metrics.definitions import definitions
from layerdiff.records import METRICS

LENGTHS = (1, 5, 15, 16, 17, 100, 640, 2047, 2048, 2049, 8198)
"""Around every border of `rows`: columns, plain sums, folded sums with and without a rest."""


def tensors(shape, *, seed=0, dtype=np.float32, noise=1e-3):
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, shape)
    return reference.astype(dtype), (reference * (1 + noise * rng.standard_normal(shape))).astype(dtype)


def accumulated(*pairs, **settings):
    total = Accumulator(**settings)
    for reference, candidate in pairs:
        total.update(reference=reference, candidate=candidate)
    return total


def state(total):
    """Everything that an accumulator tells, NaN made comparable."""
    sides = [(s.elements, s.nan_count, s.inf_count, s.min, s.max, s.mean) for s in (total.reference, total.candidate)]
    return repr((total.result(), total.worst_row, sides, total.rows, total.unmatched_count))


def assert_defined_alike(total, reference, candidate, *, dtype="float32", atol=1e-5, rtol=1e-3):
    found = total.result()
    assert tuple(found) == METRICS
    for name, definition in definitions(dtype=dtype, atol=atol, rtol=rtol).items():
        expected = definition(reference=reference, candidate=candidate)
        if math.isnan(expected):
            assert found[name] is None, name
        else:
            slack = 1e-9 if name.endswith("_db") else 1e-15
            assert found[name] == pytest.approx(expected, rel=1e-12, abs=slack), name


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_results_are_what_the_definitions_say(length, dtype):
    reference, candidate = tensors((7, length))
    assert_defined_alike(accumulated((reference, candidate), dtype=dtype), reference, candidate, dtype=dtype)


@pytest.mark.parametrize(
    ("first", "second"),
    [("float32", "float16"), ("float16", "float16"), ("float64", "float32"), ("int64", "int32"), ("int8", "uint8")],
)
@pytest.mark.parametrize("length", [5, 40])
@pytest.mark.parametrize("ulp", ["float16", "float32"])
def test_dtypes_may_differ_within_a_kind(first, second, length, ulp):
    reference, candidate = tensors((6, length), dtype=np.float64)
    reference, candidate = np.abs(reference % 100).astype(first), np.abs(candidate % 100).astype(second)
    total = accumulated((reference, candidate), dtype=ulp, atol=0.5, rtol=0.0)
    assert_defined_alike(total, reference, candidate, dtype=ulp, atol=0.5, rtol=0.0)


def test_bool_tensors():
    reference, candidate = np.array([[True, False, True]]), np.array([[True, True, True]])
    assert_defined_alike(accumulated((reference, candidate)), reference, candidate)


def test_metrics_agree_with_rational_arithmetic(oracle):
    reference, candidate = tensors((3, 50))
    found = accumulated((reference, candidate), atol=1e-4, rtol=1e-3).result()
    for name, expected in oracle.metrics(reference, candidate, atol=1e-4, rtol=1e-3).items():
        assert found[name] == pytest.approx(expected, rel=1e-13), name


@pytest.mark.parametrize("ulp", ["float16", "float32"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("first", "second"),
    [(-1e-7, 1e-7), (-1.0, 1.0), (-6e4, 6e4), (1.0, -1e-7), (0.0, -1e-7), (-0.0, 1e-7), (-2.0, -3.0), (2.0, 3.0)],
)
def test_ulps_are_counted_across_zero(first, second, dtype, ulp):
    reference, candidate = np.array([[first, 1.0]], dtype), np.array([[second, 1.0]], dtype)
    assert_defined_alike(accumulated((reference, candidate), dtype=ulp), reference, candidate, dtype=ulp)


def test_ulps_of_what_rounds_to_either_zero_are_none():
    tiny = np.float64([[1e-60, -1e-60]])
    for ulp in ("float16", "float32"):
        assert accumulated((tiny, -tiny), dtype=ulp).result()["max_ulp"] == 0


@st.composite
def cuts(draw, axis):
    """Borders that cut an axis into parts, empty ones among them."""
    inner = draw(st.lists(st.integers(0, axis), max_size=4))
    return [0, *sorted(inner), axis]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(LENGTHS), st.integers(0, 5), st.booleans(), st.data())
def test_any_cut_order_and_tree_of_merges_gives_the_same_bits(length, seed, spoilt, data):
    reference, candidate = tensors((12, length), seed=seed)
    if spoilt:
        candidate[7, length // 2], reference[3, 0] = np.nan, np.inf
    whole = accumulated((reference, candidate))
    borders = data.draw(cuts(12))
    parts = [(reference[a:b], candidate[a:b]) for a, b in itertools.pairwise(borders)]
    assert state(accumulated(*parts)) == state(whole)
    tree = [accumulated(part) for part in parts]
    while len(tree) > 1:
        left = data.draw(st.integers(0, len(tree) - 2))
        tree[left].merge(tree.pop(left + 1))
    assert state(tree[0]) == state(whole)
    shuffled = accumulated(*data.draw(st.permutations(parts)))
    assert repr(shuffled.result()) == repr(whole.result())
    assert shuffled.reference.mean == whole.reference.mean


@pytest.mark.parametrize("length", LENGTHS)
def test_many_rows_at_once_give_the_bits_of_single_rows(length):
    count = 3 * rows.SEGMENT // length + 1 if length > 100 else 500
    reference, candidate = tensors((min(count, 500), length))
    whole, single = accumulated((reference, candidate)), accumulated(*zip(reference, candidate, strict=True))
    assert state(whole) == state(single)


@pytest.mark.parametrize("length", [rows.SEGMENT - 1, rows.SEGMENT, rows.SEGMENT + 1, 3 * rows.SEGMENT + 7])
def test_long_rows_are_streamed_in_segments(length):
    reference, candidate = tensors((3, length))
    whole = accumulated((reference, candidate))
    assert_defined_alike(whole, reference, candidate)
    assert state(whole) == state(accumulated(*zip(reference, candidate, strict=True)))
    assert whole.rows == 3


def views(array):
    """The same elements in the same order, stored in other ways."""
    doubled = np.repeat(array, 2, axis=-1)
    wider = np.concatenate([np.full((*array.shape[:-1], 3), 99, array.dtype), array], axis=-1)
    return {
        "columns": wider[..., 3:],
        "strided": doubled[..., ::2],
        "fortran": np.asfortranarray(array),
        "reversed": array[..., ::-1].copy()[..., ::-1],
        "swapped": np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1),
        "big-endian": array.astype(array.dtype.newbyteorder(">")),
    }


@pytest.mark.parametrize("length", [1, 5, 40, 2100])
def test_memory_layout_does_not_matter(length):
    reference, candidate = tensors((4, 3, length))
    whole = accumulated((reference, candidate))
    left, right = views(reference), views(candidate)
    for name, view in left.items():
        for other in ("columns", name):
            assert state(accumulated((view, right[other]))) == state(whole), (name, other)


def test_a_slice_is_compared_in_place():
    reference, candidate = tensors((20, 102))
    view = accumulated((reference[..., -5:], candidate[..., -5:]))
    assert state(view) == state(accumulated((reference[..., -5:].copy(), candidate[..., -5:].copy())))


def test_vectors_and_numbers_are_one_row():
    reference, candidate = tensors(9)
    assert state(accumulated((reference, candidate))) == state(accumulated((reference[None], candidate[None])))
    number = accumulated((reference[0], candidate[0]))
    assert (number.rows, number.elements) == (1, 1)
    assert state(number) == state(accumulated((reference[:1], candidate[:1])))


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (2, 0, 4)])
def test_nothing_is_undefined(shape):
    total = accumulated((np.empty(shape, np.float32), np.empty(shape, np.float32)))
    assert total.result() == {**dict.fromkeys(METRICS), "nan_count": 0.0, "inf_count": 0.0}
    assert (total.worst_row, total.rows, total.reference.min, total.reference.mean) == (None, 0, None, None)


@pytest.mark.parametrize("length", [3, 40, 70_000])
def test_what_is_not_finite_is_counted_and_makes_errors_undefined(length):
    reference, candidate = tensors((4, length))
    clean = candidate.copy()
    reference[1, 0], candidate[1, 0] = np.inf, np.inf
    reference[2, 1], candidate[2, 1] = np.nan, np.nan
    candidate[3, :2], reference[0, 2] = (np.nan, -np.inf), np.inf
    total = accumulated((reference, candidate))
    assert_defined_alike(total, reference, candidate)
    assert (total.reference.nan_count, total.reference.inf_count) == (1, 2)
    assert (total.candidate.nan_count, total.candidate.inf_count) == (2, 2)
    assert total.unmatched_count == 2
    assert total.worst_row.row == 0
    assert math.isnan(total.worst_row.relative_l2)
    kept = np.isfinite(candidate)
    assert total.candidate.max == clean[kept].max()
    assert total.candidate.mean == pytest.approx(clean[kept].astype(np.float64).mean(), rel=1e-12)


def test_an_infinity_of_the_other_sign_is_not_the_same():
    total = accumulated((np.float32([np.inf, np.nan, 1]), np.float32([-np.inf, np.inf, 1])))
    assert total.unmatched_count == 2


def test_a_difference_beyond_float64_is_undefined():
    total = accumulated((np.array([1.7e308]), np.array([-1.7e308])))
    assert total.result()["max_abs_error"] is None
    assert total.candidate.min == -1.7e308


def test_zero_sides_and_equal_sides():
    zero, some = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    for pair in ((zero, zero), (zero, some), (some, zero), (some, some), (zero, -zero)):
        assert_defined_alike(accumulated(pair), *pair)


def test_tolerance_includes_its_border():
    reference, candidate = np.array([0.0, 0.0, 8.0, 8.0]), np.array([0.5, 0.75, 10.5, 10.75])
    assert accumulated((reference, candidate), atol=0.5, rtol=0.25).result()["mismatch_ratio"] == 0.5


def test_worst_row_is_found_and_labelled():
    reference, candidate = np.ones((3, 4, 2)), np.ones((3, 4, 2))
    candidate[1, 2] = 3.0
    total = accumulated((reference, reference))
    total.update(reference=reference, candidate=reference, label="b.wav")
    total.update(reference=reference, candidate=candidate, label="b.wav")
    assert total.worst_row == (12 + 12 + 6, 2.0, "b.wav", 12 + 6)
    assert total.rows == 36


def test_worst_row_does_not_depend_on_the_order_of_the_clips():
    reference, candidate = np.ones((2, 3)), np.full((2, 3), 2.0)
    found = set()
    for labels in (("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a")):
        total, merged = Accumulator(), Accumulator()
        for label in labels:
            total.update(reference=reference, candidate=candidate, label=label)
            other = Accumulator()
            other.update(reference=reference, candidate=candidate, label=label)
            merged.merge(other)
        found |= {total.worst_row[1:], merged.worst_row[1:]}
    assert found == {(1.0, "a", 0)}


def test_a_row_with_a_zero_reference_is_worse_than_a_finite_error():
    reference, candidate = np.array([[1.0], [0.0], [1.0]]), np.array([[9.0], [1e-9], [1.0]])
    assert accumulated((reference, candidate)).worst_row == (1, math.inf, None, 1)


@pytest.mark.parametrize("kind", [Accumulator, RelativeL2])
@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (np.zeros((1, 3), np.float32), r"float32\[2, 3\], candidate is float32\[1, 3\]: the shapes differ"),
        (np.zeros(3, np.float32), "shapes differ"),
        (np.zeros((2, 3), np.int32), "kinds differ"),
    ],
)
def test_disagreeing_sides_are_refused_and_not_taken_in(kind, candidate, message):
    total = kind()
    with pytest.raises(ValueError, match=message):
        total.update(reference=np.zeros((2, 3), np.float32), candidate=candidate)
    assert kind is RelativeL2 or total.elements == 0


@pytest.mark.parametrize("settings", [{"dtype": "float64"}, {"atol": -1.0}, {"rtol": math.nan}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"float16, float32|not negative"):
        Accumulator(**settings)


@pytest.mark.parametrize("settings", [{"dtype": "float16"}, {"atol": 1.0}, {"rtol": 1.0}])
def test_unlike_accumulators_do_not_merge(settings):
    with pytest.raises(ValueError, match="cannot merge"):
        Accumulator().merge(Accumulator(**settings))


@pytest.mark.parametrize("length", [*LENGTHS, 70_000])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_relative_l2_has_the_bits_of_the_accumulator(length, dtype):
    reference, candidate = tensors((9, length), dtype=dtype) if length < 70_000 else tensors((2, length), dtype=dtype)
    reference, candidate = np.clip(reference, -6e4, 6e4), np.clip(candidate, -6e4, 6e4)
    whole, left, right = RelativeL2(), RelativeL2(), RelativeL2()
    whole.update(reference=reference, candidate=candidate)
    left.update(reference=reference[:1], candidate=candidate[:1])
    right.update(reference=reference[1:], candidate=candidate[1:])
    right.merge(left)
    assert whole.result() == right.result() == accumulated((reference, candidate)).result()["relative_l2_error"]


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        ([], [], None),
        ([0.0], [0.0], 0.0),
        ([0.0], [1.0], math.inf),
        ([np.nan], [1.0], None),
        ([1.0], [np.inf], None),
        ([np.inf], [np.inf], None),
        ([np.inf], [1.0], None),
    ],
)
def test_relative_l2_edge_cases(reference, candidate, expected):
    error = RelativeL2()
    error.update(reference=np.array(reference), candidate=np.array(candidate))
    assert error.result() == expected


@pytest.mark.parametrize("length", [1, 5, 40, 2100, 70_000])
@pytest.mark.parametrize("spoilt", [False, True])
def test_summary_has_the_bits_of_the_accumulators_sides(length, spoilt):
    reference, candidate = tensors((3, length))
    if spoilt:
        candidate[1, 0], candidate[2, 0] = np.nan, -np.inf
    total, left, right = accumulated((reference, candidate)), Summary(), Summary()
    right.update(candidate[2:])
    left.update(candidate[:2])
    right.merge(left)
    side = total.candidate
    for name in ("elements", "nan_count", "inf_count", "finite_count", "min", "max", "mean", "peak"):
        assert getattr(right, name) == getattr(side, name), name
    finite = candidate[np.isfinite(candidate)]
    assert (right.min, right.max) == (finite.min(), finite.max())
    assert right.mean == pytest.approx(finite.astype(np.float64).mean(), rel=1e-9)


def test_summary_of_nothing_finite():
    side = Summary()
    side.update(np.array([np.nan, np.inf]))
    assert (side.min, side.max, side.mean, side.peak, side.nan_count, side.inf_count) == (None, None, None, 0.0, 1, 1)


def test_threads_do_not_share_buffers():
    from concurrent.futures import ThreadPoolExecutor

    pairs = [tensors((20, 2100), seed=seed) for seed in range(8)]
    expected = [state(accumulated(pair)) for pair in pairs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda pair: state(accumulated(pair)), pairs)) == expected
