"""The census of NaN, infinities, values beyond float16 and logarithms of zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerdiff import mil
from layerdiff.mil.census import anomalies


def found(value, **given):
    return {a.kind: (a.count, a.first_index) for a in anomalies(value, tensor="t", op="add", **given)}


def test_each_kind_is_counted_with_its_first_place():
    value = torch.zeros(2, 3)
    assert found(value) == {}
    value[1, 0] = torch.nan
    value[0, 2] = -torch.inf
    value[1, 1] = value[1, 2] = -65505.0
    assert found(value) == {"nan": (1, (1, 0)), "inf": (1, (0, 2)), "beyond_float16": (2, (1, 1))}
    assert found(torch.tensor(torch.nan)) == {"nan": (1, ())}


def test_the_largest_float16_is_not_beyond_it():
    assert found(torch.tensor([65504.0, -65504.0])) == {}
    assert found(torch.tensor([65504.01])) == {"beyond_float16": (1, (0,))}


def test_integers_truth_values_and_what_is_no_tensor_have_none():
    assert found(torch.tensor([100000])) == {}
    assert found(torch.tensor([True])) == {}
    assert found("label") == {}
    assert found(torch.zeros(0)) == {}


def test_of_a_logarithm_the_zeros_of_its_operand_count():
    assert found(torch.tensor([0.0, -103.3]), operand=torch.tensor([1.0, 0.0])) == {"log_of_zero": (1, (1,))}


def test_a_trace_tells_which_op_made_the_first(build):
    """In float16 the small probabilities of a softmax are zeros, and their logarithms are not finite."""
    from coremltools.converters.mil import Builder as mb

    def program(x):
        probabilities = mb.softmax(x=x, axis=-1, name="probabilities")
        logs = mb.log(x=probabilities, epsilon=0.0, name="logs")
        return mb.add(x=mb.mul(x=logs, y=0.0, name="products"), y=1.0, name="sums")

    x = np.array([[0, 30, 60]], np.float32)
    model = mil.load(build(program, precision="float16", x=x))
    seen = {t.name: {a.kind for a in t.anomalies} for t in model.trace({"x": x}, census=True) if t.anomalies}
    first = model.first_anomalies
    assert set(first) == {"log_of_zero", "inf", "nan"}
    assert first["log_of_zero"].op == first["inf"].op == "log"
    assert first["log_of_zero"].first_index == (0, 0)
    assert first["nan"].op == "mul"
    assert str(first["nan"]).startswith("nan: 2 of 3 values of 'products")
    assert any("nan" in kinds for name, kinds in seen.items() if "sums" in name)

    exact = model.with_precision("float64")
    assert not any(t.anomalies for t in exact.trace({"x": x}, census=True))
    assert exact.first_anomalies == {}


@pytest.mark.parametrize("census", [True, False])
def test_an_input_counts_as_its_own_producer(model, joint, census):
    feed = {name: value.copy() for name, value in joint.feed.items()}
    feed["decoder"][0, 3, 1] = np.nan
    for tensor in model.trace(feed, census=census):
        assert census or tensor.anomalies == ()
    if census:
        assert model.first_anomalies["nan"].op == "input"
        assert str(model.first_anomalies["nan"]) == "nan: 1 of 60 values of the input 'decoder', first at [0, 3, 1]"
    else:
        assert model.first_anomalies == {}
