"""Reports built by hand with the values of the case that started the project."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from layerdiff.metrics.profile import ProfileAccumulator
from layerdiff.pictures import DurationMap, OpNode, Profile, Waveform
from layerdiff.records import (
    CandidateResult,
    Check,
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


HOSTILE = "</script><img src=x onerror=alert(1)>&\"'`{{7*7}}"
"""A name that a model might have."""


def profile_of(seed: int, *, noise: float = 0.5) -> Profile:
    """A profile of random tensors, 30 frames of a second of audio each."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((1, 128, 102))
    accumulator = ProfileAccumulator()
    accumulator.update(reference=values, candidate=values + noise * rng.standard_normal(values.shape), clip="short.wav")
    found = accumulator.result(seconds={"short.wav": 1.02})
    assert found is not None
    return found


def table_of(clip: str, count: int, *, changed: int) -> dict[str, Any]:
    """The decisions of a clip; the last `changed` ones of the candidate choose another duration."""
    frames = np.arange(count) * 2
    durations = np.full(count, 2)
    others = durations.copy()
    others[count - changed :] = 1
    tokens = np.where(np.arange(count) % 3 == 2, 96, np.arange(count) % 5)
    return {
        "clip": clip,
        "frame": frames,
        "time_s": frames * 0.08,
        "step": np.arange(count),
        "reference_token": tokens,
        "candidate_token": tokens,
        "reference_token_margin": np.linspace(0.1, 9.0, count),
        "reference_duration": durations,
        "candidate_duration": others,
        "candidate_all_negative": np.zeros(count, bool),
    }


@pytest.fixture
def drawn() -> Report:
    """A report with every picture, one stage and one weight of which have a hostile name."""
    broken = failing()
    odd = replace(broken.stages[0], name=HOSTILE, component="encoder")
    stages = tuple(replace(stage, profile=profile_of(n)) for n, stage in enumerate((odd, *broken.stages)))
    rng = np.random.default_rng(9)
    logits = [tuple(map(tuple, rng.standard_normal((10, 5)).round(3).tolist())) for _ in range(2)]
    assert broken.tdt is not None
    tdt = replace(
        broken.tdt,
        decisions=(table_of("short.wav", 10, changed=2),),
        maps=(DurationMap("short.wav", 0.08, tuple(range(0, 20, 2)), tuple(range(10)), logits[0], logits[1]),),
    )
    graph = (
        OpNode("enc_proj", "linear", (), "float32", (1, 1, 640), "encoder_projection", "pass"),
        OpNode(HOSTILE, "add", ("enc_proj",), "float32", None),
        OpNode("logits", "log", (HOSTILE,), "float32", (1, 1, 1, 102), "logits", "fail"),
    )
    weight = {"shape": [2, 3], "constants": ["w"], "stored": "float16", "transform": "", "relative_l2_error": 0.25}
    weights = [
        {"name": HOSTILE, "verdict": "changed", "reason": "rows 3 to 5 differ", **weight},
        {"name": "joint.enc.weight", "verdict": "matched", "reason": "", **weight},
    ]
    audit = {"counts": {"changed": 1, "matched": 1}, "weights": weights}
    broken = replace(broken, stages=stages, tdt=tdt, graph=graph, audit=audit, checks=(Check("wrong_width", "w", "3"),))
    waves = tuple(rng.uniform(0, 1, 100).round(3).tolist())
    return replace(
        report_of(broken, passing(), incomplete()),
        request={"path": "configs/a b.yaml", "resolved": {"reference": {"nemo": HOSTILE}}},
        waveforms=(Waveform("short.wav", 2.5, tuple(-high for high in waves), waves),),
        pieces={0: "▁call", 1: "▁pe", 2: "ter", 3: "▁on", 4: HOSTILE},
        reference={**report_of().reference, "blank": 96, "frame_s": 0.08},
    )
