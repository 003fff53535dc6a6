"""What is known of a package before it runs: widths, biases, and ops that float16 does not suit."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from layerdiff import convert
from layerdiff.config import ConvertConfig
from layerdiff.mil import Model, load
from layerdiff.run.checks import joint_checks, known_hazards
from layerdiff.store import Cache


def built(joint: Any, folder: Path, **options: Any) -> Model:
    config = ConvertConfig(**{"precision": "float32", "debug": False, **options})
    model = load(convert.build(SimpleNamespace(joint=joint), "joint", config, cache=Cache(folder)))
    assert isinstance(model, Model)
    return model


def narrowed(joint: Any, count: int) -> Any:
    """A copy whose output layer has lost its last outputs."""
    other = copy.deepcopy(joint)
    layer = other.joint_net[-1]
    small = torch.nn.Linear(layer.in_features, layer.out_features - count)
    small.weight.data, small.bias.data = layer.weight.data[:-count], layer.bias.data[:-count]
    other.joint_net[-1] = small
    return other.eval()


def test_a_right_package_has_nothing_to_say(reference: Any, tmp_path: Path) -> None:
    model = built(reference.joint, tmp_path)
    assert list(joint_checks(model, reference.joint)) == []
    assert list(known_hazards(model)) == []


def test_a_blank_that_was_lost_is_said_before_anything_runs(reference: Any, tmp_path: Path) -> None:
    """coreai-kit #10: the output has no column for the blank."""
    (found,) = joint_checks(built(narrowed(reference.joint, 1), tmp_path), reference.joint)
    assert (found.kind, found.place) == ("wrong_width", "logits")
    assert found.detail == "the output has 101 values, the reference's joint 102 (96 tokens, the blank and 5 durations)"


def test_another_encoder_width_is_said(reference: Any, tmp_path: Path) -> None:
    other = SimpleNamespace(
        get_submodule=lambda path: SimpleNamespace(in_features=1024, bias=None),
        joint_net=reference.joint.joint_net,
        num_extra_outputs=5,
    )
    found = [check for check in joint_checks(built(reference.joint, tmp_path), other) if check.place == "encoder"]
    assert "the reference's has 1024 channels" in found[0].detail


@pytest.mark.parametrize("path", ["enc", "pred", "joint_net.2"])
def test_a_missing_bias_is_said(reference: Any, tmp_path: Path, path: str) -> None:
    joint = copy.deepcopy(reference.joint)
    joint.get_submodule(path).bias.data.zero_()
    (found,) = joint_checks(built(joint, tmp_path), reference.joint)
    assert found.kind == "missing_bias"
    assert found.detail.startswith(f"joint.{path} has a bias")


def test_a_log_of_a_softmax_in_float16_is_said_in_the_report(reference: Any, tmp_path: Path, execute: Any) -> None:
    entry = {"convert": {"recipe": "cpu_traced", "precision": "float16"}}
    checks = execute("joint", candidates={"it": entry}).candidates["it"].checks
    assert "log_of_softmax" in {check.kind for check in checks}


def test_weights_that_are_not_the_checkpoints_are_said(reference: Any, tmp_path: Path) -> None:
    joint = copy.deepcopy(reference.joint)
    joint.joint_net[-1].weight.data[97:] *= 0.5
    for precision in ("float32", "float16"):
        (found,) = joint_checks(built(joint, tmp_path, precision=precision), reference.joint)
        assert found.kind == "weights_differ"
        assert found.detail == "5 of 102 rows of joint.joint_net.2.weight are not the checkpoint's"
        assert list(joint_checks(built(reference.joint, tmp_path, precision=precision), reference.joint)) == []
