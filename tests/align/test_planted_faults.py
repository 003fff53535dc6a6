"""A fault planted at any depth is singled out: by the engine, and by own and inherited error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff import mil
from layerdiff.records import CandidateResult
from tests.align import faults
from tests.align.conftest import Prepared, compared
from tests.align.faults import Planted
from tests.align.networks import Pair
from tests.align.scramble import scramble


@dataclass(frozen=True)
class Case:
    """A fault: in which network, at which op, and what."""

    network: str
    op: str
    """MIL type."""
    index: int
    """Which op of that type, in program order."""
    plant: Callable[..., Planted]
    options: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"

    def planted(self, pair: Pair, out: Path) -> Planted:
        tensor = faults.results(pair.package, self.op)[self.index]
        return self.plant(pair.package, out, tensor=tensor, **self.options)


CASES = {
    "first convolution scaled": Case("conv", "conv", 0, faults.scaled),
    "middle convolution with a zero row": Case("conv", "conv", 2, faults.zeroed_row, {"row": 4}),
    "gamma of a batch norm scaled": Case("conv", "batch_norm", 0, faults.scaled, {"role": "gamma", "factor": 1.1}),
    "epsilon of a batch norm": Case("conv", "batch_norm", 0, faults.epsilon),
    "bias of the last layer, kept inline": Case("conv", "linear", -1, faults.shifted_bias),
    "rectifier swapped": Case("conv", "relu", 1, faults.swapped_activation),
    "recurrent weight scaled": Case("recurrent", "lstm", 1, faults.scaled, {"role": "weight_hh", "factor": 1.2}),
    "projection of the second attention transposed": Case("attention", "linear", 3, faults.transposed),
    "scores scaled": Case("attention", "matmul", 0, faults.inserted_scaling, {"factor": 1.05}),
    "gelu swapped": Case("attention", "gelu", 0, faults.swapped_activation, {"type_": "relu"}),
    "gate scaled": Case("depthwise", "sigmoid", 1, faults.inserted_scaling, {"factor": 1.03}),
    "second upsampling scaled": Case("transposed", "conv_transpose", 1, faults.scaled),
    "row of a table": Case("embeddings", "gather", 0, faults.scaled, {"role": "x"}),
    "epsilon of a layer norm": Case("tied", "layer_norm", 0, faults.epsilon),
    "second pass of a reused block": Case("reused", "gelu", 1, faults.inserted_scaling, {"factor": 0.97}),
    "key transposed": Case("functional", "linear", 1, faults.transposed),
    "probabilities scaled": Case("flexible", "softmax", 0, faults.inserted_scaling),
    "float16 convolution": Case("conv", "conv", 2, faults.scaled, {"factor": 1.1}, "float16"),
    "float16 attention": Case("attention", "linear", 3, faults.transposed, {}, "float16"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_effect_of_a_fault_first_appears_where_it_says(name: str, prepared: Prepared, tmp_path: Path) -> None:
    case = CASES[name]
    pair = prepared(case.network, precision=case.precision)
    planted = case.planted(pair, tmp_path / "faulty.mlpackage")
    assert faults.first_difference(pair.package, planted.package, pair.feed) == planted.tensor
    right, wrong = (mil.load(path).predict(pair.feed) for path in (pair.package, planted.package))
    assert right.keys() == wrong.keys()
    assert any(not np.allclose(right[output], wrong[output], rtol=1e-3, atol=1e-4) for output in right)


def test_a_constant_of_several_ops_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    package = prepared("reused").package
    tensor = faults.results(package, "linear")[1]
    with pytest.raises(ValueError, match="is read by 3 ops"):
        faults.scaled(package, tmp_path / "faulty.mlpackage", tensor=tensor)


def test_a_copy_without_a_fault_differs_nowhere(prepared: Prepared, tmp_path: Path) -> None:
    pair = prepared("conv")
    tensor = faults.results(pair.package, "conv")[1]
    same = faults.scaled(pair.package, tmp_path / "same.mlpackage", tensor=tensor, factor=1.0)
    assert faults.first_difference(pair.package, same.package, pair.feed) is None


# ------------------------------------------------------------------ own and inherited error

RIGHT, WRONG = 1e-5, 1e-3
"""Own errors of stages in float32: what is right stays below the first, what is wrong is above the second."""


def at_fault(package: Path, tensor: str, compared_tensors: set[str]) -> set[str]:
    """The compared tensors that show a fault in an op directly: its results, or else what is computed from them next.

    Found in the program alone: forward from the results of the faulty op, no further than a compared tensor.
    """
    ops = next(iter(mil.open_package(package).program.functions.values())).block.ops
    pending = [o.name for op in ops for o in op.outputs if any(o.name == tensor for o in op.outputs)]
    found, seen = set[str](), set[str]()
    while pending:
        name = pending.pop()
        if name in compared_tensors:
            found.add(name)
        elif name not in seen:
            seen.add(name)
            pending += [output.name for op in ops if name in op.reads for output in op.outputs]
    return found


def assert_singled_out(result: CandidateResult, planted: Planted) -> None:
    """The first divergence is the fault, and no stage but those that show it directly has an error of its own."""
    tensors = {stage.name: stage.candidate.tensor for stage in result.stages if stage.candidate is not None}
    culprits = at_fault(planted.package, planted.tensor, set(tensors.values()))
    own = {stage.name: stage.own_error for stage in result.stages if stage.own_error is not None}
    assert own.keys() == tensors.keys()
    first = result.first_divergence
    assert result.status == "fail"
    assert first is not None
    assert tensors[first] in culprits
    rows = {stage.name: stage for stage in result.stages}
    is_float16 = any(stage.candidate.dtype == "float16" for stage in result.stages if stage.candidate is not None)
    assert own[first] > WRONG
    innocent = {name: error for name, error in own.items() if tensors[name] not in culprits}
    limit = {name: (rows[name].total_limit or 0.0) if is_float16 else RIGHT for name in innocent}
    assert {name: error for name, error in innocent.items() if error > limit[name]} == {}
    inherited = [name for name in innocent if (rows[name].inherited_error or 0.0) > WRONG]
    assert inherited or all(name in culprits for name in list(tensors.values())[-1:])


@pytest.mark.parametrize("name", CASES)
def test_own_error_singles_out_the_fault(name: str, prepared: Prepared, tmp_path: Path) -> None:
    case = CASES[name]
    pair = prepared(case.network, precision=case.precision)
    planted = case.planted(pair, tmp_path / "faulty.mlpackage")
    assert_singled_out(compared(pair, planted.package), planted)


@pytest.mark.parametrize("name", ["middle convolution with a zero row", "key transposed", "gelu swapped"])
def test_it_does_with_meaningless_names(name: str, prepared: Prepared, tmp_path: Path) -> None:
    case = CASES[name]
    pair = prepared(case.network)
    planted = case.planted(pair, tmp_path / "faulty.mlpackage")
    names = scramble(planted.package, tmp_path / "scrambled.mlpackage")
    hidden = Planted(tmp_path / "scrambled.mlpackage", names.get(planted.tensor, planted.tensor))
    assert_singled_out(compared(pair, hidden.package), hidden)
