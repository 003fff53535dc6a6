"""The structure of an ML Program: what computes, in torch's terms, and the weights it holds, also inside of loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from layerdiff import mil
from layerdiff.align.weights import match_weights
from layerdiff.audit import audit
from layerdiff.outline import Outline
from layerdiff.sources.checkpoint import weights_in
from layerdiff.sources.coreml_outline import outline_of, scope_of, stripped
from tests.align.networks import convert

X = np.random.default_rng(0).standard_normal((1, 7, 10)).astype(np.float32)


class Gated(nn.Module):
    """A GRU, which coremltools writes as a loop around six products."""

    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.Linear(10, 6)
        self.gru = nn.GRU(6, 5, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.gru(torch.tanh(self.pre(x)))[0])


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    module = Gated().eval()
    package = tmp_path_factory.mktemp("gated") / "gated.mlpackage"
    convert(module, {"x": X}, package)
    return module, package


def test_nodes_have_kinds_operands_weights_and_scopes(gated: tuple[nn.Module, Path]) -> None:
    outline = outline_of(mil.load(gated[1]))
    first, last = outline.nodes[0], outline.nodes[-1]
    assert (first.kind, first.inputs, first.scope) == ("linear", ("x",), "pre")
    assert set(first.weights) == {"weight", "bias"}
    assert (last.kind, last.scope, outline.outputs) == ("linear", "out", (last.name,))
    assert [(node.name, node.shape) for node in outline.inputs] == [("x", (1, 7, 10))]


def test_weights_are_read_as_they_are(gated: tuple[nn.Module, Path]) -> None:
    module, package = gated
    outline = outline_of(mil.load(package))
    weight = outline.weights[outline.nodes[0].weights["weight"]]
    assert weight.read is not None
    np.testing.assert_array_equal(weight.read(), module.pre.weight.detach().numpy())  # type: ignore[union-attr]


def test_the_weights_of_a_loop_are_there_and_none_of_its_nodes_holds_them(gated: tuple[nn.Module, Path]) -> None:
    outline = outline_of(mil.load(gated[1]))
    held = {weight for node in outline.nodes for weight in node.weights.values()}
    inside = set(outline.weights) - held
    assert sum(outline.weights[name].shape == (5, 6) for name in inside) == 3
    assert sum(outline.weights[name].shape == (5, 5) for name in inside) == 3
    assert not any("linear" in node.name and "while" in node.op for node in outline.nodes)


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_an_audit_finds_a_recurrent_layer_in_the_gates_of_its_loop(
    factor: float, gated: tuple[nn.Module, Path]
) -> None:
    module, package = gated
    state = {name: value.clone() for name, value in module.state_dict().items()}
    state["gru.weight_hh_l0"][7] *= factor
    reference: Outline = weights_in("checkpoint", state)
    candidate = outline_of(mil.load(package))
    found = audit(reference, candidate, match_weights(reference, candidate))
    verdicts = {weight.name: weight.verdict for weight in found.weights}
    assert verdicts.pop("gru.weight_hh_l0") == ("matched" if factor == 1 else "changed")
    assert set(verdicts.values()) == {"matched"}


@pytest.mark.parametrize(
    ("constant", "name", "scope"),
    [
        ("joint_enc_weight_to_fp16", "joint_enc_weight", "joint_enc"),
        ("joint_enc_bias", "joint_enc_bias", "joint_enc"),
        ("layer_weight_to_fp16_palettized", "layer_weight", "layer"),
        ("const_7", "const_7", ""),
    ],
)
def test_a_constant_tells_the_module_that_it_was_made_of(constant: str, name: str, scope: str) -> None:
    assert (stripped(constant), scope_of(constant)) == (name, scope)


def test_what_depends_on_no_input_is_a_constant(tmp_path: Path) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.arange(70.0).reshape(1, 7, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.sin(self.table)

    convert(Positions().eval(), {"x": X}, tmp_path / "p.mlpackage")
    outline = outline_of(mil.load(tmp_path / "p.mlpackage"))
    kinds: dict[str, Any] = {node.op: node.kind for node in outline.nodes}
    assert kinds["add"] == "add"
    assert set(kinds.values()) <= {"add", "constant"}
