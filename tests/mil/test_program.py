"""Parsing: types, inline and stored constants, nested blocks."""

from __future__ import annotations

import numpy as np
import pytest

from layerdiff.errors import PackageError, UnsupportedOpError
from layerdiff.mil import schema
from layerdiff.mil.package import open_package
from layerdiff.mil.program import Constant, TensorType, parse, value_type


def test_types_print_with_a_question_mark_for_what_only_run_time_knows():
    assert str(TensorType("float16", (1, None, 640))) == "float16[1, ?, 640]"
    assert str(TensorType("int32", None)) == "int32[...]"
    assert str(TensorType("float16", (2,), "state")) == "state<float16[2]>"


def test_the_program_of_a_package(joint):
    function = open_package(joint.package).program.functions["main"]
    assert [named.name for named in function.inputs] == ["encoder", "decoder"]
    assert function.inputs[0].type == TensorType("float32", (1, 24, None))
    assert function.block.outputs == ("logits",)
    assert [op.type for op in function] == [
        *["transpose", "linear", "transpose", "linear", "expand_dims", "expand_dims", "add", "relu", "linear"],
        *["softmax", "log"],
    ]
    weights = next(op for op in function if op.type == "linear").inputs["weight"][0]
    np.testing.assert_array_equal(function.block.constants[weights].array(), joint.module.enc.weight.detach().numpy())


def program_with_values(**values):
    message = schema.mil_module().Program()
    function = message.functions["main"]
    function.opset = "CoreML7"
    block = function.block_specializations["CoreML7"]
    for name, fill in values.items():
        operation = block.operations.add(type="const")
        operation.outputs.add(name=name)
        fill(operation.attributes["val"])
    return message


def tensor(value, code, *dims):
    value.type.tensorType.dataType, value.type.tensorType.rank = code, len(dims)
    for dim in dims:
        value.type.tensorType.dimensions.add().constant.size = dim
    return value.immediateValue.tensor


def test_inline_constants_of_every_encoding():
    program = parse(
        program_with_values(
            floats=lambda v: tensor(v, 11, 2).floats.values.extend([1.5, -2]),
            ints=lambda v: tensor(v, 23).ints.values.append(-7),
            bools=lambda v: tensor(v, 1, 3).bools.values.extend([True, False, True]),
            text=lambda v: tensor(v, 2).strings.values.append("same"),
            halves=lambda v: setattr(tensor(v, 10, 2).bytes, "values", np.array([0.1, 3], np.float16).tobytes()),
            longs=lambda v: tensor(v, 24, 1).longInts.values.append(2**40),
            int16=lambda v: tensor(v, 22, 1).ints.values.append(-3),
            doubles=lambda v: tensor(v, 12, 1).doubles.values.append(0.1),
        ),
        {},
    )
    found = {name: constant.array() for name, constant in program.functions["main"].block.constants.items()}
    assert found["text"] == "same"
    expected = {
        "floats": np.array([1.5, -2], np.float32),
        "ints": np.array(-7, np.int32),
        "bools": np.array([True, False, True]),
        "halves": np.array([0.1, 3], np.float16),
        "longs": np.array([2**40]),
        "int16": np.array([-3], np.int16),
        "doubles": np.array([0.1]),
    }
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape


@pytest.mark.parametrize(
    "fill",
    [
        lambda v: tensor(v, 11, 3).floats.values.extend([1.5, -2]),
        lambda v: tensor(v, 11, 10**12).floats.values.extend([1.5, -2]),
        lambda v: setattr(tensor(v, 10, 2).bytes, "values", b"abc"),
        lambda v: tensor(v, 2, 2).strings.values.append("x"),
        lambda v: tensor(v, 21, 1).ints.values.append(300),
    ],
)
def test_a_constant_that_is_not_of_its_type_is_refused(fill):
    with pytest.raises(PackageError, match="constant 'c' does not hold what its type says"):
        parse(program_with_values(c=fill), {})


def test_a_constant_of_a_dtype_that_is_not_read_is_refused():
    with pytest.raises(UnsupportedOpError, match="constants of dtype 'float8_e4m3fn' cannot be read"):
        parse(program_with_values(c=lambda v: tensor(v, 40, 1).floats.values.append(1)), {})


def test_an_unknown_data_type_is_refused():
    with pytest.raises(PackageError, match="unknown data type '77'"):
        parse(program_with_values(c=lambda v: tensor(v, 77, 1).floats.values.append(1)), {})


def test_a_function_without_the_block_of_its_opset_is_refused():
    message = schema.mil_module().Program()
    message.functions["main"].opset = "CoreML9"
    with pytest.raises(PackageError, match="no block for its opset 'CoreML9'"):
        parse(message, {})


@pytest.mark.parametrize(
    "damage", [lambda op: op.outputs.pop(), lambda op: op.attributes.pop("val"), lambda op: op.outputs.add(name="d")]
)
def test_a_constant_without_one_result_and_a_value_is_refused(damage):
    message = program_with_values(c=lambda v: tensor(v, 11).floats.values.append(1))
    damage(message.functions["main"].block_specializations["CoreML7"].operations[0])
    with pytest.raises(PackageError, match="'const'"):
        parse(message, {})


def test_an_input_to_which_nothing_is_bound_is_refused():
    message = program_with_values()
    operation = message.functions["main"].block_specializations["CoreML7"].operations.add(type="relu")
    operation.outputs.add(name="y")
    operation.inputs["x"].SetInParent()
    with pytest.raises(PackageError, match="nothing is bound to the input 'x' of the op 'y'"):
        parse(message, {})


def test_types_of_other_kinds():
    message = schema.mil_module().ValueType()
    message.stateType.wrappedType.tensorType.dataType = 10
    assert value_type(message) == TensorType("float16", (), "state")
    message = schema.mil_module().ValueType()
    message.listType.type.tensorType.dataType = 11
    assert value_type(message).kind == "list"
    message = schema.mil_module().ValueType()
    message.tensorType.dataType = 11
    message.tensorType.dimensions.add().unknown.variadic = True
    assert value_type(message) == TensorType("float32", None)


def test_nested_blocks_are_parsed_with_what_they_read(build):
    from coremltools.converters.mil import Builder as mb

    def program(x):
        return mb.cond(
            pred=mb.greater(x=mb.reduce_sum(x=x, keep_dims=False), y=0.0),
            _true_fn=lambda: mb.mul(x=x, y=2.0),
            _false_fn=lambda: mb.sin(x=x),
        )

    path = build(program, x=np.ones(3, np.float32))
    op = next(op for op in open_package(path).program.functions["main"] if op.type == "cond")
    assert [inner.type for block in op.blocks for inner in block.ops] == ["mul", "sin"]
    assert "x" in op.reads
    assert all(isinstance(value, Constant) for value in op.blocks[0].constants.values())
