"""What a page shows beside the rows, made of the bundled joint and of aligned components."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from layerdiff import config, run
from layerdiff.audio import load
from layerdiff.convert import build
from layerdiff.progress import SILENT
from layerdiff.records import Report
from layerdiff.run.pictures import PARTS
from tests.run.conftest import CLIPS, ROOT


@pytest.fixture(scope="module")
def joint(reference) -> Report:
    values = config.load(ROOT / "configs" / "joint.yaml").model_dump(exclude_none=True) | {"inputs": {"audio": CLIPS}}
    return run.execute(config.from_mapping(values), progress=SILENT, reference=reference, pictures=True)


def test_every_stage_has_a_profile_of_what_was_compared(joint):
    for result in joint.candidates.values():
        for stage in result.stages:
            profile = stage.profile
            assert profile is not None
            width = stage.reference.shape[-1]
            assert sum(profile.values.reference) == sum(profile.values.candidate)
            assert sum(profile.values.reference) == width * joint.inputs["points"]
            low = profile.values.low
            assert low <= min(stage.reference.min, stage.candidate.min) < low + profile.values.width
            assert profile.course is not None
            assert profile.course.place_s == 0.08
            largest = stage.metrics["max_abs_error"]
            assert [abs(e.candidate - e.reference) for e in profile.worst[:1]] == ([largest] if largest else [])


def test_the_graph_leads_to_the_first_divergence(joint):
    ops = joint.candidates["cpu_traced"].graph
    names = [op.name for op in ops]
    by_stage = {op.stage: op for op in ops}
    assert (by_stage["logits"].status, by_stage["joint_hidden"].status) == ("fail", "pass")
    assert "softmax" in [op.op for op in ops]  # what was baked in
    for place, op in enumerate(ops):
        assert all(names.index(source) < place for source in op.inputs)
    assert joint.candidates["raw_logits"].graph == ()


def test_the_weights_are_audited(joint, reference):
    for result in joint.candidates.values():
        assert result.audit is not None
        names = {weight["name"] for weight in result.audit["weights"]}
        assert names == {f"joint.{name}" for name in reference.joint.state_dict()}
        assert result.audit["counts"] == {"matched": len(names)}


def test_the_durations_of_a_few_clips_are_kept(joint):
    tdt = joint.candidates["cpu_traced"].tdt
    drawn = {kept.clip: kept for kept in tdt.maps}
    assert set(drawn) <= {Path(clip).name for clip in CLIPS}
    first = tdt.first_all_negative
    place = list(zip(drawn[first.clip].frames, drawn[first.clip].steps, strict=True)).index((first.frame, first.step))
    np.testing.assert_allclose(drawn[first.clip].reference[place], first.reference, atol=1e-4)
    np.testing.assert_allclose(drawn[first.clip].candidate[place], first.candidate, atol=1e-4)


def test_recordings_are_drawn_and_tokens_have_texts(joint, reference):
    paths = {Path(clip).name: clip for clip in CLIPS}
    assert [wave.clip for wave in joint.waveforms] == list(dict.fromkeys(wave.clip for wave in joint.waveforms))
    for wave in joint.waveforms:
        samples = load(paths[wave.clip], sample_rate_hz=16000).samples
        assert (len(wave.low), wave.duration_s) == (PARTS, len(samples) / 16000)
        assert (min(wave.low), max(wave.high)) == pytest.approx((samples.min(), samples.max()), abs=1e-4)
    tables = joint.candidates["raw_logits"].tdt.decisions
    emitted = [int(token) for table in tables for token in table["reference_token"] if token != reference.blank]
    said = "".join(joint.pieces[token] for token in emitted)
    assert re.search("call.?peter", said.replace("▁", " "))


def test_a_run_without_pictures_has_the_same_rows(joint, execute):
    plain = execute("joint")
    for name, result in plain.candidates.items():
        assert (result.graph, result.audit) == ((), None)
        rows = [replace(stage, profile=None) for stage in joint.candidates[name].stages]
        assert rows == list(result.stages)


def test_what_was_asked_for_can_be_asked_for_again(joint):
    again = config.from_mapping(joint.request["resolved"])
    assert list(again.candidates) == ["cpu_traced", "raw_logits"]
    assert again.inputs.audio == CLIPS


def test_aligned_components_are_drawn_too(reference):
    package = build(reference, "joint", config.ConvertConfig(recipe="cpu_traced", precision="float32"))
    values = {
        "reference": {"nemo": "parakeet-tdt-mini", "component": "joint"},
        "candidates": {"given": {"coreml": str(package)}},
        "inputs": {"audio": CLIPS[:1]},
    }
    report = run.execute(config.from_mapping(values), progress=SILENT, pictures=True)
    result = report.candidates["given"]
    assert result.alignment is not None
    compared = [stage for stage in result.stages if stage.status != "unknown"]
    assert compared
    assert all(stage.profile is not None for stage in compared)
    first = next(stage for stage in result.stages if stage.status == "fail")
    assert next(op.stage for op in result.graph if op.status == "fail") == first.name
    assert result.audit is not None
    assert [wave.clip for wave in report.waveforms] == [Path(CLIPS[0]).name]
