"""One notation for every value."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerdiff.report import cells


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (-61.567, "-61.57"),
        (-1.025, "-1.025"),
        (0.00012345, "0.0001234"),
        (1.1234e-7, "1.123e-7"),
        (123456.0, "1.235e5"),
        (8388608, "8388608"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert cells.number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_to_four_digits(value: float) -> None:
    read = float(cells.number(value))
    assert read == float(f"{value:.4g}")
    assert len(cells.number(value)) <= 11


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (1.0 + 2e-16, "1"),
        (0.9988, "0.998800"),
        (-0.25, "-0.250000"),
        (0.99999987, "1-1.3e-7"),
        (1 - 2.5e-9, "1-2.5e-9"),
        (None, "–"),
        (math.nan, "nan"),
    ],
)
def test_a_cosine_shows_its_distance_from_one(value: float | None, text: str) -> None:
    assert cells.cosine(value) == text


@given(st.floats(-1, 1))
def test_only_a_cosine_of_one_is_shown_as_one(value: float) -> None:
    assert (cells.cosine(value) in ("1", "1.000000")) == (abs(1 - value) < 1e-12)


def test_intervals_shapes_shares_and_counts() -> None:
    assert cells.interval(-11.275, -1.025) == "[-11.28, -1.025]"
    assert cells.interval(None, 1.0) == "–"
    assert cells.shape((None, 1, 640)) == "[?, 1, 640]"
    assert cells.shape(()) == "[]"
    assert (cells.share(1.0), cells.share(0.9999999), cells.share(0.0)) == ("100 %", "99.9 %", "0 %")
    assert (cells.plural(1, "clip"), cells.plural(0, "clip")) == ("1 clip", "0 clips")


@given(st.text())
def test_clean_text_is_one_printable_line(text: str) -> None:
    clean = cells.clean(text)
    assert clean.isprintable()
    clean.encode("utf-8")
    if text.isprintable():
        assert clean == text.strip()


def test_descriptions_are_flattened_and_hashes_shortened() -> None:
    values = {"a": None, "b": True, "c": {"x": 1, "y": [1, 2]}, "d": "f" * 64, "e": list(range(20)), "f": {}, "g": ""}
    assert list(cells.facts(values)) == [
        "a none",
        "b yes",
        "c x 1, y 1, 2",
        "d ffffffffffff",
        "e 0, 1, 2, 3, 4, 5, 6, 7 … and 12 more",
        "f none",
        "g none",
    ]
