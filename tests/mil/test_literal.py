"""The values of `model.mil`: every number to the bit, every string to the character."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.binding.model_mil import hexadecimal
from layerdiff.errors import UnsupportedOpError
from layerdiff.mil import text


def constant(value):
    """What a constant with this value and type is read as."""
    type_ = value.partition("(")[0]
    content = f"program(1.0) {{ func main<ios17>(fp32 x) {{ {type_} c = const()[val = {value}]; }} -> (x); }}"
    return text.parse(content, {}).functions["main"].block.constants["c"].array()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("tensor<int32, [3]>([1, -2, 2147483647])", np.int32([1, -2, 2**31 - 1])),
        ("tensor<uint64, []>(18446744073709551615)", np.uint64(2**64 - 1)),
        ("tensor<bool, [2]>([true, false])", np.array([True, False])),
        ("bool(true)", np.array(True)),
        ("fp16(0x1p-24)", np.float16(2**-24)),
        ("fp32(0.5)", np.float32(0.5)),
        ("fp32(1e-5)", np.float32(1e-5)),
        ("fp32(-inf)", np.float32(-np.inf)),
        ("fp64(0x1.999999999999ap-4)", np.float64(0.1)),
        ("bf16(-0x1.8p+1)", np.float32(-3)),
        ("int8(-128)", np.int8(-128)),
        ("tensor<int4, [3]>([-8, 7, -1])", np.int8([-8, 7, -1])),
        ("tensor<uint3, [5]>([0, 7, 3, 5, 1])", np.uint8([0, 7, 3, 5, 1])),
        ("tensor<uint6, [1, 2]>([[63, 1]])", np.uint8([[63, 1]])),
        ("tensor<fp32, [0]>([])", np.zeros(0, np.float32)),
        ("tensor<fp32, [2, 0]>([[], []])", np.zeros((2, 0), np.float32)),
        ("tensor<int32, [2, 1, 2]>([[[1, 2]], [[3, 4]]])", np.int32([[[1, 2]], [[3, 4]]])),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_numbers(value, expected):
    found = constant(value)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


def test_nan():
    assert np.isnan(constant("fp32(nan)"))
    assert np.isnan(constant("tensor<fp16, [1]>([-nan])")).all()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (r'string("a\"b\\c\n\x41\u00e9; ] -> )")', 'a"b\\c\nAé; ] -> )'),
        ('tensor<string, []>("")', ""),
        ('tensor<string, [2]>(["a, [b]", "c"])', ["a, [b]", "c"]),
        ('list<tensor<string, []>, 2>(["x", "y"])', ("x", "y")),
        ("list<tensor<int32, [2]>, ?>([[1, 2], [3, 4]])", (np.int32([1, 2]), np.int32([3, 4]))),
        ('tuple<string, int32>(("x", 3))', ("x", np.int32(3))),
    ],
)
def test_strings_lists_and_tuples(value, expected):
    found = constant(value)
    assert str(found if isinstance(found, str | tuple) else found.tolist()) == str(expected).replace(
        "np.int32(3)", "array(3, dtype=int32)"
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(width=16), min_size=1, max_size=6), st.sampled_from(["fp16", "fp32", "fp64"]))
def test_every_float_is_read_to_the_bit(values, word):
    dtype = {"fp16": np.float16, "fp32": np.float32, "fp64": np.float64}[word]
    found = constant(f"tensor<{word}, [{len(values)}]>([{', '.join(map(hexadecimal, values))}])")
    np.testing.assert_array_equal(found, np.array(values, dtype), strict=True)
    finite = np.isfinite(found)
    np.testing.assert_array_equal(np.signbit(found[finite]), np.signbit(np.array(values)[finite]))


def test_a_dtype_without_values_is_unsupported():
    with pytest.raises(UnsupportedOpError, match="constants of dtype 'float8_e4m3fn' cannot be read"):
        constant("fp8e4m3fn(0x1p+0)")
