"""The text of `model.mil`: to the character against texts written by hand, and read back."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.binding.compiled import text_form
from layerdiff.binding.model_mil import SPELLED, hexadecimal, program_text
from layerdiff.errors import PackageError, UnsupportedOpError
from layerdiff.mil import schema, text

FLOAT16, FLOAT32, INT32, STRING, BOOL = 10, 11, 23, 2, 1


def filled(type_: Any, code: int, *lengths: int | str) -> None:
    """Sets a `ValueType` to a tensor; `?` and `...` are lengths too."""
    type_.tensorType.dataType = code
    for length in lengths:
        dimension = type_.tensorType.dimensions.add()
        if isinstance(length, str):
            dimension.unknown.variadic = length == "..."
        else:
            dimension.constant.size = length


def dictionary(type_: Any) -> None:
    filled(type_.dictionaryType.keyType, STRING)
    filled(type_.dictionaryType.valueType, FLOAT32)


def string(value: Any, content: str) -> None:
    filled(value.type, STRING)
    value.immediateValue.tensor.strings.values.append(content)


def model(opset: str = "CoreML7") -> Any:
    """x → x + weight, where the weight lies in a file."""
    spec = schema.model_module().Model()
    function = spec.mlProgram.functions["main"]
    function.opset = opset
    for name in ("x", "b"):
        filled(function.inputs.add(name=name).type, FLOAT32, 2, "?")
    block = function.block_specializations[opset]
    const = block.operations.add(type="const")
    filled(const.outputs.add(name="w").type, FLOAT32, 2, 1)
    value = const.attributes["val"]
    filled(value.type, FLOAT32, 2, 1)
    value.blobFileValue.fileName, value.blobFileValue.offset = "@model_path/weights/weight.bin", 64
    string(const.attributes["name"], "w")
    add = block.operations.add(type="add")
    filled(add.outputs.add(name="y").type, FLOAT32, 2, "?")
    for key, name in (("y", "w"), ("x", "x")):
        add.inputs[key].arguments.add(name=name)
    block.outputs.append("y")
    return spec


def valued(type_: Any, immediate: Any = None) -> Any:
    """`model()` with one more constant, `c`, of a type and a value."""
    spec = model("CoreML8")
    block = spec.mlProgram.functions["main"].block_specializations["CoreML8"]
    const = block.operations.add(type="const")
    value = const.attributes["val"]
    type_(value.type)
    const.outputs.add(name="c").type.CopyFrom(value.type)
    if immediate:
        immediate(value.immediateValue)
    return spec


def written(spec: Any) -> str:
    """How the value of `c` is written, behind its type."""
    line = next(line for line in program_text(spec).text.splitlines() if " c = const()" in line)
    return line.partition("[val = ")[2].removesuffix("];")


def test_a_program_up_to_ios17() -> None:
    assert (
        program_text(model()).text
        == """\
program(1.0)
[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-component-MIL", "3500.14.1"}, \
{"coremlc-version", "3500.32.1"}})]
{
    func main<ios17>(tensor<fp32, [2, ?]> b, tensor<fp32, [2, ?]> x) {
            tensor<fp32, [2, 1]> w = const()[name = tensor<string, []>("w"), val = tensor<fp32, [2, 1]>(BLOBFILE(\
path = tensor<string, []>("@model_path/weights/weight.bin"), offset = tensor<uint64, []>(64)))];
            tensor<fp32, [2, ?]> y = add(x = x, y = w);
        } -> (y);
}
"""
    )


def test_later_ones_spell_scalars_bare() -> None:
    found = program_text(model("CoreML8")).text
    assert found.startswith("program(1.3)\n[buildInfo = dict<string, string>(")
    assert 'name = string("w")' in found
    assert 'BLOBFILE(path = string("@model_path/weights/weight.bin"), offset = uint64(64))' in found
    assert program_text(model("CoreML9")).text == found.replace("<ios18>", "<ios26>")
    assert program_text(model("CoreML8"), bare=False).text.startswith("program(1.0)")


def test_the_weight_files_are_named_once() -> None:
    assert program_text(model()).weight_files == ("weights/weight.bin",)


@pytest.mark.parametrize(
    ("field", "sizes", "expected"),
    [
        (
            "shapeRange",
            lambda array: [array.shapeRange.sizeRanges.add(lowerBound=a, upperBound=b) for a, b in ((2, 2), (1, 9))],
            "[FlexibleShapeInformation = tuple<tuple<string, dict<string, tensor<int32, [?]>>>, tuple<string, "
            'dict<string, list<tensor<int32, [2]>, ?>>>>((("DefaultShapes", {{"x", [2, 3]}}), ("RangeDims", '
            '{{"x", [[2, 2], [1, 9]]}})))]',
        ),
        (
            "enumeratedShapes",
            lambda array: [array.enumeratedShapes.shapes.add(shape=shape) for shape in ((2, 3), (2, 5))],
            "[FlexibleShapeInformation = tuple<tuple<string, dict<string, tensor<int32, [?]>>>, tuple<string, "
            'dict<string, dict<string, tensor<int32, [?]>>>>>((("DefaultShapes", {{"x", [2, 3]}}), '
            '("EnumeratedShapes", {{"00000000", {{"x", [2, 3]}}}, {"00000001", {{"x", [2, 5]}}}})))]',
        ),
    ],
)
def test_the_shapes_that_a_function_takes(field: str, sizes: Any, expected: str) -> None:
    spec = model("CoreML8")
    array = spec.description.input.add(name="x").type.multiArrayType
    array.shape.extend([2, 3])
    sizes(array)
    found = program_text(spec).text
    assert f"x) {expected} {{" in found
    shapes = text.flexible_shapes(text.read(found).attributes["main"])
    assert shapes == {"x": (field, [[2, 2], [1, 9]] if field == "shapeRange" else [[2, 3], [2, 5]])}


# ------------------------------------------------------------------ types and values


def test_every_data_type_of_the_schema_has_its_word() -> None:
    names = {value.number: value.name for value in schema.mil_module().DataType.DESCRIPTOR.values if value.number}
    short = {"BFLOAT16": "bf16", "FLOAT8E4M3FN": "fp8e4m3fn", "FLOAT8E5M2": "fp8e5m2"}
    assert {c: short.get(name, name.lower().replace("float", "fp")) for c, name in names.items()} == SPELLED


@pytest.mark.parametrize(
    ("code", "shape", "data", "expected"),
    [
        (FLOAT16, (2,), struct.pack("<2e", 1.5, -0.0), "tensor<fp16, [2]>([0x1.8p+0, -0x0p+0])"),
        (FLOAT32, (), struct.pack("<f", 2**-149), "fp32(0x1p-149)"),
        (FLOAT32, (3,), struct.pack("<3f", math.inf, -math.inf, math.nan), "tensor<fp32, [3]>([inf, -inf, nan])"),
        (12, (1,), struct.pack("<d", 0.1), "tensor<fp64, [1]>([0x1.999999999999ap-4])"),
        (13, (1,), b"\x40\xc0", "tensor<bf16, [1]>([-0x1.8p+1])"),
        (INT32, (2, 2), struct.pack("<4i", 1, -2, 3, 2**31 - 1), "tensor<int32, [2, 2]>([[1, -2], [3, 2147483647]])"),
        (34, (), struct.pack("<Q", 2**64 - 1), "uint64(18446744073709551615)"),
        (25, (3,), b"\x78\x0f", "tensor<int4, [3]>([-8, 7, -1])"),
        (39, (5,), b"\xf8\x1a", "tensor<uint3, [5]>([0, 7, 3, 5, 1])"),
        (BOOL, (2,), b"\x01\x00", "tensor<bool, [2]>([true, false])"),
        (INT32, (0,), b"", "tensor<int32, [0]>([])"),
        (INT32, (2, 0), b"", "tensor<int32, [2, 0]>([[]])"),
    ],
)  # fmt: skip
def test_packed_values(code: int, shape: tuple[int, ...], data: bytes, expected: str) -> None:
    spec = valued(lambda t: filled(t, code, *shape), lambda v: setattr(v.tensor.bytes, "values", data))
    assert written(spec) == expected


@pytest.mark.parametrize(
    ("code", "field", "values", "expected"),
    [
        (FLOAT32, "floats", [0.5, 3], "[0x1p-1, 0x1.8p+1]"),
        (FLOAT16, "floats", [0.5, 3], "[0x1p-1, 0x1.8p+1]"),
        (INT32, "ints", [-1, 7], "[-1, 7]"),
        (BOOL, "bools", [True, False], "[true, false]"),
        (STRING, "strings", ["a", "é\n\"\\\x08"], r'["a", "é\n\"\\\x08"]'),
    ],
)  # fmt: skip
def test_listed_values(code: int, field: str, values: list[Any], expected: str) -> None:
    spec = valued(lambda t: filled(t, code, 2), lambda v: getattr(v.tensor, field).values.extend(values))
    assert written(spec).endswith(f"({expected})")


def test_lists_tuples_dictionaries_and_states() -> None:
    def items(immediate: Any) -> None:
        for number in (3, 4):
            item = immediate.list.values.add()
            filled(item.type, INT32)
            item.immediateValue.tensor.ints.values.append(number)

    def listed(type_: Any) -> None:
        filled(type_.listType.type, INT32)
        type_.listType.length.constant.size = 2

    assert written(valued(listed, items)) == "list<int32, 2>([3, 4])"
    spec = model("CoreML8")
    inputs = spec.mlProgram.functions["main"].inputs
    filled(inputs.add(name="p").type.stateType.wrappedType, FLOAT16, 4)
    dictionary(inputs.add(name="q").type)
    filled(inputs.add(name="r").type.tupleType.types.add(), INT32, "...")
    header = next(line for line in program_text(spec).text.splitlines() if "func" in line)
    assert "state<tensor<fp16, [4]>> p, dict<string, fp32> q, tuple<tensor<int32, [...]>> r, " in header


@given(st.text(max_size=20))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_string_is_read_back(content: str) -> None:
    spec = valued(lambda t: filled(t, STRING), lambda v: v.tensor.strings.values.append(content))
    main = text.read(program_text(spec).text).message.functions["main"]
    const = main.block_specializations["CoreML8"].operations[-1]
    assert list(const.attributes["val"].immediateValue.tensor.strings.values) == [content]


@given(st.floats(allow_nan=False))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_float_is_exact(value: float) -> None:
    found = hexadecimal(value)
    assert struct.pack("<d", float.fromhex(found)) == struct.pack("<d", value)


def test_inputs_and_attributes_stand_in_alphabetical_order() -> None:
    spec = model("CoreML8")
    op = spec.mlProgram.functions["main"].block_specializations["CoreML8"].operations.add(type="many")
    for key in "hcfadgbe":
        op.inputs[key].arguments.add(name="x")
        string(op.attributes[key], key)
    named = ", ".join(f"{key} = x" for key in "abcdefgh")
    given = ", ".join(f'{key} = string("{key}")' for key in "abcdefgh")
    assert f" many({named})[{given}];" in program_text(spec).text


def test_an_op_without_a_result_and_one_with_blocks() -> None:
    spec = model("CoreML8")
    block = spec.mlProgram.functions["main"].block_specializations["CoreML8"]
    write = block.operations.add(type="write_state")
    write.inputs["input"].arguments.add(name="s")
    write.inputs["data"].arguments.add(name="y")
    loop = block.operations.add(type="while_loop")
    filled(loop.outputs.add(name="z").type, INT32)
    loop.inputs["loop_vars"].arguments.add(name="x")
    loop.inputs["loop_vars"].arguments.add(name="y")
    for _ in range(2):
        inner = loop.blocks.add()
        filled(inner.inputs.add(name="i").type, INT32)
        inner.outputs.append("i")
    found = program_text(spec).text
    assert "            write_state(data = y, input = s);\n" in found
    assert "int32 z = while_loop(loop_vars = (x, y)) block(int32 i) {\n        } -> (i) block(int32 i) {" in found
    assert len(text.read(found).message.functions["main"].block_specializations["CoreML8"].operations[-1].blocks) == 2


# ------------------------------------------------------------------ refusals


def edited(edit: Any) -> Any:
    spec = model()
    edit(spec.mlProgram.functions["main"])
    return spec


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (edited(lambda f: setattr(f, "opset", "CoreML99")), "no block for its opset 'CoreML99'"),
        (edited(lambda f: setattr(f.inputs[0].type.tensorType, "dataType", 99)), "KeyError: 99"),
        (valued(lambda t: filled(t, INT32, 2), lambda v: setattr(v.tensor.bytes, "values", b"abc")), "holds 3 bytes"),
        (valued(lambda t: filled(t, INT32, 2), lambda v: v.tensor.ints.values.append(1)), "holds 1 values"),
        (valued(dictionary), "expected a tensor, a list or a tuple"),
    ],
    ids=["opset", "dtype", "bytes", "values", "kind"],
)
def test_a_program_without_spelling_is_refused(spec: Any, reason: str) -> None:
    with pytest.raises(PackageError) as caught:
        text_form(spec, where="m.mlpackage")
    assert "the program cannot be written as text" in str(caught.value)
    assert "in m.mlpackage" in str(caught.value)
    assert reason in str(caught.value)


def test_a_dtype_that_cannot_be_read_is_refused() -> None:
    spec = valued(lambda t: filled(t, 40, 1), lambda v: setattr(v.tensor.bytes, "values", b"a"))
    with pytest.raises(UnsupportedOpError, match="float8"):
        text_form(spec, where="m.mlpackage")
