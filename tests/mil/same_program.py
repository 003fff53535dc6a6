"""Asserts that two programs hold the same records, down to the bytes of their constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from layerdiff.mil.program import Block, Constant, Function, Op, Program


def assert_same_program(one: Program, other: Program) -> None:
    assert set(one.functions) == set(other.functions)
    for name, function in one.functions.items():
        _same_function(function, other.functions[name])


def _same_function(one: Function, other: Function) -> None:
    assert (one.name, one.opset, one.inputs) == (other.name, other.opset, other.inputs)
    _same_block(one.block, other.block)


def _same_block(one: Block, other: Block) -> None:
    assert (one.inputs, one.outputs, [*one.constants]) == (other.inputs, other.outputs, [*other.constants])
    for name, constant in one.constants.items():
        _same_constant(constant, other.constants[name])
    assert len(one.ops) == len(other.ops)
    for op, twin in zip(one.ops, other.ops, strict=True):
        _same_op(op, twin)


def _same_op(one: Op, other: Op) -> None:
    assert (one.type, one.name, one.outputs) == (other.type, other.name, other.outputs)
    assert {k: len(v) for k, v in one.inputs.items()} == {k: len(v) for k, v in other.inputs.items()}
    for key, bound in one.inputs.items():
        for argument, twin in zip(bound, other.inputs[key], strict=True):
            _same_constant(argument, twin) if isinstance(argument, Constant) else _same(argument, twin)
    assert set(one.attributes) == set(other.attributes)
    for key, constant in one.attributes.items():
        _same_constant(constant, other.attributes[key])
    assert len(one.blocks) == len(other.blocks)
    for block, twin_block in zip(one.blocks, other.blocks, strict=True):
        _same_block(block, twin_block)


def _same_constant(one: Any, other: Any) -> None:
    assert (one.name, one.type, one.offset, one.result) == (other.name, other.type, other.offset, other.result)
    assert (one.file is None) == (other.file is None)
    assert (one.decompressed_by is None) == (other.decompressed_by is None)
    if one.decompressed_by is not None:
        _same_op(one.decompressed_by, other.decompressed_by)
    else:
        _same(one.array(), other.array())


def _same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, tuple):
        assert len(one) == len(other)
        for item, twin in zip(one, other, strict=True):
            _same(item, twin)
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes()
    else:
        assert one == other
