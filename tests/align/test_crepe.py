"""Somebody else's conversion of CREPE aligns by its weights alone: all names in it are meaningless here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff import crepe, mil
from layerdiff.records import CandidateResult
from tests.align.agreement import candidate_values, reference_values, wrong_pairs
from tests.align.conftest import compared
from tests.align.networks import Pair
from tests.align.scramble import scramble

FRAMES = 2

PARTS = [*(f"conv{i}" for i in range(1, 7)), *(f"conv{i}_BN" for i in range(1, 7)), "classifier"]
"""Every module of CREPE; each holds weights."""

TENSORS = 32
"""What CREPE computes: six layers of padding, convolution, rectifier, norm and pooling, the classifier, a sigmoid."""


def voice() -> np.ndarray:
    """A gliding tone with harmonics, as loud as speech."""
    time_s = np.arange(crepe.HOP * (FRAMES - 1)) / crepe.SAMPLE_RATE_HZ
    phase = 2 * np.pi * (180 * time_s + 400 * time_s**2)
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    return (0.05 * tone + 0.002 * np.random.default_rng(0).standard_normal(len(time_s))).astype(np.float32)


def pair_of(size: str, package: Path) -> Pair:
    return Pair(getattr(crepe, size)(), package, crepe.frames(voice(), crepe.SAMPLE_RATE_HZ))


def truth(package: Path) -> dict[str, str]:
    """Module → the tensor of the op that holds its weight, told by the constants' names, which the packages kept."""
    function = mil.open_package(package).program.functions["main"]
    found = {}
    for op in function:
        for argument in (*op.inputs.get("weight", ()), *op.inputs.get("gamma", ())):
            name = str(argument).removesuffix("_to_fp16").removeprefix("model_").removesuffix("_weight")
            found[name] = op.outputs[0].name
    return found


def candidate_of(result: CandidateResult, stage: str) -> tuple[str, str]:
    """The candidate's tensor of a stage, and how the pair was found."""
    row: Any = next(row for row in result.stages if row.name == stage)
    return row.candidate.tensor, row.alignment_method


@pytest.mark.parametrize("size", crepe.SIZES)
def test_it_aligns_completely_by_weights_alone(size: str, tmp_path: Path) -> None:
    named, package = crepe.package(size), tmp_path / "scrambled.mlpackage"
    names = scramble(named, package, rename_interface=True)
    pair = pair_of(size, package)
    assert len(pair.feed["x"]) == FRAMES
    result = compared(pair)
    expected = {part: names[tensor] for part, tensor in truth(named).items()}
    assert set(expected) == set(PARTS)
    found = {part: candidate_of(result, part) for part in PARTS}
    assert {part: tensor for part, (tensor, _) in found.items()} == expected
    assert {method for _, method in found.values()} == {"weights"}
    assert result.alignment is not None
    assert [entry for entry in result.alignment.unpaired if entry.side == "reference"] == []
    assert len(result.stages) == TENSORS
    assert result.status == "pass", [(row.name, row.reason) for row in result.stages if row.reason]
    fed = {names["frames"]: pair.feed["x"]}
    assert not wrong_pairs(result, reference_values(pair), candidate_values(package, fed), within=5e-3)


def test_names_tell_the_same_as_weights(tmp_path: Path) -> None:
    package = crepe.package("tiny")
    result = compared(pair_of("tiny", package))
    assert {part: candidate_of(result, part) for part in PARTS} == {p: (t, "name") for p, t in truth(package).items()}
