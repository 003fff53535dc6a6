from __future__ import annotations

import math

import numpy as np
import pytest

from layerdiff.decode.signals import Energy
from layerdiff.metrics import definitions


def test_against_the_definition_in_any_order() -> None:
    generator = np.random.default_rng(1)
    reference = generator.standard_normal((40, 30)).astype(np.float32)
    candidate = reference + 1e-3 * generator.standard_normal((40, 30)).astype(np.float32)
    parts = [Energy.between(reference[k], candidate[k]) for k in range(40)]
    whole = Energy.between(reference, candidate)
    assert sum(parts, start=Energy()) == whole == sum(reversed(parts), start=Energy())
    expected = definitions.snr_db(reference=reference, candidate=candidate)
    assert whole.snr_db == pytest.approx(expected, rel=1e-12)


def test_edges() -> None:
    ones = np.ones(4, np.float32)
    assert Energy().snr_db is None
    assert Energy.between(ones, ones).snr_db == math.inf
    assert Energy.between(0 * ones, ones).snr_db == -math.inf
    bad = Energy.between(ones, np.array([1, np.nan, np.inf, 1], np.float32))
    assert (bad.values, bad.not_finite, bad.snr_db) == (4, 2, None)
