"""One candidate through the pipeline: packages with fixed windows, slices of slices, other layouts, lost clips."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerdiff import config
from layerdiff.compare import Stage
from layerdiff.convert import build
from layerdiff.diagnose.decisions import DecisionLens
from layerdiff.errors import ConfigError
from layerdiff.records import Call, Captured, Points, Report
from layerdiff.report import json as report_json
from layerdiff.run.trial import Trial, candidate_of, decision_stages, reference_of
from layerdiff.sources.nemo import NemoSource

AUDIO = Path(__file__).parents[2] / "audio"
SHORT, LONG = (str(AUDIO / f"{name}.wav") for name in ("call_peter_on_three_two", "turn_off_the_radio_in_the_kitchen"))
LOGITS = Stage("logits", "joint", "joint.joint_net.2", "logits")
DURATIONS = Stage(
    "durations",
    "joint",
    "joint.joint_net.2",
    "logits",
    parent="logits",
    slices=((..., slice(-5, None)),),
    candidate_slices=((..., slice(-5, None)),),
)

Execute = Callable[..., Report]
Window = Callable[[str, int], str]


def own_errors(report: Report) -> dict[str, float | None]:
    (result,) = report.candidates.values()
    return {row.name: row.own_error for row in result.stages}


# ------------------------------------------------------------------ fixed windows


def test_an_encoder_with_a_fixed_window_is_compared_layer_by_layer(execute: Execute, window: Window) -> None:
    candidates = {"window": {"coreml": window("encoder", 400)}}
    report = execute("encoder", candidates=candidates, inputs={"audio": [SHORT, LONG]})
    assert report.status == "pass"
    rows = report.candidates["window"].stages
    assert all("mel padded from 259 to 400 along axis 2" in row.layout for row in rows)
    assert all(error is not None and error < 1e-6 for error in own_errors(report).values())


def test_a_joint_with_a_fixed_window_has_the_own_errors_of_a_batch(execute: Execute, window: Window) -> None:
    report = execute("joint", candidates={"window": {"coreml": window("joint", 12)}}, inputs={"audio": [SHORT]})
    assert report.status == "pass"
    assert all(error is not None and error < 1e-6 for error in own_errors(report).values())


def test_fixed_windows_in_sequence_hand_on_what_is_no_padding(execute: Execute, window: Window) -> None:
    packages = {"preprocessor": window("preprocessor", 64_000), "encoder": window("encoder", 400)}
    report = execute("parakeet-mini", candidates={"window": {"coreml": packages}}, inputs={"audio": [SHORT]})
    rows = {row.name: row for row in report.candidates["window"].stages}
    assert [rows[name].status for name in ("mel", "pre_encode", "encoder")] == ["pass"] * 3
    assert rows["logits"].status == report.status == "unknown"
    assert rows["logits"].reason == "the candidate has no joint"
    assert report.exit_code == 3


def test_a_clip_that_does_not_fit_makes_a_pass_unknown(execute: Execute, window: Window) -> None:
    candidates = {"window": {"coreml": window("encoder", 220)}}
    report = execute("encoder", candidates=candidates, inputs={"audio": [SHORT, LONG]})
    result = report.candidates["window"]
    assert (report.status, report.exit_code) == ("unknown", 3)
    assert all(row.reason.startswith("turn_off_the_radio_in_the_kitchen.wav: 'mel' has 259") for row in result.stages)
    assert result.coverage.captured == 5
    assert result.coverage.compared == 0


def test_a_clip_that_does_not_fit_does_not_hide_a_failure(execute: Execute, window: Window) -> None:
    candidates = {"window": {"coreml": window("encoder", 220)}}
    report = execute(
        "encoder",
        candidates=candidates,
        inputs={"audio": [SHORT, LONG]},
        stages={"wrong": {"reference": "encoder.layers.0", "candidate": "layer_1"}},
    )
    assert (report.status, report.exit_code) == ("fail", 1)


# ------------------------------------------------------------------ slices


def test_a_slice_of_a_slice_is_that_on_both_sides(execute: Execute) -> None:
    stages = config.load(AUDIO.parent / "configs" / "joint.yaml").model_dump(exclude_none=True)["stages"]
    more = {
        "duration_0": {"of": "duration_logits", "slice": "..., 0"},
        "first_vocab": {"of": "vocab_logits", "slice": "0, 0, 0, 0"},
    }
    candidates = {"raw_logits": {"convert": {"recipe": "raw_logits", "precision": "float32"}}}
    report = execute("joint", candidates=candidates, inputs={"audio": [SHORT]}, stages={**stages, **more})
    assert report.status == "pass"
    rows = {row.name: row for row in report.candidates["raw_logits"].stages}
    assert rows["duration_0"].reference is not None
    assert rows["duration_0"].reference.max == pytest.approx(rows["duration_0"].candidate.max, rel=1e-5)  # type: ignore[union-attr]
    assert rows["duration_0"].reference.max < rows["duration_logits"].reference.max  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ((..., 200), "index 200 is out of bounds"),
        ((..., slice(3, 3)), "holds nothing"),
        ((0,) * 5, "too many indices"),
        ((..., slice(-200, None)), "-200 lies outside of axis 3, which has 102 elements"),
        ((slice(None), ..., slice(97, 103)), "103 lies outside of axis 3, which has 102 elements"),
        ((slice(0, 5),), "5 lies outside of axis 0, which has 4 elements"),
    ],
)
def test_a_slice_outside_of_its_tensor_is_refused(index: tuple[Any, ...], message: str) -> None:
    stage = Stage("cut", "joint", "joint.joint_net.2", "logits", slices=(index,))
    with pytest.raises(ConfigError, match=message) as caught:
        reference_of(np.zeros((4, 1, 1, 102), np.float32), stage)
    assert "stages.cut.slice" in str(caught.value)


def test_a_slice_is_cut_from_the_candidate_in_the_references_axes() -> None:
    truth = np.random.default_rng(0).normal(size=(4, 1, 1, 102)).astype(np.float32)
    other = truth.reshape(4, 102, 1, 1)
    np.testing.assert_array_equal(candidate_of(other, DURATIONS, truth=truth), truth[..., -5:])


# ------------------------------------------------------------------ decisions


def decided(reference: np.ndarray, candidate: np.ndarray) -> Trial:
    """A trial that has seen one call, by its decisions alone."""
    trial = Trial.__new__(Trial)
    trial.stages = [LOGITS, DURATIONS]
    trial.lens = DecisionLens((0, 1, 2, 3, 4), reference.shape[-1] - 6)
    points = Points(np.arange(len(reference)), np.arange(len(reference)), np.zeros(9, np.int64), 0.08)
    trial._decide(
        Call("joint", {}, points=points),
        Captured({}, {"joint.joint_net.2": reference}),
        Captured({}, {"logits": candidate}),
        "a.wav",
    )
    return trial


def test_decisions_are_those_of_any_layout() -> None:
    reference = np.random.default_rng(1).normal(size=(6, 1, 1, 14)).astype(np.float32)
    trial = decided(reference, -reference.reshape(6, 14, 1, 1))
    assert trial.lens is not None
    assert trial.lens.points == 6
    assert trial.lens.counts == decided(reference, -reference).lens.counts  # type: ignore[union-attr]
    assert trial.lens.counts["token"] == 6


def test_decisions_need_the_references_size() -> None:
    reference = np.zeros((6, 1, 1, 14), np.float32)
    trial = decided(reference, np.zeros((6, 1, 1, 13), np.float32))
    assert trial.lens is not None
    assert trial.lens.points == 0


def test_decision_stages_are_all_logits_and_their_last_columns() -> None:
    lens = DecisionLens((0, 1, 2, 3, 4), blank=8)
    assert decision_stages([LOGITS, DURATIONS], lens) == (LOGITS, DURATIONS)
    assert decision_stages([LOGITS, DURATIONS], DecisionLens((0, 1, 2, 3), blank=8)) == (None, None)
    assert decision_stages([LOGITS], lens) == (None, None)


@pytest.mark.parametrize("index", [(..., slice(9, None)), (0, 0, 0, slice(-5, 14)), (slice(None), 0, 0, slice(9, 14))])
def test_durations_are_known_however_they_are_cut(index: Any) -> None:
    cut = replace(DURATIONS, slices=(index,))
    assert decision_stages([LOGITS, cut], DecisionLens((0, 1, 2, 3, 4), blank=8)) == (LOGITS, cut)


@pytest.mark.parametrize("index", [(..., slice(8, 13)), (..., slice(-5, -1)), (0, 0, 0, 0, 0), (..., 9)])
def test_other_slices_are_not_taken_for_durations(index: Any) -> None:
    cut = replace(DURATIONS, slices=(index,))
    assert decision_stages([LOGITS, cut], DecisionLens((0, 1, 2, 3, 4), blank=8)) == (None, None)


# ------------------------------------------------------------------ values that are no numbers


@pytest.mark.parametrize("weight", [0.0, -3e38], ids=["inf", "inf - inf"])
def test_values_that_are_no_numbers_fail_and_stay_valid_json(
    execute: Execute, reference: NemoSource, weight: float
) -> None:
    layer = reference.joint.joint_net[-1]
    before = layer.weight[-1].detach().clone(), layer.bias[-1].item()
    try:
        with torch.no_grad():
            layer.weight[-1], layer.bias[-1] = weight, float("inf")
        options = config.ConvertConfig(recipe="raw_logits", precision="float32")
        package = str(build(reference, "joint", options))
    finally:
        with torch.no_grad():
            layer.weight[-1], layer.bias[-1] = before
    report = execute("joint", candidates={"broken": {"coreml": package}}, inputs={"audio": [SHORT]})
    result = report.candidates["broken"]
    assert (report.exit_code, result.first_divergence) == (1, "logits")
    assert "NaN or Inf in the candidate" in next(row.reason for row in result.stages if row.name == "logits")
    loaded = json.loads(report_json.render(report))
    assert loaded["candidates"]["broken"]["status"] == "fail"
