"""One block: what it is read as, what is copied, and blocks with elements that are not finite."""

import numpy as np
import pytest

from layerdiff.metrics import definitions
from layerdiff.metrics.block import QUANTITIES, energies, load, measure, summarise

TOLERANCE = {"atol": 1e-3, "rtol": 1e-2}


def pair(dtype, shape=(6, 50)):
    drawn = np.random.default_rng(5).standard_normal((2, *shape)) * 20
    reference, candidate = drawn[0], drawn[0] + 0.1 * drawn[1]
    return reference.astype(dtype), candidate.astype(dtype)


@pytest.mark.parametrize("ulp", ["float16", "float32"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint16", "int64", "bool"])
def test_a_block_holds_what_the_definitions_say(dtype, ulp):
    reference, candidate = pair(dtype)
    with np.errstate(over="ignore"):  # as the accumulator does: 65535 is infinite in float16
        block = measure(reference, candidate, dtype=ulp, **TOLERANCE)
    sides = {"reference": reference, "candidate": candidate}
    assert block.max_abs == definitions.max_abs_error(**sides)
    assert block.max_ulp == definitions.max_ulp(**sides, dtype=ulp)
    assert block.mismatches / reference.size == definitions.mismatch_ratio(**sides, **TOLERANCE)
    assert (block.reference.low, block.reference.high) == (float(reference.min()), float(reference.max()))
    rmse = np.sqrt(block.sums[QUANTITIES.index("error_energy")].sum() / reference.size)
    assert rmse == pytest.approx(definitions.rmse(**sides), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_layout_gives_the_same_bits(dtype):
    reference, candidate = pair(dtype)
    expected = measure(reference, candidate, dtype="float32", **TOLERANCE)
    for view in (np.asfortranarray, lambda side: side.repeat(2, axis=1)[:, ::2], lambda side: side[::-1][::-1]):
        found = measure(view(reference), view(candidate), dtype="float32", **TOLERANCE)
        assert np.array_equal(found.sums, expected.sums)
        assert (found.max_abs, found.max_ulp, found.mismatches) == (
            expected.max_abs,
            expected.max_ulp,
            expected.mismatches,
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_lies_well_is_not_copied(dtype):
    reference, candidate = pair(dtype)
    assert all(a is b for a, b in zip(load(reference, candidate), (reference, candidate), strict=True))


@pytest.mark.parametrize(
    ("first", "second", "read_as"),
    [
        ("float16", "float16", "float32"),
        ("float16", "float32", "float32"),
        ("float32", "float64", "float64"),
        ("int16", "int8", "float32"),
        ("int32", "int32", "float64"),
        ("bool", "bool", "float32"),
    ],
)
def test_both_sides_are_read_as_the_narrowest_dtype_that_is_exact(first, second, read_as):
    sides = load(np.ones((2, 3), first), np.ones((2, 3), second))
    assert [side.dtype for side in sides] == [read_as, read_as]
    assert [side.tolist() for side in sides] == [np.ones((2, 3)).tolist()] * 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_with_an_element_that_is_not_finite_have_no_errors(bad):
    reference, candidate = pair("float32")
    candidate[2, 7] = bad
    block = measure(reference, candidate, dtype="float32", **TOLERANCE)
    errors = block.sums[QUANTITIES.index("error_energy")]
    assert np.flatnonzero(np.isnan(errors)).tolist() == [2]
    assert (block.candidate.nan_count, block.candidate.inf_count) == (int(np.isnan(bad)), int(np.isinf(bad)))
    assert (block.reference.nan_count, block.unmatched) == (0, 1)
    rest = np.delete(candidate.ravel(), 2 * 50 + 7)
    assert (block.candidate.low, block.candidate.high) == (rest.min(), rest.max())
    row = QUANTITIES.index("candidate_sum")
    assert block.sums[row].sum() == pytest.approx(rest.astype(np.float64).sum(), rel=1e-12)


def test_finite_elements_whose_squares_overflow_still_have_a_range():
    reference = np.array([[1e200, -2.0], [3.0, 4.0]])
    with np.errstate(over="ignore"):
        block = measure(reference, -reference, dtype="float32", atol=0.0, rtol=0.0)
    assert (block.reference.low, block.reference.high, block.candidate.nan_count) == (-2.0, 1e200, 0)
    assert (block.max_abs, block.mismatches) == (2e200, 4)
    assert np.isposinf(block.sums[QUANTITIES.index("error_energy"), 0])


def test_a_summary_leaves_out_what_is_not_finite():
    values = np.array([[1.0, np.nan, 3.0], [np.inf, -2.0, 0.5]], np.float32)
    side, sums = summarise(values)
    assert (side.low, side.high, side.nan_count, side.inf_count) == (-2.0, 3.0, 1, 1)
    assert sums.tolist() == [4.0, -1.5]


def test_energies_are_those_of_a_whole_block():
    reference, candidate = pair("float16")
    block = measure(reference, candidate, dtype="float32", **TOLERANCE)
    names = [QUANTITIES.index(name) for name in ("reference_energy", "error_energy")]
    assert np.array_equal(energies(reference, candidate), block.sums[names])
