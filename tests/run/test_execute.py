"""The pipeline on real input: the founding bug, a right conversion, every component, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from layerdiff import config, mil
from layerdiff.convert import build
from layerdiff.errors import ConfigError, PackageError
from layerdiff.records import Call, Report
from layerdiff.sources.nemo import NemoSource

ROOT = Path(__file__).parents[2]
CLIP = str(ROOT / "audio" / "call_peter_on_three_two.wav")
Execute = Callable[..., Report]


@pytest.fixture(scope="module")
def joint(execute: Execute) -> Report:
    return execute("joint")


# ------------------------------------------------------------------ the founding bug


def test_cpu_traced_fails_first_at_logits_with_its_cause(joint: Report) -> None:
    result = joint.candidates["cpu_traced"]
    assert (result.status, result.first_divergence) == ("fail", "logits")
    assert [row.name for row in result.stages if row.status == "fail"] == ["logits", "vocab_logits", "duration_logits"]
    (finding,) = result.findings
    assert (finding.cause, finding.stage) == ("log_softmax_baked", "logits")
    assert finding.confidence > 0.9999
    assert finding.evidence["width"] == 102
    assert finding.evidence["relative_l2_error_against_the_joints_own_output"] < 1e-4


def test_the_same_bug_in_float16_has_the_same_cause(execute: Execute) -> None:
    """log(softmax(x)) in float16 loses most of the values, which hides the row's logsumexp from a plain fit."""
    candidates = {"half": {"convert": {"recipe": "cpu_traced", "precision": "float16"}}}
    result = execute("joint", candidates=candidates).candidates["half"]
    assert result.first_divergence == "logits"
    assert [finding.cause for finding in result.findings] == ["log_softmax_baked"]
    assert result.findings[0].evidence["lost_share"] > 0.5


def test_every_duration_is_negative_and_no_decision_changes(joint: Report) -> None:
    tdt = joint.candidates["cpu_traced"].tdt
    assert tdt is not None
    assert tdt.points == tdt.candidate_all_negative == joint.inputs["points"] > 50
    assert tdt.reference_all_negative == 0
    assert (tdt.token_flips, tdt.duration_flips, tdt.frame_advance_flips) == (0, 0, 0)
    assert tdt.sign_lost_at == "logits"
    first = tdt.first_all_negative
    assert first is not None
    assert (first.clip, first.frame, first.time_s) == ("call_peter_on_three_two.wav", 0, 0.0)
    assert max(first.reference) > 0 > max(first.candidate)


def test_the_references_durations_are_the_joints_own(joint: Report, reference: NemoSource) -> None:
    """The first point's values, computed again from the weights in float64."""
    tdt = joint.candidates["raw_logits"].tdt
    broken = joint.candidates["cpu_traced"].tdt
    assert broken is not None
    assert broken.first_all_negative is not None
    assert tdt is not None
    assert tdt.candidate_all_negative == 0
    row = next(row for row in joint.candidates["raw_logits"].stages if row.name == "duration_logits")
    assert row.reference is not None
    assert row.candidate is not None
    assert row.reference.max is not None
    assert row.reference.max > 0
    assert row.candidate.max == pytest.approx(row.reference.max, rel=1e-5)


def test_raw_logits_passes_everywhere(joint: Report) -> None:
    result = joint.candidates["raw_logits"]
    assert result.status == "pass"
    assert result.findings == ()
    assert all(row.status == "pass" and row.reason == "" for row in result.stages)
    assert result.coverage.asked == result.coverage.compared == 7


def test_the_run_fails_and_its_right_half_alone_passes(joint: Report, execute: Execute) -> None:
    assert joint.exit_code == 1
    values = config.load(ROOT / "configs" / "joint.yaml").model_dump(exclude_none=True)
    only = {"raw_logits": values["candidates"]["raw_logits"]}
    assert execute("joint", candidates=only).exit_code == 0


def test_own_error_blames_the_first_bad_stage_alone(joint: Report) -> None:
    rows = {row.name: row for row in joint.candidates["cpu_traced"].stages}
    assert rows["logits"].own_error == pytest.approx(rows["logits"].conversion_error, rel=1e-3)
    assert rows["duration_logits"].own_error == pytest.approx(0, abs=1e-6)
    assert rows["duration_logits"].inherited_error is not None
    assert rows["duration_logits"].inherited_error > 0.5


def test_the_same_inputs_give_the_same_report(joint: Report, execute: Execute) -> None:
    from layerdiff.report import json as report_json

    assert report_json.render(execute("joint")) == report_json.render(joint)


def test_the_lattice_holds_the_path(execute: Execute, joint: Report) -> None:
    report = execute("joint", inputs={"audio": [CLIP], "points": "lattice"})
    (clip,) = report.inputs["clips"]
    path = next(entry for entry in joint.inputs["clips"] if entry["name"] == clip["name"])
    assert clip["points"] > 5 * path["points"]
    assert report.candidates["raw_logits"].status == "pass"


# ------------------------------------------------------------------ every component


@pytest.mark.parametrize("component", ["preprocessor", "encoder", "decoder", "parakeet-mini"])
def test_float32_passes_in_every_component(execute: Execute, component: str) -> None:
    result = execute(component).candidates["float32"]
    assert result.status == "pass", [(row.name, row.reason) for row in result.stages]
    assert result.findings == ()


@pytest.mark.parametrize("component", ["encoder", "decoder"])
def test_float16_costs_no_more_than_it_must(execute: Execute, component: str) -> None:
    result = execute(component).candidates["float16"]
    assert result.status == "pass", [(row.name, row.reason) for row in result.stages]
    rows = [row for row in result.stages if row.precision_error]
    assert len(rows) == len(result.stages)
    assert all(1e-5 < (row.precision_error or 0) < 5e-3 for row in rows)


def test_a_float16_joint_passes_and_tells_its_flips(execute: Execute) -> None:
    candidates = {"half": {"convert": {"recipe": "raw_logits", "precision": "float16"}}}
    result = execute("joint", candidates=candidates).candidates["half"]
    assert result.status == "pass"
    assert result.description["precision"] == {"joint": "float16"}
    assert {row.candidate.dtype for row in result.stages if row.candidate} == {"float16"}


@pytest.mark.parametrize("clip", ["eight_one_seven", "leading_silence", "seven_times_five", "nine_seven_three"])
def test_a_float16_joint_passes_on_a_few_points_too(execute: Execute, clip: str) -> None:
    """A handful of rows of five durations: the measured cost of rounding the weights is uncertain there."""
    candidates = {"half": {"convert": {"recipe": "raw_logits", "precision": "float16"}}}
    report = execute("joint", candidates=candidates, inputs={"audio": str(ROOT / "audio" / f"{clip}.wav")})
    assert report.status == "pass", [(row.name, row.reason) for row in report.candidates["half"].stages]


def test_slices_of_a_tensor_of_another_shape_are_not_compared(execute: Execute) -> None:
    stages = {
        "logits": {"reference": "joint.enc", "candidate": "logits"},
        "durations": {"of": "logits", "slice": "..., -5:"},
    }
    rows = {row.name: row for row in execute("joint", stages=stages).candidates["raw_logits"].stages}
    assert rows["logits"].status == "fail"
    assert (rows["durations"].status, rows["durations"].reason) == ("unknown", "the shapes of 'logits' disagree")


def test_a_float16_mel_front_end_is_blamed_on_precision(execute: Execute) -> None:
    result = execute("preprocessor").candidates["float16"]
    assert result.first_divergence == "mel"
    assert result.findings[0].cause == "precision_only"


def test_in_sequence_errors_are_inherited(execute: Execute) -> None:
    rows = {row.name: row for row in execute("parakeet-mini").candidates["float16"].stages}
    encoder = rows["pre_encode"]
    assert encoder.inherited_error is not None
    assert encoder.own_error is not None
    assert encoder.inherited_error > 5 * encoder.own_error


def test_stages_default_to_the_recipes_own(execute: Execute, joint: Report) -> None:
    report = execute("joint", stages=None)
    assert [row.name for row in report.candidates["cpu_traced"].stages] == [
        row.name for row in joint.candidates["cpu_traced"].stages
    ]
    assert report.candidates["cpu_traced"].first_divergence == "logits"


# ------------------------------------------------------------------ faults of other kinds


def altered_joint(reference: NemoSource, change: Callable[[torch.nn.Module], None]) -> Any:
    """A package converted from a joint with changed weights, which are put back afterwards."""
    layer = reference.joint.joint_net[-1]
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    try:
        with torch.no_grad():
            change(layer)
        options = config.ConvertConfig(recipe="raw_logits", precision="float32")
        return str(build(reference, "joint", options))
    finally:
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)


def test_one_changed_weight_is_found(execute: Execute, reference: NemoSource) -> None:
    def change(layer: Any) -> None:
        layer.weight[97, 3] *= 1.1

    report = execute("joint", candidates={"changed": {"coreml": altered_joint(reference, change)}})
    result = report.candidates["changed"]
    assert result.first_divergence == "logits"
    assert [finding.cause for finding in result.findings] == ["unexplained"]


def test_flipped_durations_change_decisions(execute: Execute, reference: NemoSource) -> None:
    def change(layer: Any) -> None:
        layer.weight[-5:] *= -1
        layer.bias[-5:] *= -1

    result = execute("joint", candidates={"flipped": {"coreml": altered_joint(reference, change)}})
    tdt = result.candidates["flipped"].tdt
    assert tdt is not None
    assert tdt.token_flips == 0
    assert tdt.duration_flips > 0.9 * tdt.points
    assert tdt.flips[0].kind == "duration"
    assert tdt.flips[0].margin > 0


# ------------------------------------------------------------------ a full-size joint


def full_size_model() -> torch.nn.Module:
    """A transducer of NeMo's with the real joint and prediction network and a one-layer encoder, random weights."""
    from nemo.collections.asr.models import EncDecRNNTModel
    from omegaconf import OmegaConf

    torch.manual_seed(0)
    cfg = OmegaConf.load(ROOT / "tools" / "mini" / "model.yaml")
    labels = [f"<{n}>" for n in range(8192)]
    del cfg["tokenizer"]
    cfg.labels = labels
    sizes = {
        "model_defaults": {"enc_hidden": 1024, "pred_hidden": 640, "joint_hidden": 640},
        "encoder": {"d_model": 1024, "n_layers": 1, "n_heads": 8},
        "decoder": {"vocab_size": len(labels), "prednet": {"pred_hidden": 640}},
        "joint": {
            "num_classes": len(labels),
            "vocabulary": labels,
            "jointnet": {"encoder_hidden": 1024, "pred_hidden": 640, "joint_hidden": 640},
        },
    }
    cfg = OmegaConf.merge(cfg, sizes)
    model: torch.nn.Module = EncDecRNNTModel(cfg=cfg, trainer=None)
    return model


def test_a_full_size_joint_takes_the_same_path(execute: Execute) -> None:
    from layerdiff import quiet

    with quiet.third_party():
        source = NemoSource.from_model(full_size_model(), name="full size")
    report = execute("joint", source=source, inputs={"audio": [CLIP]})
    assert report.candidates["raw_logits"].status == "pass"
    broken = report.candidates["cpu_traced"]
    assert broken.first_divergence == "logits"
    assert broken.findings[0].evidence["width"] == 8198
    rows = {row.name: row for row in report.candidates["raw_logits"].stages}
    assert rows["joint_hidden"].reference is not None
    assert rows["joint_hidden"].reference.shape[-1] == 640


# ------------------------------------------------------------------ tensors, packages, refusals


def test_a_tensor_file_feeds_one_component(execute: Execute, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    feed = {"encoder": rng.normal(size=(7, 96, 1)), "decoder": rng.normal(size=(7, 64, 1))}
    path = tmp_path / "joint.safetensors"
    save_file({name: value.astype(np.float32) for name, value in feed.items()}, path)
    report = execute("joint", inputs={"tensors": str(path)})
    assert report.candidates["cpu_traced"].first_divergence == "logits"
    assert report.candidates["raw_logits"].status == "pass"
    assert report.inputs["clips"] == [{"name": "joint.safetensors", "points": 7}]


def test_a_single_step_package_gives_what_the_batch_gives(execute: Execute, reference: NemoSource) -> None:
    options = config.ConvertConfig(recipe="raw_logits", precision="float32")
    path = build(reference, "joint", options, fixed=True)
    assert mil.load(path).inputs["encoder"].shape == (1, 96, 1)
    report = execute("joint", candidates={"single": {"coreml": str(path)}}, inputs={"audio": [CLIP]})
    assert report.candidates["single"].status == "pass"


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"reference": "joint.encc", "candidate": "enc_proj"}, "did you mean 'joint.enc'?"),
        ({"reference": "joint.enc", "candidate": "logitz"}, "did you mean 'logits'?"),
        ({"reference": "encoder", "candidate": "enc_proj"}, "is of the encoder, but the run compares the joint"),
        ({"reference": "jiont.enc", "candidate": "enc_proj"}, "did you mean 'joint'?"),
    ],
)
def test_a_tensor_that_does_not_exist_is_refused(execute: Execute, stage: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        execute("joint", stages={"logits": stage})
    assert message in str(caught.value)


def test_a_truncated_package_is_refused(execute: Execute, reference: NemoSource, tmp_path: Path) -> None:
    import shutil

    options = config.ConvertConfig(recipe="raw_logits", precision="float32")
    package = shutil.copytree(build(reference, "joint", options), tmp_path / "joint.mlpackage")
    (weights,) = package.rglob("weight.bin")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(PackageError, match=r"weight\.bin"):
        execute("joint", candidates={"cut": {"coreml": str(package)}})


def test_the_native_engine_is_refused_where_there_is_none(execute: Execute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ConfigError, match="asks for Core ML, which this operating system does not have"):
        execute("joint", candidates={"native": {"convert": {}, "engine": "native"}})


def test_the_report_is_json_all_through(joint: Report) -> None:
    from layerdiff.report import json as report_json

    loaded = json.loads(report_json.render(joint))
    assert loaded["schema"] == 1
    assert list(loaded["candidates"]) == ["cpu_traced", "raw_logits"]
    assert loaded["candidates"]["cpu_traced"]["stages"][4]["metrics"]["cosine_similarity"] < 0.99


def test_a_call_is_answered_in_its_own_layout(reference: NemoSource) -> None:
    call = Call("joint", {"encoder": np.zeros((3, 96, 1), np.float32), "decoder": np.zeros((3, 64, 1), np.float32)})
    assert reference.run(call, ["joint.enc"]).tensors["joint.enc"].shape == (3, 1, 64)
