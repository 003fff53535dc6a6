"""Reading `model.mil`: every form that shipped models have, and one message for every way to be damaged."""

from __future__ import annotations

import math
import time
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff import mil
from layerdiff.errors import LayerdiffError, PackageError
from layerdiff.mil import text
from layerdiff.mil.program import TensorType

LEGACY = '[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-version", "3500.32.1"}, {"v", ""}})]'
BARE = '[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3600.16.1"}, {"coremlc-version", "1"}})]'


class Files:
    """Weight files that hold whatever is asked for."""

    def __getitem__(self, name):
        self.name = name
        return self

    def check(self, offset, dtype, shape):
        self.asked = offset, dtype, shape


def program(body, *, version="1.0", info=LEGACY, files=None):
    return text.parse(f"program({version})\n{info}\n{{\n{body}\n}}", files or Files())


def main(statements, inputs="tensor<fp32, [2]> x", outputs="x", **options):
    """The function `main` with these statements."""
    return program(f"func main<ios17>({inputs}) {{ {statements} }} -> ({outputs});", **options).functions["main"]


def refusal(content) -> str:
    with pytest.raises(PackageError) as raised:
        text.parse(content, Files())
    return str(raised.value)


# ------------------------------------------------------------------ programs as compilers write them

ORDINARY = """program(1.0)
[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-component-MIL", "3500.14.1"}})]
{
    func main<ios17>(tensor<fp32, [1, 3]> h_in, tensor<int32, [1, 1]> targets) {
            tensor<int32, []> y_axis_0 = const()[name = tensor<string, []>("y_axis_0"), val = tensor<int32, []>(0)];
            tensor<bool, []> y_check_0 = const()[name = tensor<string, []>("y_check_0"), val = tensor<bool, []>(false)];
            tensor<fp32, [2, 3]> table = const()[name = tensor<string, []>("table"), val = tensor<fp32, [2, 3]>\
([[0x1p+0, -0x1.8p-1, 0x0p+0], [0x1p-149, inf, -0x1p+1]])];
            tensor<fp32, [1, 1, 3]> y = gather(axis = y_axis_0, indices = targets, validate_indices = y_check_0, \
x = table)[name = tensor<string, []>("y_cast")];
            tensor<fp32, [1, 3]> a, tensor<fp32, [1, 3]> b = split(axis = y_axis_0, num_splits = two, x = y)\
[name = tensor<string, []>("parts")];
            tensor<bool, []> sum_interleave_0 = const()[val = tensor<bool, []>(false)];
            tensor<fp32, [2, 3]> sum = concat(axis = y_axis_0, interleave = sum_interleave_0, values = (a, b, h_in))\
[name = tensor<string, []>("sum")];
        } -> (sum, b);
}"""


def test_a_program_for_ios17():
    function = text.parse(ORDINARY, Files()).functions["main"]
    assert function.opset == "CoreML7"
    assert [f"{i.name}: {i.type}" for i in function.inputs] == ["h_in: float32[1, 3]", "targets: int32[1, 1]"]
    assert function.block.outputs == ("sum", "b")
    gather, split, concat = function
    assert (gather.type, gather.name) == ("gather", "y_cast")
    assert gather.inputs == {
        "axis": ("y_axis_0",),
        "indices": ("targets",),
        "validate_indices": ("y_check_0",),
        "x": ("table",),
    }
    assert [(o.name, str(o.type)) for o in split.outputs] == [("a", "float32[1, 3]"), ("b", "float32[1, 3]")]
    assert concat.inputs["values"] == ("a", "b", "h_in")
    table = function.block.constants["table"].array()
    expected = np.float32([[1, -0.75, 0], [2**-149, math.inf, -2]])
    assert table.dtype == np.float32
    assert table.tobytes() == expected.tobytes()


def test_a_program_for_ios18_with_a_state():
    function = program(
        """
    func main<ios18>(state<tensor<fp16, [1, 8]>> cache, tensor<fp16, [1, 8]> x) {
            tensor<fp16, [1, 8]> old = read_state(input = cache)[name = string("old")];
            fp16 half = const()[name = string("half"), val = fp16(0x1p-1)];
            tensor<fp16, [1, 8]> new = add(x = old, y = tensor<fp16, [1]>([-0x1p+0]))[name = string("new")];
            write_state(data = new, input = cache)[name = string("write")];
            string to = const()[name = string("to"), val = string("fp32")];
            tensor<fp32, [1, 8]> y = cast(dtype = to, x = new)[name = string("y")];
            tensor<int32, [1, 8]> z = cast(dtype = string("int32"), x = new);
        } -> (y, z);""",
        version="1.3",
        info=BARE,
    ).functions["main"]
    assert function.opset == "CoreML8"
    assert str(function.inputs[0].type) == "state<float16[1, 8]>"
    read, add, write, cast, inline = function
    assert (read.inputs, write.outputs) == ({"input": ("cache",)}, ())
    assert write.inputs == {"data": ("new",), "input": ("cache",)}
    assert function.block.constants["half"].array() == np.float16(0.5)
    assert add.inputs["y"][0].array().tolist() == [-1]
    assert function.block.constants["to"].array() == "fp32"
    assert inline.inputs["dtype"][0].array() == "int32"
    assert inline.name == "z"
    assert cast.name == "y"


def test_compressed_weights_have_their_parameters_in_brackets_or_as_inputs():
    blob = 'BLOBFILE(path = tensor<string, []>("@model_path/weights/weight.bin"), offset = tensor<uint64, []>(64))'
    constants = main(
        f"""tensor<fp16, [4]> a = constexpr_affine_dequantize()[axis = tensor<int32, []>(0), name = tensor<string, []>
        ("a"), quantized_data = tensor<int8, [4]>({blob}), scale = tensor<fp16, []>(0x1p-1), zero_point = int8(-1)];
        tensor<fp16, [4]> b = constexpr_blockwise_shift_scale(data = tensor<int4, [4]>({blob}), scale =
        tensor<fp16, [1]>([0x1p-1]))[name = string("b")];"""
    ).block.constants
    assert set(constants["a"].decompressed_by.inputs) == {"axis", "quantized_data", "scale", "zero_point"}
    assert constants["a"].decompressed_by.inputs["zero_point"][0].array() == -1
    assert str(constants["b"].decompressed_by.inputs["data"][0].type) == "int4[4]"


def test_a_constant_in_a_weight_file():
    files = Files()
    main(
        'tensor<fp16, [2, 3]> w = const()[val = tensor<fp16, [2, 3]>(BLOBFILE(path = string("@model_path/a/b.bin"), '
        "offset = uint64(1314688)))];",
        files=files,
    )
    assert files.name == "@model_path/a/b.bin"
    assert files.asked == (1314688, "float16", (2, 3))


def test_several_functions():
    functions = program(
        "func first<ios18>(tensor<fp32, [?]> x) { } -> (x); func second<ios16>(int32 n) { } -> (n)"
    ).functions
    assert functions["first"].inputs[0].type == TensorType("float32", (None,))
    assert functions["second"].inputs[0].type == TensorType("int32", ())
    assert functions["second"].opset == "CoreML6"


@pytest.mark.parametrize(
    ("name", "opset"), [("ios15", "CoreML5"), ("ios16", "CoreML6"), ("ios17", "CoreML7"), ("ios18", "CoreML8")]
)
def test_opsets(name, opset):
    assert program(f"func f<{name}>(fp32 x) {{ }} -> (x);").functions["f"].opset == opset


def test_nested_blocks_are_written_like_functions():
    loop, branch = main(
        """
        int32 i, tensor<fp32, [2]> y = while_loop(loop_vars = (zero, x))[name = string("loop")]
            condition(int32 i_1, tensor<fp32, [2]> y_1) {
                bool goes_on = less(x = i_1, y = int32(3));
            } -> (goes_on)
            body(int32 i_2, tensor<fp32, [2]> y_2) {
                int32 next = add(x = i_2, y = int32(1));
            } -> (next, y_2);
        tensor<fp32, [2]> z = cond(pred = p) { } -> (x) { } -> (y);
        """
    )
    assert [[i.name for i in b.inputs] for b in loop.blocks] == [["i_1", "y_1"], ["i_2", "y_2"]]
    assert [b.outputs for b in (*loop.blocks, *branch.blocks)] == [("goes_on",), ("next", "y_2"), ("x",), ("y",)]
    assert loop.blocks[1].ops[0].type == "add"


def test_comments_and_any_spacing_are_read():
    function = main('// nothing\n tensor < fp32 ,[ 2 ] >y=relu ( x=x )[ name=string( "y" ) ] ; // end\n')
    assert (function.block.ops[0].type, function.block.ops[0].name) == ("relu", "y")


def test_a_tensor_may_be_called_like_a_type():
    function = main("tensor<fp32, [2]> string = relu(x = x); tensor<fp32, [2]> y = add(x = string, y = string);")
    assert function.block.ops[1].inputs == {"x": ("string",), "y": ("string",)}


def test_flexible_shapes_of_functions():
    ranged = text.read(
        """program(1.0)[buildInfo = dict<string, string>({})]{
        func main<ios17>(tensor<int32, [1]> n, tensor<fp32, [1, ?]> x) [FlexibleShapeInformation = tuple<tuple<tensor<
        string, []>, dict<tensor<string, []>, tensor<int32, [?]>>>, tuple<tensor<string, []>, dict<tensor<string, []>,
        list<tensor<int32, [2]>, ?>>>>((("DefaultShapes", {{"x", [1, 1]}}), ("RangeDims", {{"x", [[1, 1], [1, 9]]}})))]
        { } -> (x);
        func other<ios17>(tensor<fp32, [?]> x)
        [FlexibleShapeInformation = tuple<tuple<string, dict<string, tensor<int32,
        [?]>>>, tuple<string, dict<string, dict<string, tensor<int32, [?]>>>>>((("DefaultShapes", {{"x", [4]}}),
        ("EnumeratedShapes", {{"543d0f94", {{"x", [1]}}}, {"697b758f", {{"x", [2]}}}})))] { } -> (x);
        func fixed<ios17>(fp32 x) [FlexibleShapeInformation = tuple<tuple<tensor<string, []>>>()] { } -> (x);}"""
    ).attributes
    assert text.flexible_shapes(ranged["main"]) == {"x": ("shapeRange", [[1, 1], [1, 9]])}
    assert text.flexible_shapes(ranged["other"]) == {"x": ("enumeratedShapes", [[1], [2]])}
    assert text.flexible_shapes(ranged["fixed"]) == {}


# ------------------------------------------------------------------ damage

FUNCTION = "func main<ios17>(tensor<fp32, [2]> x) {{ {} }} -> (x);"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("tensor<fp32, [2]> y = relu(x = x)", "expected ';', got '} -> (x);"),
        ("tensor<fp32, [2] y = relu(x = x);", "expected a data type and a shape"),
        ("tensor<fp31, [2]> y = relu(x = x);", "expected a data type (bool, string, fp16"),
        ("tensor<fp32, [2x]> y = relu(x = x);", "expected a data type and a shape"),
        ("tensor<fp32, [2 2]> y = relu(x = x);", "expected a length or '?' for every axis"),
        ("tensor<fp32, [-1]> y = relu(x = x);", "expected a data type and a shape"),
        ("tensor<fp32, [99999999999999999999]> y = relu(x = x);", "expected a length"),
        (f"tensor<fp32, [{'1, ' * 40}1]> y = relu(x = x);", "expected at most 32 axes"),
        ("tensor<fp32, [2]> y = relu(x = x, x = x);", "expected each input once"),
        ("tensor<fp32, [2]> y relu(x = x);", "expected '=', got 'relu"),
        ("int32 c = const()[val = int32(1.5)];", "expected int32 numbers, got '1.5"),
        ("int8 c = const()[val = int8(128)];", "expected int8 numbers"),
        ("uint4 c = const()[val = uint4(16)];", "expected uint4 numbers"),
        ("bool c = const()[val = bool(maybe)];", "expected bool numbers"),
        ("fp32 c = const()[val = fp32(0x1p+99999)];", "expected float32 numbers"),
        ("fp32 c = const()[val = fp32(one)];", "expected float32 numbers"),
        ("tensor<fp32, [2]> c = const()[val = tensor<fp32, [2]>([1])];", "expected 2 values for the shape [2]"),
        ("tensor<fp32, [4]> c = const()[val = tensor<fp32, [4]>([[1, 2], [3, 4]])];", "expected brackets that nest"),
        ("tensor<fp32, [?]> c = const()[val = tensor<fp32, [?]>([1])];", "expected a value of a type without '?'"),
        ("fp32 c = const()[val = fp32([1);", "expected ']'"),
        ('string c = const()[val = string("a)];', "expected a string"),
        ('string c = const()[val = string("\\ud800")];', "expected text"),
        ("int32 c = const()[val = int32(BLOBFILE(offset = uint64(1)))];", "expected a path and an offset"),
        (
            'int32 c = const()[val = int32(BLOBFILE(path = string("x"), offset = string("1")))];',
            "one number as the off",
        ),
        ("dict<string, int32> c = const()[val = dict<string, int32>({})];", "expected a tensor, a list or a tuple"),
    ],
)
def test_damaged_statements(statement, expected):
    message = refusal(f"program(1.0){LEGACY}{{\n{FUNCTION.format(statement)}\n}}")
    assert expected in message
    assert "damaged at line 2, column " in message or expected == "expected ']'"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "expected 'program', with which every model.mil begins, got the end of the text"),
        ("{}", "expected 'program'"),
        ("program(1.0)", "expected '{', got the end of the text"),
        ("program(1.0) { fun", "expected 'func' or '}', got 'fun'"),
        ("program(1.0) { func main<ios99>() { } -> (); }", "expected an opset (ios15, ios16"),
        ("program(1.0) { func f<ios17>() { } -> (); func f<ios17>() { } -> (); }", "expected another name"),
        ("program(1.0) { func f<ios17>() { } -> (); } }", "expected the end of the text, got '}'"),
        ("program(1.0) [a = int32(x)] { }", "expected a value"),
        ('program(1.0) [a = string("x"] { }', "expected ')'"),
        ("program(1.0) { func f<ios17>() { } (); }", "expected '->'"),
    ],
)
def test_damaged_programs(content, expected):
    assert expected in refusal(content)


def test_line_and_column_count_from_one():
    assert "at line 3, column 5.\n  expected 'func'" in refusal("program(1.0)\n{\n    x\n}")


@pytest.mark.parametrize(
    "content",
    [
        "(" * 100_000,
        "program(1.0)[a = tuple<string>(" + "(" * 100_000,
        "program(1.0)[a = " + "tuple<" * 100_000,
        "program(1.0)[a = " + "list<" * 100_000,
        f"program(1.0){{{FUNCTION.format('fp32 c = const()[val = fp32(' + '[' * 100_000)}",
        f"program(1.0){{{FUNCTION.format('int32 y = cond() {' * 1000)}",
        f"program(1.0){{{FUNCTION.format('int32 c = const()[val = int32(' + 'BLOBFILE(path = string(' * 10_000)}",
        f"program(1.0){{{FUNCTION.format('list<fp32, 1> c = const()[val = list<fp32, 1>(' + '[' * 10_000)}",
        "program(1.0) //" + "/ \n//" * 100_000,
        "program(1.0)" + " " * 1_000_000 + "x",
    ],
    ids=range(10),
)
def test_deep_or_endless_text_is_refused_at_once(content):
    started = time.process_time()
    assert "damaged at line" in refusal(content)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("shape", ["1000000000000", "1000000, 1000000", "999999999999999999, 999999999999999999, 0"])
def test_a_declared_size_allocates_nothing(shape):
    message = refusal(f"program(1.0){{{FUNCTION.format(f'int32 c = const()[val = tensor<fp32, [{shape}]>([1])];')}}}")
    assert "values for the shape" in message or "does not hold what its type says" in message


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_is_changed_the_text_is_read_or_refused(data):
    content = ORDINARY
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = start + data.draw(st.integers(0, 8))
        piece = data.draw(st.one_of(st.sampled_from([*'(){}[]<>=;,"?-', "tensor<", "0x", "1"]), st.text(max_size=3)))
        content = content[:start] + piece + content[end:]
    with suppress(LayerdiffError):
        text.parse(content, Files())


def test_a_large_program_is_read_within_a_second_or_so():
    lines = []
    for i in range(2000):
        lines.append(f'tensor<int32, [2]> a{i} = const()[name = string("a{i}"), val = tensor<int32, [2]>([{i}, -1])];')
        lines.append(f'tensor<fp16, [1, {i}]> y{i} = slice(axes = a{i}, x = x)[name = string("y{i}")];')
    row = ", ".join(["-0x1.f0a3d8p-1"] * 1000)
    lines.append(
        f"tensor<fp32, [100, 1000]> t = const()[val = tensor<fp32, [100, 1000]>([{', '.join([f'[{row}]'] * 100)}])];"
    )
    content = f"program(1.3){{{FUNCTION.format(chr(10).join(lines))}}}"
    text.read(ORDINARY)
    started = time.process_time()
    assert len(text.parse(content, Files()).functions["main"].block.ops) == 2000
    assert time.process_time() - started < 3


def test_a_written_program_runs(tmp_path):
    folder = tmp_path / "x.mlmodelc"
    folder.mkdir()
    (folder / "model.mil").write_text(
        f"""program(1.3)
{BARE}
{{
    func main<ios17>(tensor<fp32, [3, 2]> data, tensor<int32, [?, ?]> indices) [FlexibleShapeInformation = tuple<tuple<
    string, dict<string, tensor<int32, [?]>>>, tuple<string, dict<string, list<tensor<int32, [2]>, ?>>>>(((
    "DefaultShapes", {{{{"indices", [2, 4]}}}}), ("RangeDims", {{{{"indices", [[0, 2], [0, 4]]}}}})))] {{
            int32 size = const()[val = int32(3)];
            tensor<bool, [?, ?]> negative = less(x = indices, y = int32(0));
            tensor<int32, [?, ?]> one = cast(dtype = string("int32"), x = negative);
            tensor<int32, [?, ?]> shift = mul(x = one, y = size);
            tensor<int32, [?, ?]> wrapped = add(x = indices, y = shift);
            tensor<fp32, [?, ?, 2]> output = gather(axis = int32(0), indices = wrapped, validate_indices = bool(false),
                x = data);
        }} -> (output);
}}"""
    )
    model = mil.load(folder)
    assert model.inputs["indices"].shape == ((0, 2), (0, 4))
    data, indices = np.arange(6, dtype=np.float32).reshape(3, 2), np.int32([[0, -1, 2]])
    np.testing.assert_array_equal(model.predict({"data": data, "indices": indices})["output"], data[indices])
