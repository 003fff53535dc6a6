"""What may be fed: the refusals say name, expected and given."""

from __future__ import annotations

import numpy as np
import pytest

from layerdiff import mil
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


def test_a_default_fills_the_described_shape_not_the_smallest():
    spec = TensorSpec("x", "int32", (1, (2, 9)), optional=True, default=3.0, described=(1, 7))
    np.testing.assert_array_equal(checked({}, {"x": spec}, ["x"], where="x")["x"], np.full((1, 7), 3, np.int32))


@pytest.mark.parametrize("shape", [(10**6, 10**6), ((10**12, None),), (2**62, 2**62)])
def test_a_default_of_an_absurd_size_is_refused_before_it_is_made(shape):
    spec = {"x": TensorSpec("x", "float32", shape, optional=True, default=0.0)}
    with pytest.raises(FeedError, match=r"'x' is not given, and filling it with 0 would take \d{13,} bytes"):
        checked({}, spec, ["x"], where="x.mlpackage")


def test_an_input_of_an_absurd_size_is_refused_like_any_other_shape():
    spec = {"x": TensorSpec("x", "float32", (10**6, 10**6))}
    with pytest.raises(FeedError, match="the input 'x' is missing"):
        checked({}, spec, ["x"], where="x")
    with pytest.raises(FeedError, match="another shape"):
        checked({"x": np.zeros((10, 10), np.float32)}, spec, ["x"], where="x")


def test_a_tensor_without_axes_may_be_given_as_one_element():
    spec = {"x": TensorSpec("x", "float32", ())}
    for value in (np.float32(2), 2.0, np.array([2.0])):
        assert checked({"x": value}, spec, ["x"], where="x")["x"].shape == ()
    with pytest.raises(FeedError, match="another shape"):
        checked({"x": np.zeros((1, 1))}, spec, ["x"], where="x")


@pytest.mark.parametrize(
    ("dtype", "value", "refused"),
    [
        ("int8", [-128, 127], [128]),
        ("uint8", [0, 255], [-1]),
        ("int32", [-(2**31), 2**31 - 1], [2**31]),
        ("float16", [65504.0, -0.5], [65536.0]),
        ("float64", [1e300, 0.0], None),
        ("bool", [True, False], [2]),
    ],
)
def test_every_dtype_that_a_multi_array_may_have(dtype, value, refused):
    spec = {"x": TensorSpec("x", dtype, ((1, 2),))}
    given = checked({"x": value}, spec, ["x"], where="x")["x"]
    assert given.dtype == dtype
    assert given.tolist() == value
    if refused is not None:
        with pytest.raises(FeedError, match="the input 'x'"):
            checked({"x": refused}, spec, ["x"], where="x")


def test_images_are_for_images_only():
    from PIL import Image

    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    spec = {"x": TensorSpec("x", "float32", (1, 1, 3, 4), kind="image", color="GRAYSCALE")}
    given = checked({"x": picture}, spec, ["x"], where="x")["x"]
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given, np.arange(12.0).reshape(1, 1, 3, 4))
    with pytest.raises(FeedError, match="'x' takes no image"):
        checked({"x": picture}, {"x": TensorSpec("x", "float32", (3, 4))}, ["x"], where="x")


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
    assert ("is not in allowed range" in message) == (len(shape) == 3)


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


# ------------------------------------------------------------------ programs


def module(function):
    import torch

    class Module(torch.nn.Module):
        def forward(self, *values):
            return function(*values)

    return Module()


def test_an_optional_input_of_flexible_shape_takes_its_default_in_the_described_shape(convert):
    import torch

    def inputs(ct):
        shape = ct.Shape((1, ct.RangeDim(2, 9, default=5)))
        default = np.full((1, 5), 2.5, np.float32)
        return [
            ct.TensorType(name="x", shape=(1, 1)),
            ct.TensorType(name="y", shape=shape, default_value=default),
        ]

    model = mil.load(convert(module(lambda x, y: x * y), torch.ones(1, 1), torch.ones(1, 5), inputs=inputs))
    assert (model.inputs["y"].optional, model.inputs["y"].default) == (True, 2.5)
    (assumed,) = model.predict({"x": np.full((1, 1), 2.0)}).values()
    np.testing.assert_array_equal(assumed, np.full((1, 5), 5.0))
    (given,) = model.predict({"x": np.full((1, 1), 2.0), "y": np.ones((1, 9))}).values()
    np.testing.assert_array_equal(given, np.full((1, 9), 2.0))
    with pytest.raises(FeedError, match="the input 'x' is missing"):
        model.predict({"y": np.ones((1, 9))})


def test_only_enumerated_shapes_are_fed(convert):
    import torch

    def inputs(ct):
        shapes = ct.EnumeratedShapes(shapes=[[1, 3], [4, 3], [6, 3]], default=[4, 3])
        return [ct.TensorType(name="x", shape=shapes)]

    model = mil.load(convert(module(lambda x: x.cumsum(0)), torch.zeros(1, 3), inputs=inputs))
    for rows in (1, 4, 6):
        (found,) = model.predict({"x": np.ones((rows, 3))}).values()
        np.testing.assert_array_equal(found, np.ones((rows, 3)).cumsum(0))
    with pytest.raises(FeedError, match=r"expected float32\[1..6, 3\], got float64\[2, 3\]; allowed shapes: \["):
        model.predict({"x": np.ones((2, 3))})


@pytest.mark.parametrize(
    ("dtype", "target", "value"),
    [("float16", "iOS17", [0.1, 65504]), ("int32", "iOS17", [-7, 2**30]), ("int8", "iOS26", [-100, 100])],
)
def test_dtypes_of_inputs_and_outputs(convert, dtype, target, value):
    import torch

    kinds = {"inputs": lambda ct: [ct.TensorType(name="x", shape=(2,), dtype=kind(ct))]}
    kinds["outputs"] = lambda ct: [ct.TensorType(name="y", dtype=kind(ct))]

    def kind(ct):
        return ct.converters.mil.mil.types.int8 if dtype == "int8" else np.dtype(dtype).type

    example = torch.zeros(2, dtype=torch.float32 if dtype == "float16" else torch.int32)
    options = {"minimum_deployment_target": target, "compute_precision": "FLOAT16"}
    model = mil.load(convert(module(lambda x: x.flip(0)), example, **kinds, **options))
    assert (model.inputs["x"].dtype, model.outputs["y"].dtype) == (dtype, dtype)
    found = model.predict({"x": np.array(value, dtype)})["y"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.array(value[::-1], dtype))


def test_a_model_without_its_optional_inputs_is_as_if_they_were_zero(edited, joint):
    def make_optional(spec):
        for feature in spec.description.input:
            feature.type.isOptional = feature.name == "decoder"

    model = mil.load(edited(make_optional))
    zeros = np.zeros((1, 20, 3), np.float32)  # 3 is the length that the joint was converted with
    expected = mil.load(joint.package).predict({"encoder": joint.feed["encoder"], "decoder": zeros})
    found = model.predict({"encoder": joint.feed["encoder"]})
    np.testing.assert_array_equal(found["logits"], expected["logits"])
