"""Whether a pair of an alignment is right, judged by its values alone and without the code that found it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from layerdiff import mil
from layerdiff.records import CandidateResult, StageResult
from layerdiff.sources.torch_source import TorchSource
from tests.align.networks import Pair

Array = np.ndarray


def reference_values(pair: Pair) -> dict[str, Array]:
    """Every tensor of the module by its name."""
    found: dict[str, Array] = {}
    source = TorchSource.from_module(pair.module, name="module")
    source.stream(pair.feed, lambda name, value: found.update({name: np.array(value)}))
    return found


def candidate_values(package: Path, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Every tensor of the package, all floats widened to float32, inputs included."""
    traced = mil.load(package, precision="float32").trace(feed)
    return dict(feed) | {tensor.name: tensor.value for tensor in traced}


def read_as(stage: StageResult, value: Array, shape: tuple[int, ...]) -> Array:
    """The candidate's tensor as the report says that it has to be read: nothing that it does not say is done."""
    said = stage.layout
    if value.shape == shape and not said:
        return value
    assert said, f"{stage.name}: {value.shape} was compared with {shape} and nothing is said about it"
    axes = re.search(r"(?<!reference): axes (\([\d, ]*\))", said) or re.search(r", axes (\([\d, ]*\))", said)
    others = re.search(r"axes of the reference (\([\d, ]*\))", said)
    moved = value.transpose(_numbers(axes[1])) if axes else value
    order = _numbers(others[1]) if others else tuple(range(len(shape)))
    return moved.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def relative_error(expected: Array, got: Array) -> float:
    """Relative L2 error in float64."""
    expected, got = expected.astype(np.float64), got.astype(np.float64)
    return float(np.linalg.norm(got - expected) / max(np.linalg.norm(expected), 1e-30))


def wrong_pairs(
    result: CandidateResult, reference: Mapping[str, Array], candidate: Mapping[str, Array], *, within: float
) -> dict[str, Any]:
    """Stage → the relative error between its two sides, of those that don't agree."""
    wrong = {}
    for stage in result.stages:
        if stage.reference is None or stage.candidate is None:
            wrong[stage.name] = stage.reason
            continue
        expected = reference[stage.reference.tensor]
        error = relative_error(expected, read_as(stage, candidate[stage.candidate.tensor], expected.shape))
        if not error <= within:
            wrong[stage.name] = error
    return wrong


def missing_outputs(outputs: Iterable[Array], result: CandidateResult, reference: Mapping[str, Array]) -> list[int]:
    """The numbers of the module's outputs that no stage compares."""
    shown = [reference[stage.reference.tensor] for stage in result.stages if stage.reference is not None]
    return [i for i, output in enumerate(outputs) if not any(_same(output, value) for value in shown)]


def _same(one: Array, other: Array) -> bool:
    """The same values in any layout; a call that records no gradients may use fused kernels, which round otherwise."""
    return one.size == other.size and np.allclose(np.sort(one, axis=None), np.sort(other, axis=None), 1e-4, 1e-5)
