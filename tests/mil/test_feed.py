"""What may be fed: the refusals say name, expected and given."""

from __future__ import annotations

import numpy as np
import pytest

from layerdiff.errors import FeedError
from layerdiff.mil.features import TensorSpec
from layerdiff.mil.feed import checked, checked_injection
from layerdiff.mil.program import TensorType

SPECS = {
    "encoder": TensorSpec("encoder", "float32", (1, 4, (1, 9))),
    "length": TensorSpec("length", "int32", (1,)),
    "half": TensorSpec("half", "float16", (2,), optional=True, default=0.5),
}
GOOD = {"encoder": np.zeros((1, 4, 3), np.float32), "length": np.array([3], np.int32), "half": np.ones(2, np.float16)}


def check(**changes):
    feed = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return checked(feed, SPECS, SPECS, where="x.mlpackage, function 'main'")


def refusal(**changes) -> str:
    with pytest.raises(FeedError) as raised:
        check(**changes)
    return str(raised.value)


def test_what_matches_passes_without_a_copy():
    assert all(np.shares_memory(value, GOOD[name]) for name, value in check().items())


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"encoder": np.ones((1, 4, 3))}, np.float32),
        ({"encoder": np.ones((1, 4, 3), np.float16)}, np.float32),
        ({"length": np.array([7])}, np.int32),
        ({"length": [7]}, np.int32),
        ({"length": np.array([7], np.uint8)}, np.int32),
        ({"half": np.array([1.0, np.inf])}, np.float16),
        ({"half": np.array([1.0, np.nan], np.float32)}, np.float16),
    ],
)
def test_another_width_of_the_same_kind_is_converted(changes, dtype):
    (name, value), result = next(iter(changes.items())), check(**changes)
    assert result[name].dtype == dtype
    np.testing.assert_array_equal(result[name], np.asarray(value, dtype))


def test_a_missing_optional_input_takes_its_default():
    np.testing.assert_array_equal(check(half=None)["half"], np.full(2, 0.5, np.float16))


def test_a_missing_input():
    assert "the input 'encoder' is missing" in refusal(encoder=None)
    assert "expected float32[1, 4, 1..9]" in refusal(encoder=None)


def test_an_unknown_input_suggests_the_nearest():
    assert "no input 'enkoder'" in refusal(enkoder=GOOD["encoder"])
    assert "did you mean 'encoder'?" in refusal(enkoder=GOOD["encoder"])


@pytest.mark.parametrize("shape", [(1, 4, 0), (1, 4, 10), (1, 5, 3), (4, 3), (1, 1, 4, 3), ()])
def test_another_shape(shape):
    message = refusal(encoder=np.zeros(shape, np.float32))
    assert f"expected float32[1, 4, 1..9], got float32{list(shape)}" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encoder", np.zeros((1, 4, 3), np.int32)),
        ("encoder", np.zeros((1, 4, 3), np.complex64)),
        ("length", np.array([3.0], np.float32)),
        ("length", np.array([True])),
        ("encoder", "text"),
        ("encoder", None),
    ],
)
def test_another_kind_of_dtype(name, value):
    with pytest.raises(FeedError, match=f"'{name}' is not of a"):
        checked(GOOD | {name: value}, SPECS, SPECS, where="x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", np.array([2**31])),
        ("length", np.array([-(2**31) - 1])),
        ("length", np.array([2**32 - 1], np.uint32)),
        ("encoder", np.full((1, 4, 3), 1e39)),
        ("half", np.array([1.0, 1e5], np.float32)),
    ],
)
def test_values_that_do_not_fit(name, value):
    assert "holds values that do not fit" in refusal(**{name: value})


def test_enumerated_shapes_are_the_only_ones():
    spec = {"x": TensorSpec("x", "float32", ((1, 3), 2), enumerated=((1, 2), (3, 2)))}
    assert checked({"x": np.zeros((3, 2), np.float32)}, spec, spec, where="x")["x"].shape == (3, 2)
    with pytest.raises(FeedError, match=r"allowed shapes: \[1, 2\], \[3, 2\]"):
        checked({"x": np.zeros((2, 2), np.float32)}, spec, spec, where="x")


def test_what_numpy_makes_no_array_of():
    import torch

    assert "what is given for 'length' is no array" in refusal(length=[[1], [1, 2]])
    assert "got Tensor" in refusal(encoder=torch.zeros(1, 4, 3, requires_grad=True))
    with pytest.raises(FeedError, match="what is given for 't' is no array"):
        checked_injection("t", [[1.0], [1.0, 2.0]], TensorType("float32", (2,)), where="x")


def test_given_integers_must_fit():
    declared = TensorType("int32", (2,))
    assert checked_injection("t", np.array([1, -(2**31)]), declared, where="x").tolist() == [1, -(2**31)]
    with pytest.raises(FeedError, match=r"tensor 't' does not fit"):
        checked_injection("t", np.array([1, 2**31]), declared, where="x")


def test_given_inner_tensors_may_be_of_another_byte_order():
    value = checked_injection("t", np.ones(2, ">f4"), TensorType("float32", (2,)), where="x")
    assert value.dtype.isnative
    assert value.tolist() == [1, 1]


def test_given_inner_tensors_may_be_of_any_width_but_not_of_another_kind_or_shape():
    declared = TensorType("float16", (1, None))
    assert checked_injection("t", np.full((1, 5), 1e6), declared, where="x").dtype == np.float64
    for value in (np.zeros((1, 5), np.int32), np.zeros((2, 5)), np.zeros(5)):
        with pytest.raises(FeedError, match=r"tensor 't' does not fit") as raised:
            checked_injection("t", value, declared, where="x")
        assert "expected float16[1, ?]" in str(raised.value)
