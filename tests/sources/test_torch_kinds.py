from __future__ import annotations

import pytest
import torch

from layerdiff.outline import KINDS
from layerdiff.sources.torch_kinds import AS_KIND, kind_with, op_spec, weight_roles

aten = torch.ops.aten


def test_every_kind_is_canonical_and_every_canonical_kind_has_ops() -> None:
    assert set(AS_KIND) == KINDS - {"input", "constant", "other"}


def test_every_op_is_known_to_torch_and_has_one_kind() -> None:
    names = [name for names in AS_KIND.values() for name in names.split()]
    known = {name.removeprefix("aten::").partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    plain = known | {name.removesuffix("_") for name in known}
    # not in every torch, and not a dispatched op of this one
    assert {name.partition(".")[0] for name in names} - plain <= {"_fused_rms_norm", "_unsafe_expand", "requires_grad"}
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("func", "op", "name", "kind"),
    [
        (aten.relu_.default, "aten.relu_", "relu", "relu"),
        (aten.add.Tensor, "aten.add", "add", "add"),
        (aten.max.other, "aten.max", "max", "maximum"),
        (aten.max.dim, "aten.max", "max", "max"),
        (aten.__and__.Tensor, "aten.__and__", "__and__", "logical"),
        (aten._to_copy.default, "aten._to_copy", "_to_copy", "cast"),
        (aten.erfinv.default, "aten.erfinv", "erfinv", "other"),
        (torch.ops.quantized.add.default, "quantized.add", "add", "other"),
    ],
)
def test_specs(func: object, op: str, name: str, kind: str) -> None:
    spec = op_spec(func)
    assert (spec.op, spec.name, spec.kind) == (op, name, kind)


def test_what_is_written_and_read() -> None:
    assert op_spec(aten.relu_.default).written == {"self"}
    assert op_spec(aten.add.out).written == {"out"}
    assert op_spec(aten.relu.default).written == frozenset()
    assert [op_spec(f).overwrites for f in (aten.copy_.default, aten.add.out, aten.add_.Tensor)] == [True, True, False]
    assert [op_spec(f).writes_values for f in (aten.t_.default, aten.neg_.default)] == [False, True]


@pytest.mark.parametrize("func", [aten.view.default, aten.einsum.default, aten.relu_.default, aten.to.dtype])
def test_results_that_may_share_storage(func: object) -> None:
    assert not op_spec(func).fresh


def test_composite_ops() -> None:
    assert [op_spec(f).composite for f in (aten.linear.default, aten.t.default)] == [True, False]


@pytest.mark.parametrize(
    ("func", "roles", "args", "kind"),
    [
        (aten.linear.default, ["weight", "bias"], (), "linear"),
        (aten.linear.default, ["bias"], (), "matmul"),
        (aten.bmm.default, [], (), "matmul"),
        (aten.mm.default, ["weight"], (), "linear"),
        (aten.addmm.default, ["bias"], (), "matmul"),
        (aten.embedding.default, [], (), "gather"),
        (aten.index.Tensor, ["weight"], (), "embedding"),
        (aten.index.Tensor, [], (), "gather"),
        (aten.convolution.default, ["weight"], (0, 1, 2, [1], [0], [1], False, [0], 1), "conv"),
        (aten.convolution.default, ["weight"], (0, 1, 2, [1], [0], [1], True, [0], 1), "conv_transpose"),
        (aten.add.Tensor, ["other"], (), "add"),
    ],
)
def test_kinds_that_depend_on_the_weights(func: object, roles: list[str], args: tuple[object, ...], kind: str) -> None:
    assert kind_with(op_spec(func), roles, args) == kind


@pytest.mark.parametrize(
    ("func", "places", "roles"),
    [
        (aten.linear.default, [("weight", 0), ("bias", 0)], ["weight", "bias"]),
        (aten.addmm.default, [("self", 0), ("mat2", 0)], ["bias", "weight"]),
        (aten.matmul.default, [("self", 0)], ["weight"]),
        (aten.einsum.default, [("tensors", 1)], ["weight"]),
        (aten.einsum.default, [("tensors", 1), ("tensors", 2)], ["weight", "weight_1"]),
        (aten.cat.default, [("tensors", 0), ("tensors", 2)], ["tensors", "tensors_2"]),
        (aten.lstm_cell.default, [("w_ih", 0), ("w_hh", 0), ("b_ih", 0)], ["weight_ih", "weight_hh", "bias_ih"]),
        (aten.index.Tensor, [("self", 0)], ["weight"]),
        (aten.mul.Tensor, [("other", 0)], ["other"]),
        (
            aten.batch_norm.default,
            [("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0)],
            ["weight", "bias", "running_mean", "running_var"],
        ),
    ],
)
def test_roles(func: object, places: list[tuple[str, int]], roles: list[str]) -> None:
    assert weight_roles(op_spec(func), places, ()) == roles


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("proj_size", [0, 2])
def test_recurrent_parameters_have_the_names_of_torch(bidirectional: bool, bias: bool, proj_size: int) -> None:
    lstm = torch.nn.LSTM(3, 4, 2, bias=bias, bidirectional=bidirectional, proj_size=proj_size)
    params = lstm._flat_weights
    args = (None, None, params, bias, 2, 0.0, False, bidirectional, False)
    roles = weight_roles(op_spec(aten.lstm.input), [("params", i) for i in range(len(params))], args)
    assert roles == lstm._flat_weights_names
