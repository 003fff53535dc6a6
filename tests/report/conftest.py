"""Reports built by hand with the values of the case that started the project."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from layerdiff.records import (
    CandidateResult,
    Coverage,
    DurationAnalysis,
    Finding,
    Flip,
    Missing,
    NegativePoint,
    Report,
    StageResult,
    TensorSummary,
)

METRIC_NAMES = (
    "max_abs_error",
    "mean_abs_error",
    "rmse",
    "relative_l2_error",
    "cosine_similarity",
    "snr_db",
    "psnr_db",
    "max_ulp",
    "mismatch_ratio",
    "nan_count",
    "inf_count",
)


def side(tensor: str, low: float, high: float, *, dtype: str = "float32", width: int = 102) -> TensorSummary:
    return TensorSummary(tensor, dtype, (None, 1, 1, width), low, high, (low + high) / 3)


def stage(
    name: str, reference: TensorSummary, candidate: TensorSummary, values: tuple[float, ...], **rest: Any
) -> StageResult:
    """`values` are max abs, relative L2, cosine, SNR, conversion, precision, own and inherited error."""
    max_abs, relative, cosine, snr, conversion, precision, own, inherited = values
    metrics = dict.fromkeys(METRIC_NAMES, 0.0) | {
        "max_abs_error": max_abs,
        "relative_l2_error": relative,
        "cosine_similarity": cosine,
        "snr_db": snr,
        "max_ulp": 8388608.0,
        "psnr_db": None,
    }
    return StageResult(
        name,
        "joint",
        rest.pop("status", "pass"),
        rest.pop("reason", ""),
        reference,
        candidate,
        metrics,
        own_error=own,
        inherited_error=inherited,
        conversion_error=conversion,
        precision_error=precision,
        conversion_limit=1.2e-6,
        total_limit=5.7e-4,
        **rest,
    )


WORST = {"clip": "long.wav", "row": 88, "frame": 61, "time_s": 4.88, "step": 23}


def failing() -> CandidateResult:
    stages = (
        stage(
            "encoder_projection",
            side("joint.enc", -7.21384, 6.9012),
            side("enc_proj", -7.2148, 6.9023),
            (3.2e-6, 1.1234e-7, 0.99999999987, 138.9812, 1.12e-7, 0.0, 1.1e-7, 0.0),
        ),
        stage(
            "logits",
            side("joint.joint_net.2", -61.816, 12.345),
            side("logits", -61.567, -1.025),
            (14.3612, 0.412345, 0.9423117, 7.69512, 0.412344, 1.25e-4, 0.41234, 2.3e-7),
            status="fail",
            reason="conversion error 0.4123 is above 1.2e-6",
            worst=WORST,
        ),
        stage(
            "duration_logits",
            side("joint.joint_net.2", -9.765, 7.443, width=5),
            side("logits", -11.275, -1.025, width=5),
            (14.3612, 1.0812345, 0.2104451, -0.67841, 1.08123, 1.1e-4, 1.08123, 3.1e-7),
            status="fail",
            reason="conversion error 1.081 is above 1.2e-6",
            worst=WORST,
        ),
    )
    return CandidateResult(
        "cpu_traced",
        "fail",
        "logits",
        Coverage(3, 3, 3),
        stages,
        (
            Finding(
                "log_softmax_baked",
                "logits",
                0.99999973,
                "log-softmax over all 102 outputs (vocabulary + blank + durations) is baked into the candidate: "
                "the difference is constant in each row and equals the row's logsumexp",
                {"clip": "long.wav", "rows": 412, "width": 102, "difference_min": 3.2512345, "difference_max": 14.3612},
                "convert with `joint.log_softmax=False`, e.g. by `joint._prepare_for_export()` before tracing",
            ),
        ),
        DurationAnalysis(
            stage="duration_logits",
            points=412,
            durations=(0, 1, 2, 3, 4),
            reference_all_negative=7,
            candidate_all_negative=412,
            first_all_negative=NegativePoint(
                "short.wav",
                17,
                1.36,
                3,
                (-9.765, -1.2031, 7.443, 2.1117, -0.4561),
                (-20.1251, -11.275, -2.917, -8.2484, -10.8162),
            ),
            sign_lost_at="logits",
            token_flips=1,
            duration_flips=1,
            frame_advance_flips=0,
            flips=(
                Flip("token", "long.wav", 61, 4.88, 23, 17, 41, 0.00231),
                Flip("duration", "long.wav", 70, 5.6, 27, 1, 2, 0.0412345),
            ),
            summary="all duration logits are negative at every point (reference: 7); "
            "decisions that change: 1 token, 1 duration",
        ),
        {
            "recipe": "cpu_traced",
            "engine": "portable",
            "precision": {"joint": "float32"},
            "packages": {"joint": "outputs/joint/RNNTJoint.mlpackage"},
        },
    )


def passing() -> CandidateResult:
    broken = failing()
    stages = tuple(
        replace(
            entry,
            status="pass",
            reason="",
            worst=None,
            candidate=replace(entry.reference, tensor=entry.candidate.tensor, dtype="float16"),
            metrics={**entry.metrics, "cosine_similarity": 0.99999991, "relative_l2_error": 3.1e-4, "snr_db": 70.17},
            own_error=None,
            conversion_error=1.9e-7,
            precision_error=3.1e-4,
        )
        for entry in broken.stages
        if entry.reference and entry.candidate
    )
    return replace(
        broken, name="raw_logits", status="pass", first_divergence=None, stages=stages, findings=(), tdt=None
    )


def incomplete() -> CandidateResult:
    good = passing()
    reason = "the candidate did not produce 'dur_logits'"
    lost = StageResult("duration_logits", "joint", "unknown", reason)
    return replace(
        good,
        name="plain",
        status="unknown",
        coverage=Coverage(3, 2, 2, (Missing("duration_logits", reason),)),
        stages=(*good.stages[:2], lost),
    )


def report_of(*candidates: CandidateResult, status: Any = "fail") -> Report:
    return Report(
        status=status,
        environment={
            "python": "3.11.9",
            "layerdiff": "0.1.0",
            "torch": "2.13.0",
            "nemo_toolkit": None,
            "system": "Linux",
        },
        reference={
            "nemo": "parakeet-tdt-mini",
            "sha256": "0123456789abcdef" * 4,
            "mode": "eval",
            "joint_log_softmax": None,
            "dither": 0.0,
            "dtype": "float32",
            "durations": [0, 1, 2, 3, 4],
        },
        inputs={
            "clips": [
                {"name": "short.wav", "duration_s": 2.5, "text": "a", "notes": []},
                {"name": "long.wav", "duration_s": 10.21, "text": None, "notes": ["resampled from 44100 Hz"]},
            ],
            "duration_s": 12.71,
            "points": 412,
            "points_from": "path",
        },
        candidates={candidate.name: candidate for candidate in candidates},
    )


@pytest.fixture
def report() -> Report:
    return report_of(failing(), passing(), incomplete())
