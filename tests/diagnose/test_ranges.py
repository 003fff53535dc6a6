"""From ranges alone: what they are consistent with, the larger coincidence first."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.diagnose.ranges import Ranges, explain

FOUNDING = [
    Ranges("vocabulary", (-61.816, -0.456), (-61.567, -1.025)),
    Ranges("durations", (-9.765, 7.443), (-11.275, -1.025)),
]
"""The report that started this project: NeMo's and Core ML's ranges of the joint's outputs."""


def of(value: np.ndarray) -> tuple[float, float]:
    return float(value.min()), float(value.max())


def test_overlapping_slices_come_first_in_the_founding_report() -> None:
    first, *others = explain(FOUNDING)
    assert first.cause == "slice_shift"
    assert first.stage == "vocabulary, durations"
    assert first.evidence["shared"] == -1.025
    assert first.confidence > 2 * max(finding.confidence for finding in others)


def test_a_log_softmax_is_doubted_where_a_smallest_value_rose() -> None:
    (doubted,) = [finding for finding in explain(FOUNDING) if finding.cause == "log_softmax_baked"]
    assert doubted.evidence["contradicted_by"] == ["vocabulary"]
    assert "a log-softmax lowers it" in doubted.summary


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_a_baked_log_softmax_is_among_what_a_normalised_side_is_consistent_with(seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 8, (50, 102)).astype(np.float32)
    logits[:, 96] += 20  # blank
    logits[:, -5:] += 3

    def stages(vocabulary: np.ndarray, durations: np.ndarray) -> list[Ranges]:
        pairs = {"vocabulary": (logits[:, :97], vocabulary), "durations": (logits[:, -5:], durations)}
        return [Ranges(name, of(reference), of(candidate)) for name, (reference, candidate) in pairs.items()]

    normalised = torch.from_numpy(logits).log_softmax(-1).numpy()
    baked = explain(stages(normalised[:, :97], normalised[:, -5:]))
    named = [finding for finding in baked if finding.cause == "log_softmax_baked"]
    assert [finding.stage for finding in named] == ["vocabulary", "durations"]
    assert not any(finding.evidence["contradicted_by"] for finding in named)


def test_a_tensor_and_its_slice_share_an_extreme_rightly() -> None:
    whole = Ranges("logits", (-61.0, 7.4), (-61.0, -0.4))
    part = Ranges("vocabulary", (-61.0, -0.4), (-61.0, -0.4))
    assert "slice_shift" not in {finding.cause for finding in explain([whole, part])}


def test_stages_of_two_candidates_don_t_overlap() -> None:
    stages = [Ranges(s.stage, s.reference, s.candidate, str(n)) for n, s in enumerate(FOUNDING)]
    assert "slice_shift" not in {finding.cause for finding in explain(stages)}


@pytest.mark.parametrize(
    ("candidate", "cause"),
    [
        ((-7.443, 9.765), "sign_flip"),
        ((-19.53, 14.886), "scale"),
        ((-6.765, 10.443), "bias_changed"),
        ((0.0, 7.443), "activation_changed"),
        ((1e-9, 0.97), "softmax_baked"),
        ((-45440.0, -0.01), "underflow_log_zero"),
        ((-math.inf, -0.01), "underflow_log_zero"),
        ((-9.765, 65504.0), "overflow"),
        ((-9.765, math.inf), "overflow"),
        ((math.nan, math.nan), "nan_source"),
        ((0.25, 0.25), "constant_output"),
        ((-20.1, -0.02), "log_softmax_baked"),
    ],
)
def test_one_stage(candidate: tuple[float, float], cause: str) -> None:
    found = explain([Ranges("durations", (-9.765, 7.443), candidate)])
    assert found[0].cause == cause
    assert 0 < found[0].confidence < 1


def test_a_missing_relu() -> None:
    assert explain([Ranges("hidden", (0.0, 3.0), (-2.5, 3.0))])[0].cause == "activation_missing"


def test_ranges_that_agree_need_no_cause() -> None:
    assert explain([Ranges("durations", (-9.765, 7.443), (-9.7651, 7.4428))]) == []
