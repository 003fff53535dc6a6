"""Repairs from end to end: what is broken fails before, passes after, and nothing else changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest

from layerdiff import convert, mil, run
from layerdiff.config import Config, ConvertConfig
from layerdiff.errors import ConfigError, OutputError, RepairError
from layerdiff.progress import SILENT
from layerdiff.repairs import Repair
from layerdiff.sources.nemo import NemoSource

One, Run = Callable[..., Config], Callable[..., Any]


def broken_package(reference: Any, folder: Path, *, precision: str = "float16", debug: bool = False) -> Path:
    """A package as somebody else would have it: a joint with a log-softmax, outside of the cache."""
    options = ConvertConfig(recipe="cpu_traced", precision=precision, debug=debug)  # type: ignore[arg-type]
    path = folder / "RNNTJoint.mlpackage"
    shutil.copytree(convert.build(reference, "joint", options), path)
    return path


WIDTHS = {"encoder": 96, "decoder": 64}


def raw_logits(joint: Any, feed: dict[str, Any]) -> Any:
    """float64[V + 1 + D]; the joint's formula on one point."""
    weights = {name: value.double().numpy() for name, value in joint.state_dict().items()}
    encoder, decoder = (feed[name].ravel().astype(np.float64) for name in WIDTHS)
    hidden = weights["enc.weight"] @ encoder + weights["enc.bias"] + weights["pred.weight"] @ decoder
    hidden = np.maximum(hidden + weights["pred.bias"], 0)
    return weights["joint_net.2.weight"] @ hidden + weights["joint_net.2.bias"]


def last_passing(done: Repair) -> tuple[str, ...]:
    """The float32 ops of the smallest package that passed."""
    return [attempt.float32_ops for attempt in done.attempts if attempt.status == "pass"][-1]


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_what_fails_before_passes_after(one: One, repair: Run, reference: Any, precision: str) -> None:
    config = one({"convert": {"recipe": "cpu_traced", "precision": precision}})
    done = repair(config)
    assert isinstance(done, Repair)
    assert (done.before.status, done.after.status) == ("fail", "pass")
    assert done.before.findings[0].cause == "log_softmax_baked"
    assert done.before.tdt.candidate_all_negative > 0 == done.after.tdt.candidate_all_negative
    assert done.interface == () == done.float32_ops
    assert done.weights == (6, 6)
    assert [(attempt.way, attempt.status) for attempt in done.attempts] == [("raw_logits", "pass")]
    # the written package itself, through the ordinary comparison with the stages that the candidate had
    again = one({"coreml": done.package}, stages=convert.default_stages("joint", source=reference))
    assert run.execute(again, progress=SILENT, reference=reference).exit_code == 0
    assert mil.load(done.package).declared_precision == precision


def test_a_given_package_without_stages_is_repaired_beside_itself(
    one: One, repair: Run, reference: Any, tmp_path: Path
) -> None:
    old = broken_package(reference, tmp_path)
    before = files_below(tmp_path)
    done = repair(one({"coreml": str(old)}))
    assert Path(done.package) == tmp_path / "RNNTJoint_fixed.mlpackage"
    assert [stage.name for stage in done.after.stages][-3:] == ["logits", "vocab_logits", "duration_logits"]
    assert done.interface == ()
    left = [name for name in files_below(tmp_path) if not name.startswith("RNNTJoint_fixed.mlpackage")]
    assert left == before
    # coremltools reads it, and it gives NeMo's raw logits
    assert ct.models.MLModel(done.package, skip_model_load=True).get_spec().specificationVersion == 8
    generator = np.random.default_rng(0)
    feed = {name: generator.standard_normal((1, width, 1)).astype(np.float32) for name, width in WIDTHS.items()}
    expected = raw_logits(reference.joint, feed)
    found = mil.load(done.package).predict(feed)["logits"].reshape(expected.shape)
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_fixed_shapes_are_kept(one: One, repair: Run, reference: Any, tmp_path: Path) -> None:
    options = ConvertConfig(recipe="cpu_traced", precision="float16", debug=False)
    path = tmp_path / "Joint.mlpackage"
    shutil.copytree(convert.build(reference, "joint", options, fixed=True), path)
    done = repair(one({"coreml": str(path)}))
    assert done.interface == ()
    assert {name: str(spec) for name, spec in mil.load(done.package).inputs.items()} == {
        name: str(spec) for name, spec in mil.load(path).inputs.items()
    }


@pytest.mark.parametrize(
    ("way", "outputs"),
    [
        ("separate_heads", {"vocab_logits": 97, "duration_logits": 5}),
        ("log_softmax", {"vocab_log_probs": 97, "duration_log_probs": 5}),
    ],
)
def test_other_outputs_on_request(
    one: One, repair: Run, reference: Any, tmp_path: Path, way: str, outputs: dict[str, int]
) -> None:
    done = repair(one({"coreml": str(broken_package(reference, tmp_path))}), way=way)
    model = mil.load(done.package)
    assert {name: spec.shape[-1] for name, spec in model.outputs.items()} == outputs
    assert "output 'logits' is gone" in done.interface
    assert done.after.status == "pass"
    if way == "log_softmax":
        assert {"vocab_log_probs", "duration_log_probs"} <= {stage.name for stage in done.after.stages}
        feed = {name: np.ones((1, width, 1), np.float32) for name, width in WIDTHS.items()}
        for value in model.predict(feed).values():
            assert np.exp(value.astype(np.float64)).sum() == pytest.approx(1, abs=5e-3)


def test_what_overflows_float16_stays_float32_and_nothing_else(one: One, repair: Run, large: NemoSource) -> None:
    config = one({"convert": {"recipe": "raw_logits", "precision": "float16"}})
    done = repair(config, source=large)
    assert (done.before.status, done.after.status) == ("fail", "pass")
    assert [text.partition(" ")[0] for text in done.float32_ops] == ["linear", "linear", "add", "relu", "linear"]
    assert [text.rpartition(" ")[2] for text in done.float32_ops] == [
        "(joint.enc)", "(joint.pred)", "(joint.joint_net.0:input)", "(joint.joint_net.0)", "(joint.joint_net.2)"
    ]  # fmt: skip
    model = mil.load(done.package)
    assert model.declared_precision == "mixed"  # what only moves values went back to float16
    assert done.bytes_of_float32_ops > 0
    # each of them was tried: with all the others in float32 and it alone in float16, something fails
    kept = set(last_passing(done))
    assert len(kept) == 5
    for name in kept:
        without = [set(a.float32_ops) for a in done.attempts if a.status == "fail" and name not in a.float32_ops]
        assert any(kept - {name} <= ops for ops in without)


def test_of_a_whole_model_the_joint_alone_is_repaired(one: One, repair: Run) -> None:
    config = one(
        {"convert": {"recipe": "cpu_traced", "precision": "float16"}},
        reference={"nemo": "parakeet-tdt-mini", "component": "whole"},
    )
    done = repair(config)
    assert {stage.component for stage in done.after.stages} == {"joint"}
    assert done.after.status == "pass"


# ------------------------------------------------------------------ nothing to do, and refusals


def test_what_passes_is_left_alone(one: One, repair: Run, tmp_path: Path) -> None:
    results = repair(one({"convert": {"precision": "float32"}}))
    assert results["it"].status == "pass"
    assert not (tmp_path / "out").exists()


def test_the_one_that_fails_is_found(one: One, repair: Run, tmp_path: Path) -> None:
    entries = {"good": {"convert": {}}, "bad": {"convert": {"recipe": "cpu_traced"}}}
    assert repair(one({}, candidates=entries)).before.name == "bad"
    entries["worse"] = {"convert": {"recipe": "cpu_traced", "precision": "float32"}}
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(RepairError, match="more than one candidate fails: bad, worse"):
        repair(one({}, candidates=entries))
    assert not (tmp_path / "out").exists()


def test_another_model_is_refused(one: One, repair: Run, reference: Any, large: NemoSource, tmp_path: Path) -> None:
    old = broken_package(reference, tmp_path)
    before = files_below(tmp_path)
    with pytest.raises(RepairError, match=r"different models") as refusal:
        repair(one({"coreml": str(old)}), source=large)
    assert "joint.enc.weight: changed" in str(refusal.value)
    assert files_below(tmp_path) == before


def test_damaged_weights_are_no_other_model(one: One, repair: Run, reference: Any, tmp_path: Path) -> None:
    damaged = NemoSource.open("parakeet-tdt-mini")
    damaged.joint.joint_net[-1].weight.data[-5:] *= 0.3
    damaged.joint.enc.bias.data.zero_()
    options = ConvertConfig(recipe="raw_logits", precision="float32", debug=False)
    path = tmp_path / "Joint.mlpackage"
    shutil.copytree(convert.build(damaged, "joint", options), path)
    done = repair(one({"coreml": str(path)}))
    assert (done.before.status, done.after.status, done.weights) == ("fail", "pass", (6, 6))


def test_an_existing_target_is_refused_before_anything_runs(
    one: One, reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layerdiff import fix

    old = broken_package(reference, tmp_path)
    (tmp_path / "RNNTJoint_fixed.mlpackage").mkdir()
    monkeypatch.setattr(NemoSource, "open", lambda *_, **__: pytest.fail("the checkpoint was opened"))
    with pytest.raises(OutputError, match="exists already"):
        fix.repair(one({"coreml": str(old)}), progress=SILENT)


def test_a_result_that_does_not_pass_leaves_nothing(one: One, repair: Run, reference: Any, tmp_path: Path) -> None:
    old = broken_package(reference, tmp_path)
    before = files_below(tmp_path)
    config = one({"coreml": str(old)}, thresholds={"max_abs_error": -1.0})  # no error is so small
    with pytest.raises(RepairError, match="no way of rebuilding the joint passes") as refusal:
        repair(config)
    for way in ("raw_logits", "separate_heads", "log_softmax"):
        assert f"{way}: " in str(refusal.value)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reference": {"nemo": "parakeet-tdt-mini", "component": "decoder"}},
            "no joint to rebuild in `component: decoder`",
        ),
        ({"reference": {"torch": "torch.nn:ReLU"}, "candidates": {"it": {"coreml": "x.mlpackage"}}}, "in `torch:`"),
        ({"candidates": {"it": {"onnx": "x.onnx"}}}, "`onnx:`, which is no Core ML package"),
    ],
)
def test_what_is_no_joint_of_a_package_is_refused(one: One, repair: Run, changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        repair(one({"convert": {}}, **changes))
