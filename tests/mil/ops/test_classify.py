"""Labels and probabilities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.mil.ops.classify import classify


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=9), st.booleans(), st.sampled_from(["float32", "float64"]))
def test_the_label_is_that_of_the_first_largest_probability(values, text, dtype):
    classes = tuple(f"class {i}" if text else i * 7 for i in range(len(values)))
    probabilities = torch.tensor([values], dtype=getattr(torch, dtype))
    label, table = classify(probabilities=probabilities, classes=classes)
    assert label == classes[values.index(max(values))]
    assert table == dict(zip(classes, map(float, values), strict=True))


def test_there_is_one_probability_for_each_class():
    with pytest.raises(ValueError, match="2 probabilities for 3 classes"):
        classify(probabilities=torch.zeros(2), classes=("a", "b", "c"))
