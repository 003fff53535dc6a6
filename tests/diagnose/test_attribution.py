"""The parts of a logit's error add up to it, and each part is there only if its cause is."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.diagnose.attribution import JointSide, attribute

WIDTH = 30


def computed(encoder: np.ndarray, decoder: np.ndarray, weight: np.ndarray, bias: float) -> JointSide:
    """A side that gives what a joint with a ReLU gives."""
    return JointSide(encoder, decoder, weight, bias, float(weight @ np.maximum(encoder + decoder, 0) + bias))


def drawn(seed: int) -> JointSide:
    rng = np.random.default_rng(seed)
    return computed(*rng.standard_normal((3, WIDTH)), float(rng.standard_normal()))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(one=st.integers(0, 9999), other=st.integers(0, 9999))
def test_the_parts_add_up_and_nothing_is_left_behind(one: int, other: int) -> None:
    reference, candidate = drawn(one), drawn(other)
    parts = attribute(reference, candidate)
    assert parts.error == pytest.approx(candidate.logit - reference.logit, abs=1e-12)
    assert parts.from_behind == pytest.approx(0, abs=1e-11)
    shifted = attribute(reference, replace(candidate, logit=candidate.logit - 7.5))
    assert shifted.from_behind == pytest.approx(-7.5, abs=1e-11)
    assert replace(shifted, error=parts.error, from_behind=parts.from_behind) == parts


@pytest.mark.parametrize("part", ["weight", "encoder", "decoder", "bias"])
def test_a_fault_is_found_in_its_own_part_alone(part: str) -> None:
    right = drawn(3)
    values = {"encoder": right.encoder, "decoder": right.decoder, "weight": right.weight, "bias": right.bias}
    # so little that no hidden value changes its sign
    values[part] = values[part] + 1e-3 * np.random.default_rng(1).standard_normal(WIDTH if part != "bias" else None)
    parts = asdict(attribute(right, computed(**values)))
    others = {name: value for name, value in parts.items() if name not in ("error", f"from_{part}")}
    assert parts[f"from_{part}"] == pytest.approx(parts["error"], abs=1e-12)
    assert all(value == pytest.approx(0, abs=1e-12) for value in others.values()), others


def test_hidden_values_that_are_cut_off_on_one_side_count_for_the_gate() -> None:
    one = np.ones(1)
    reference, candidate = computed(-one, 0.5 * one, 2 * one, 0.0), computed(one, 0.5 * one, 2 * one, 0.0)
    parts = attribute(reference, candidate)
    # 3.0 = 2 · (1 - -1) from the encoder, and 2 · (1 - 0) · (-0.5) from the gate
    assert (parts.error, parts.from_encoder, parts.from_decoder, parts.from_gate) == (3.0, 4.0, 0.0, -1.0)
