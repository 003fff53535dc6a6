"""The compiled loops against sums of fractions, NumPy's own functions and a walk over all float16 values."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layerdiff.metrics import kernels
from layerdiff.metrics.block import MAGNITUDE, QUANTITIES, row_sums

LENGTHS = [1, 5, 15, 16, 511, 512, 2047, 2048, 2560, 8198, 65536]


def sides(rows, length, dtype):
    return np.random.default_rng(length).standard_normal((2, rows, length)).astype(dtype)


def compared(reference, candidate, atol, rtol):
    sums = np.empty((len(QUANTITIES), 1))
    return kernels.compare_rows(reference[None], candidate[None], atol, rtol, sums)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", LENGTHS)
def test_row_sums_are_those_of_exact_addition(length, dtype):
    reference, candidate = sides(3, length, dtype)
    sums = dict(zip(QUANTITIES, row_sums(reference, candidate), strict=True))
    first, second = reference.astype(np.float64), candidate.astype(np.float64)
    terms = {
        "reference_sum": first,
        "candidate_sum": second,
        "abs_error_sum": np.abs(second - first),
        "reference_energy": first * first,
        "candidate_energy": second * second,
        "error_energy": (second - first) ** 2,
        "product": first * second,
    }
    for name, values in terms.items():
        exact = [math.fsum(row) for row in values]
        assert sums[name] == pytest.approx(exact, rel=1e-11, abs=1e-11), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", LENGTHS)
def test_row_sums_do_not_depend_on_the_rows_around_them_or_on_where_they_lie(length, dtype):
    together = sides(7, length, dtype)
    sums = row_sums(*together)
    for row in range(7):
        shifted = np.empty((2, length + row), dtype)
        shifted[:, row:] = together[:, row]
        alone = [np.ascontiguousarray(side[None]) for side in together[:, row]]
        moved = [shifted[:1, row:], shifted[1:, row:]]
        assert np.array_equal(row_sums(*alone)[:, 0], sums[:, row])
        assert np.array_equal(row_sums(*moved)[:, 0], sums[:, row])


def test_sums_beyond_float64_are_infinite():
    large = np.full((1, 4), 1e300)
    assert np.isposinf(row_sums(large, large)[QUANTITIES.index("product"), 0])


finite = {"allow_nan": False, "allow_infinity": False}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_deviation_is_what_numpy_says(dtype, data):
    width = 32 if dtype == "float32" else 64
    values = hnp.arrays(dtype, st.integers(1, 40), elements=st.floats(width=width, **finite))
    reference = data.draw(values)
    candidate = data.draw(hnp.arrays(dtype, reference.shape, elements=st.floats(width=width, **finite)))
    atol, rtol = data.draw(st.floats(0, 1e3)), data.draw(st.floats(0, 2))
    with np.errstate(over="ignore"):
        error = np.abs(candidate.astype(np.float64) - reference.astype(np.float64))
        limit = np.abs(reference.astype(np.float64)) * rtol + atol
    largest, outside = compared(reference, candidate, atol, rtol)
    assert largest == error.max()
    assert outside == np.count_nonzero(error > limit)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 1023, 65536])
@pytest.mark.parametrize("end", [0, -1])
def test_deviation_sees_both_ends_of_a_row(size, end):
    reference = np.zeros(size, np.float32)
    candidate = reference.copy()
    candidate[end] = -3.0
    assert compared(reference, candidate, 1.0, 0.0) == (3.0, 1)


def test_distance_counts_the_values_of_float16_in_between(oracle):
    values = oracle.float16_values().astype(np.float16)
    bits = values.view(np.int16).astype(np.int32)
    some = np.random.default_rng(0).integers(0, len(values), (200, 2))
    for one, other in some:
        found = kernels.span(bits[[one]], bits[[other]], MAGNITUDE["float16"])[4]
        assert found == abs(one - other)


def test_distance_of_float32_crosses_zero_and_spans_the_dtype():
    def distance(first, second):
        pair = [np.array(side, np.float32).view(np.int32) for side in (first, second)]
        return kernels.span(*pair, MAGNITUDE["float32"])[4]

    tiny = np.finfo(np.float32).smallest_subnormal
    assert distance([0.0], [-0.0]) == 0
    assert distance([tiny], [-tiny]) == 2
    assert distance([1.0, 1.0], [1.0, np.nextafter(np.float32(1), np.float32(2))]) == 1
    largest = np.finfo(np.float32).max
    assert distance([largest], [-largest]) == 2 * 0x7F7FFFFF


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (40, 1000), (9000, 1), (2, 20_000)])
def test_measure_is_what_its_two_parts_say_of_the_whole(shape):
    reference, candidate = sides(*shape, "float32")
    sums = np.empty((2, len(QUANTITIES), len(reference)))
    largest, outside, farthest, ends, is_finite = kernels.measure(reference, candidate, 0.1, 0.5, sums[0])
    assert (largest, outside) == kernels.compare_rows(reference, candidate, 0.1, 0.5, sums[1])
    assert np.array_equal(*sums)
    bits = [side.reshape(-1).view(np.int32) for side in (reference, candidate)]
    assert farthest == kernels.span(*bits, MAGNITUDE["float32"])[4]
    assert ends == (reference.min(), reference.max(), candidate.min(), candidate.max())
    assert is_finite


@given(data=st.data())
def test_measure_orders_values_as_numpy_does(data):
    values = hnp.arrays("float32", (1, 9), elements=st.floats(width=32, allow_nan=False))
    reference, candidate = data.draw(values), data.draw(values)
    ends, is_finite = kernels.measure(reference, candidate, 0.0, 0.0, np.empty((len(QUANTITIES), 1)))[3:]
    assert is_finite == (np.isfinite(reference).all() and np.isfinite(candidate).all())
    assert ends == (reference.min(), reference.max(), candidate.min(), candidate.max())


def no_sums(count):
    return np.zeros((count, kernels.LIMBS), np.uint32), np.zeros(count)


@given(st.lists(st.floats(), max_size=40))
def test_limbs_hold_the_sum_of_fractions(values):
    limbs, specials = no_sums(1)
    kernels.add_exactly(np.array([values], np.float64), limbs, specials)
    finite = [value for value in values if math.isfinite(value)]
    total = int.from_bytes(limbs.astype("<u4").tobytes(), "little", signed=True)
    assert Fraction(total, 2**1074) == sum(map(Fraction, finite))
    special = math.fsum(v for v in values if not math.isfinite(v)) if not _opposed(values) else math.nan
    assert np.array_equal(specials, [special], equal_nan=True)


def _opposed(values):
    return math.inf in values and -math.inf in values


def test_limbs_carry_over_many_large_values():
    values = np.full((2, 1 << 20), np.finfo(np.float64).max)
    values[1] *= -1
    limbs, specials = no_sums(2)
    for half in np.split(values, 2, axis=1):
        kernels.add_exactly(np.ascontiguousarray(half), limbs, specials)
    found = [int.from_bytes(row.tobytes(), "little", signed=True) for row in limbs.astype("<u4")]
    expected = int(np.finfo(np.float64).max) << (1074 + 20)
    assert found == [expected, -expected]


@pytest.mark.parametrize("segments", [1, 3])
@given(data=st.data())
def test_worst_row_is_the_first_with_the_largest_error(segments, data):
    values = hnp.arrays("float64", (6, segments), elements=st.sampled_from([0.0, 1.0, 4.0, math.inf, math.nan]))
    errors, sizes = data.draw(values), data.draw(values)
    error, size = errors.sum(axis=1), sizes.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(error == 0, 0.0, np.sqrt(error / size))
    row, found = kernels.worst_row(errors, sizes)
    assert row == np.argmax(np.isnan(relative) if np.isnan(relative).any() else relative)
    assert np.array_equal(found, relative[row], equal_nan=True)


def test_arrays_that_cannot_be_written_are_read():
    reference, candidate = sides(2, 9, "float32")
    expected = row_sums(reference, candidate)
    for side in (reference, candidate):
        side.flags.writeable = False
    assert np.array_equal(row_sums(reference, candidate), expected)
    assert compared(reference[0], candidate[0], 0.0, 0.0)[1] == 9


def test_other_dtypes_are_refused():
    with pytest.raises(TypeError, match="No matching definition"):
        compared(np.zeros(3, np.int32), np.zeros(3, np.int32), 0.0, 0.0)


def test_without_a_place_to_keep_compiled_code_it_is_compiled_for_this_process(monkeypatch):
    asked = []
    njit = kernels.nb.njit

    def refusing(signatures, *, cache=False, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function 'double': no locator available for file '<frozen>'")
        return njit(signatures, **options)

    monkeypatch.setattr(kernels.nb, "njit", refusing)
    double = kernels.compiled([kernels.nb.float64(kernels.nb.float64)])(lambda value: 2 * value)
    assert double(1.5) == 3.0
    assert asked == [True, False]
