"""The structure of an ML Program as an `Outline`: its tensors, what makes them, and the constants in it.

Steps: every op outside of nested blocks becomes one node per result; float constants of more than one element are its
weights, under the role that torch gives them; the scope is what the constants' names tell, because converters build
them from module paths (`joint_enc_weight_to_fp16`). Weights are decompressed when they are read, and not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from layerdiff.mil.constants import Constants
from layerdiff.mil.precision import FLOATS, Precision
from layerdiff.mil.program import Constant, Op
from layerdiff.outline import Node, Outline, Weight
from layerdiff.sources.coreml_kinds import KINDS, ROLES

if TYPE_CHECKING:
    from layerdiff.mil import Model
    from layerdiff.records import Array

WEIGHT_SUFFIXES = ("_to_fp16", "_to_fp32", "_quantized", "_palettized", "_sparsified", "_cast_fp16", "_cast_fp32")
"""What coremltools appends to the name of a weight that it casts or compresses."""
ROLE_SUFFIXES = ("_weight", "_bias", "_running_mean", "_running_var", "_weight_ih", "_weight_hh")


def outline_of(model: Model) -> Outline:
    """The outline of the function that a model runs.

    Shapes are as declared, None where a length is known only at run time. Tensors inside of nested blocks are left out:
    they may be computed many times, or never. The weights in there are among the outline's, held by none of its nodes.
    """
    function, types = model.graph.function, model.graph.types
    constants = function.block.constants
    weights: dict[str, Weight] = {}
    dynamic: set[str] = set(model.graph.inputs) | set(model.graph.states)
    nodes: list[Node] = []
    for op in function:
        nodes += _nodes(op, constants, dynamic, weights)
        weights |= {name: weight for name, weight in _nested(op, constants) if name not in weights}
    inputs = tuple(
        Node(name, "input", "input", dtype=types[name].dtype, shape=_described(model, name)) for name in model.inputs
    )
    return Outline(model.package.name, inputs, tuple(nodes), tuple(model.outputs), weights)


def _described(model: Model, name: str) -> tuple[int | None, ...]:
    """The shape of an input: fixed lengths, None where a range is allowed."""
    return tuple(dim if isinstance(dim, int) else None for dim in model.inputs[name].shape)


def _nodes(op: Op, constants: Mapping[str, Constant], dynamic: set[str], weights: dict[str, Weight]) -> Iterator[Node]:
    """One node per result of an op; grows `dynamic` by what depends on an input, and `weights` by what it holds."""
    read = tuple(name for name in _operands(op) if name in dynamic)
    bound = {role: constant for role, constant in _bound(op, constants) if _is_weight(constant)}
    kind = kind_of(op, bound)
    roles = {ROLES.get((kind, role), role): constant for role, constant in bound.items()}
    for constant in roles.values():
        weights.setdefault(constant.name, _weight(constant))
    if read or op.blocks:
        dynamic.update(output.name for output in op.outputs)
    for index, output in enumerate(op.outputs):
        yield Node(
            name=output.name,
            op=op.type,
            kind=kind if read or op.blocks else "constant",
            inputs=read,
            weights={role: constant.name for role, constant in roles.items()},
            dtype=output.type.dtype,
            shape=output.type.shape,
            scope=next((scope for c in roles.values() if (scope := scope_of(c.name))), ""),
            result=index,
        )


def _nested(op: Op, constants: Mapping[str, Constant]) -> Iterator[tuple[str, Weight]]:
    """What the ops inside of an op hold: the gates of a recurrent layer that became a loop."""
    for block in op.blocks:
        known = {**constants, **block.constants}
        for inner in block.ops:
            yield from ((c.name, _weight(c)) for _, c in _bound(inner, known) if _is_weight(c))
            yield from _nested(inner, known)


_FIRST = ("cond", "query", "key", "x", "y", "value", "initial_h", "initial_c")
"""Inputs that torch's ops take first, in its order; a program lists its inputs by their names."""


def _operands(op: Op) -> tuple[str, ...]:
    """The tensors that an op reads, in the order of torch's arguments."""
    order = [*(name for name in _FIRST if name in op.inputs), *(name for name in op.inputs if name not in _FIRST)]
    own = [argument for name in order for argument in op.inputs[name] if isinstance(argument, str)]
    return tuple(dict.fromkeys([*own, *op.reads]))


def _bound(op: Op, constants: Mapping[str, Constant]) -> Iterator[tuple[str, Constant]]:
    """The constants among the inputs of an op, by the inputs' names."""
    for role, arguments in op.inputs.items():
        for position, argument in enumerate(arguments):
            constant = constants.get(argument) if isinstance(argument, str) else argument
            if constant is not None:
                yield (f"{role}.{position}" if len(arguments) > 1 else role), constant


def _is_weight(constant: Constant) -> bool:
    """Whether a constant can be told by its values: floats, and more than one."""
    return constant.type.dtype in FLOATS and prod(constant.shape) > 1


def kind_of(op: Op, weights: Mapping[str, Any]) -> str:
    """The canonical kind of an op that has these weights."""
    kind = KINDS.get(op.type, "other")
    if kind == "matmul" and weights:
        return "linear"
    return "embedding" if op.type == "gather" and "x" in weights else kind


def scope_of(constant: str) -> str:
    """The part of a constant's name that stands for the module: `joint_enc_weight_to_fp16` → `joint_enc`."""
    name = stripped(constant)
    role = next((suffix for suffix in ROLE_SUFFIXES if name.endswith(suffix)), "")
    return name.removesuffix(role) if role else ""


def stripped(constant: str) -> str:
    """A constant's name without what casting and compression append to it."""
    while suffix := next((suffix for suffix in WEIGHT_SUFFIXES if constant.endswith(suffix)), ""):
        constant = constant.removesuffix(suffix)
    return constant


def _weight(constant: Constant) -> Weight:
    stored = _stored(constant)
    return Weight(
        name=constant.name,
        dtype=stored.type.dtype,
        shape=constant.shape,
        read=partial(_values, constant),
        compression=compression_of(constant),
    )


def _stored(constant: Constant) -> Constant:
    """The constant that holds the bulk of a compressed one's data, or the constant itself."""
    op = constant.decompressed_by
    if op is None:
        return constant
    held = [argument for bound in op.inputs.values() for argument in bound if isinstance(argument, Constant)]
    return _stored(max(held, key=lambda c: c.size_bytes, default=constant)) if held else constant


def compression_of(constant: Constant) -> str:
    """How a constant is stored, in words; empty if plainly."""
    op = constant.decompressed_by
    if op is None:
        return ""
    return f"{_COMPRESSIONS.get(op.type, op.type)}, {_stored(constant).type.dtype}"


_COMPRESSIONS = {
    "constexpr_affine_dequantize": "affine",
    "constexpr_blockwise_shift_scale": "blockwise affine",
    "constexpr_cast": "cast",
    "constexpr_lut_to_dense": "palettized",
    "constexpr_lut_to_sparse": "palettized and pruned",
    "constexpr_sparse_blockwise_shift_scale": "affine and pruned",
    "constexpr_sparse_to_dense": "pruned",
}


def _values(constant: Constant) -> Array:
    """A constant's values in float32, float64 for float64; decoded anew at each call."""
    tensor = Constants(budget_bytes=0).tensor(constant, Precision("float32"))
    values: Array = tensor.numpy()
    return values
