"""Faults of the duration rows alone, in the main job: named with their rows, and proved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from layerdiff import convert
from layerdiff.config import ConvertConfig
from layerdiff.sources.nemo import NemoSource
from layerdiff.store import Cache

Weights = torch.Tensor


def scaled(w: Weights, b: Weights) -> None:
    w[-5:] *= 0.3
    b[-5:] *= 0.3


def zeroed(w: Weights, b: Weights) -> None:
    w[-5:] = 0


def biased(w: Weights, b: Weights) -> None:
    b[-5:] -= 11


def permuted(w: Weights, b: Weights) -> None:
    order = torch.tensor([98, 97, 99, 101, 100])
    w[-5:], b[-5:] = w[order].clone(), b[order].clone()


def truncated(w: Weights, b: Weights) -> None:
    step = w[-5:].abs().max() / 7
    w[-5:] = (w[-5:] / step).round() * step


def shifted(w: Weights, b: Weights) -> None:
    w[-5:], b[-5:] = w[-6:-1].clone(), b[-6:-1].clone()


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize(
    ("cause", "put_in"),
    [
        ("scale", scaled),
        ("weight_missing", zeroed),
        ("bias_changed", biased),
        ("channel_permutation", permuted),
        ("weight_quantization", truncated),
        ("slice_shift", shifted),
    ],
)
def test_a_fault_of_the_durations_is_named_with_its_rows(
    execute: Any, tmp_path: Path, cause: str, put_in: Callable[[Weights, Weights], None], precision: Any
) -> None:
    damaged = NemoSource.open("parakeet-tdt-mini")
    layer = damaged.joint.joint_net[-1]
    put_in(layer.weight.data, layer.bias.data)
    package = convert.build(damaged, "joint", ConvertConfig(precision=precision), cache=Cache(tmp_path))
    result = execute("joint", candidates={"it": {"coreml": str(package)}}).candidates["it"]
    assert result.first_divergence == "logits"
    assert [finding.cause for finding in result.findings] == [cause]
    evidence = result.findings[0].evidence
    assert evidence["proved_by_running_it"]
    assert set(evidence["rows"]) <= {97, 98, 99, 100, 101}
    assert len(evidence["rows"]) >= 4


def test_an_inherited_error_is_not_blamed_on_the_weights_behind_it(execute: Any, tmp_path: Path) -> None:
    damaged = NemoSource.open("parakeet-tdt-mini")
    damaged.joint.enc.weight.data[7] = 0
    package = convert.build(damaged, "joint", ConvertConfig(precision="float32"), cache=Cache(tmp_path))
    result = execute("joint", candidates={"it": {"coreml": str(package)}}).candidates["it"]
    assert result.first_divergence == "encoder_projection"
    assert [(one.cause, one.stage) for one in result.findings] == [("weight_missing", "encoder_projection")]
    assert result.findings[0].evidence["rows"] == [7]


def test_the_largest_error_of_a_logit_is_taken_apart(execute: Any, tmp_path: Path) -> None:
    damaged = NemoSource.open("parakeet-tdt-mini")
    damaged.joint.joint_net[-1].weight.data[99] *= 0.3
    package = convert.build(damaged, "joint", ConvertConfig(precision="float32"), cache=Cache(tmp_path))
    result = execute("joint", candidates={"it": {"coreml": str(package)}}).candidates["it"]
    error = result.findings[0].evidence["largest_logit_error"]
    assert (error["logit"], error["of"]) == (99, "duration index 2")
    assert error["from_weight"] == pytest.approx(error["error"], rel=1e-5)
    assert error["candidate"] - error["reference"] == pytest.approx(error["error"])
    rest = [error[f"from_{part}"] for part in ("encoder", "decoder", "gate", "bias", "behind")]
    assert max(map(abs, rest)) < 1e-4 * abs(error["error"])
    baked = execute("joint").candidates["cpu_traced"].findings[0].evidence["largest_logit_error"]
    assert baked["from_behind"] == pytest.approx(baked["error"], rel=1e-5)


def test_decisions_of_a_transducer_without_durations(execute: Any, tmp_path: Path) -> None:
    """The bundled model with its durations cut off, against a conversion whose blank is too likely."""
    plain = NemoSource.open("parakeet-tdt-mini")
    layer = plain.joint.joint_net[-1]
    layer.weight.data, layer.bias.data = layer.weight.data[:97].clone(), layer.bias.data[:97].clone()
    plain.joint._num_extra_outputs = 0
    source = NemoSource(plain.model, {**plain.description, "durations": ()})
    before = layer.bias.data.clone()
    layer.bias.data[96] += 40
    package = convert.build(source, "joint", ConvertConfig(precision="float32"), cache=Cache(tmp_path))
    layer.bias.data.copy_(before)
    stages = {"logits": {"reference": "joint.joint_net.2", "candidate": "logits"}}
    result = execute("joint", source=source, candidates={"it": {"coreml": str(package)}}, stages=stages).candidates[
        "it"
    ]
    assert [finding.cause for finding in result.findings] == ["bias_changed"]
    assert result.findings[0].evidence["rows"] == [96]
    assert result.tdt.durations == ()
    assert result.tdt.token_flips > 0
    assert result.tdt.summary.startswith("decisions that change: ")
