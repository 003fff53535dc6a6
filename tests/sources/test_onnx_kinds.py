"""The tables name ops that exist, and kinds that all sources share."""

from __future__ import annotations

import pytest
from onnx import defs
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from layerdiff import outline
from layerdiff.sources import onnx_kinds

OPS = {schema.name for schema in defs.get_all_schemas() if schema.domain == ""}
OPS |= {schema.name for schema in get_all_operator_schema() if schema.domain == "com.microsoft"}
OPS |= {"SimplifiedLayerNormalization"}  # ONNX Runtime registers it in the default domain


def test_every_op_of_the_table_exists() -> None:
    assert set(onnx_kinds.KINDS) - OPS == set()
    assert {*onnx_kinds.ROLES, *onnx_kinds.RANDOM} - OPS == set()


def test_every_kind_is_one_of_the_canonical_kinds_and_every_op_has_one() -> None:
    assert set(onnx_kinds.AS_KIND) - outline.KINDS == set()
    listed = [op for ops in onnx_kinds.AS_KIND.values() for op in ops.split()]
    assert sorted(listed) == sorted(onnx_kinds.KINDS)


def test_positions_of_weights_are_inputs_of_the_op() -> None:
    for op, roles in onnx_kinds.ROLES.items():
        if defs.has(op):
            schema = defs.get_schema(op)
            variadic = schema.inputs[-1].option == defs.OpSchema.FormalParameterOption.Variadic
            assert variadic or max(roles, default=0) < len(schema.inputs), op


@pytest.mark.parametrize(
    ("op", "domain", "weights", "kind"),
    [
        ("MatMul", "", {"weight": "w"}, "linear"),
        ("MatMul", "", {}, "matmul"),
        ("Gemm", "", {"bias": "b"}, "matmul"),
        ("Gather", "", {"weight": "w"}, "embedding"),
        ("Gather", "", {}, "gather"),
        ("FusedConv", "com.microsoft", {}, "conv"),
        ("MatMul", "somebody.else", {"weight": "w"}, "other"),
        ("STFT", "", {}, "other"),
    ],
)
def test_the_kind_depends_on_what_is_a_weight(op: str, domain: str, weights: dict[str, str], kind: str) -> None:
    assert onnx_kinds.kind_of(op, domain, weights=weights, constant=False) == kind
    assert onnx_kinds.kind_of(op, domain, weights=weights, constant=True) == "constant"


def test_roles_are_named_by_position() -> None:
    assert [onnx_kinds.role_of("BatchNormalization", i) for i in range(5)] == [
        "",
        "weight",
        "bias",
        "running_mean",
        "running_var",
    ]
    assert [onnx_kinds.role_of("Div", i) for i in range(2)] == ["self", "other"]
    assert onnx_kinds.role_of("Concat", 3) == "input_3"
    assert onnx_kinds.role_of("Resize", 2) == ""
