"""The last step of each metric: what zero, nothing and overflow mean."""

import math

import pytest

from layerdiff.metrics import formulas


def test_mean_of_nothing_is_undefined():
    assert math.isnan(formulas.mean(0.0, 0))
    assert formulas.mean(3.0, 2) == 1.5


@pytest.mark.parametrize(
    ("error", "reference", "expected"), [(0.0, 0.0, 0.0), (0.0, 4.0, 0.0), (1.0, 0.0, math.inf), (1.0, 4.0, 0.5)]
)
def test_relative_error(error, reference, expected):
    assert formulas.relative_error(error, reference) == expected


def test_cosine_stays_within_its_range_and_is_exact_for_equal_sides():
    for energy in (3.0, 1e-300, 1e300, 0.1):
        assert formulas.cosine(energy, energy, energy) == pytest.approx(1.0, abs=3e-16)
        assert formulas.cosine(-energy, energy, energy) >= -1.0
    assert formulas.cosine(1.0000000000000002, 1.0, 1.0) == 1.0
    assert formulas.cosine(0.1, 0.1, 0.1) == 1.0


def test_cosine_survives_products_beyond_float64():
    assert formulas.cosine(1e200, 1e200, 1e200) == pytest.approx(1.0)
    assert formulas.cosine(1e-200, 1e-200, 1e-200) == pytest.approx(1.0)


@pytest.mark.parametrize(("reference", "candidate"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (math.inf, 1.0)])
def test_cosine_is_undefined_without_a_direction(reference, candidate):
    assert math.isnan(formulas.cosine(0.0, reference, candidate))


@pytest.mark.parametrize(
    ("signal", "noise", "expected"),
    [(100.0, 1.0, 20.0), (1.0, 100.0, -20.0), (1.0, 0.0, math.inf), (0.0, 0.0, math.inf), (0.0, 1.0, -math.inf)],
)
def test_decibels(signal, noise, expected):
    assert formulas.decibels(signal, noise) == expected
