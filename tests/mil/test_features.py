"""Interfaces: dtypes from the program, ranges from the description."""

from __future__ import annotations

import numpy as np
import pytest

from layerdiff.errors import PackageError
from layerdiff.mil import schema
from layerdiff.mil.features import TensorSpec, interfaces
from layerdiff.mil.package import open_package
from layerdiff.mil.program import Block, Function, Named, Program, TensorType


def interface(package):
    opened = open_package(package)
    return opened.interfaces[opened.default_function]


def described(change, type_):
    """The spec of an input `x` of a program whose description went through `change`."""
    description = schema.model_module().Model().description
    change(description.input.add(name="x").type)
    function = Function("main", "CoreML7", (Named("x", type_),), Block((), (), (), {}))
    return interfaces(description, Program({"main": function}))["main"].inputs["x"]


# ------------------------------------------------------------------ records


def test_flexible_dimensions_are_printed_as_ranges(joint):
    taken = interface(joint.package)
    assert str(taken.inputs["encoder"]) == "float32[1, 24, 1..9]"
    assert str(taken.outputs["logits"]) == "float32[1, 0.., 0.., 13]"
    assert str(TensorSpec("x", "int32", (1, (2, None)))) == "int32[1, 2..]"
    assert str(TensorSpec("x", "float32", (1, 3, 4, 5), kind="image", color="BGR")) == "BGR image float32[1, 3, 4, 5]"
    assert str(TensorSpec("x", "str", (), kind="dictionary")) == "dictionary<str>"


def test_which_shapes_are_accepted():
    spec = TensorSpec("x", "float32", (1, (2, 5), (1, None)))
    assert spec.accepts((1, 2, 1))
    assert spec.accepts((1, 5, 10**9))
    assert not spec.accepts((1, 6, 1))
    assert not spec.accepts((2, 2, 1))
    assert not spec.accepts((1, 2))
    assert spec.smallest == (1, 2, 1)


def test_why_a_shape_is_not_accepted_is_told_as_core_ml_does():
    spec = TensorSpec("x", "float32", (1, (3, 5), (2, None)))
    assert spec.misfit((1, 3, 2)) == ""
    assert spec.misfit((1, 99, 1)) == "Size (99) of dimension (1) is not in allowed range (3..5)"
    assert spec.misfit((1, 3, 1)) == "Size (1) of dimension (2) is not in allowed range (2..)"
    assert spec.misfit((2, 3, 2)) == "Size (2) of dimension (0) is not in allowed range (1..1)"
    assert spec.misfit((1, 3)) == ""
    assert TensorSpec("x", "float32", (1, 3)).misfit((1, 4)) == ""
    listed = TensorSpec("x", "float32", (1, (3, 5)), enumerated=((1, 3), (1, 5)))
    assert listed.misfit((1, 4)) == "MultiArray Shape (1 x 4) was not in enumerated set of allowed shapes"


def test_the_default_shape_is_the_described_one_if_it_is_allowed():
    shape = (1, (2, 9))
    assert TensorSpec("x", "float32", shape, described=(1, 7)).default_shape == (1, 7)
    assert TensorSpec("x", "float32", shape, described=(1, 99)).default_shape == (1, 2)
    assert TensorSpec("x", "float32", shape).default_shape == (1, 2)
    assert TensorSpec("x", "float32", shape, enumerated=((1, 5), (1, 2))).default_shape == (1, 5)


# ------------------------------------------------------------------ shapes of inputs


@pytest.fixture(scope="module")
def enumerated(convert):
    import torch

    def inputs(ct):
        shapes = ct.EnumeratedShapes(shapes=[[1, 3], [4, 3], [6, 3]], default=[4, 3])
        return [ct.TensorType(name="x", shape=shapes, dtype=np.float32)]

    return convert(torch.nn.Linear(3, 2), torch.zeros(1, 3), inputs=inputs)


def test_enumerated_shapes_are_read_from_the_description(enumerated):
    spec = interface(enumerated).inputs["x"]
    assert sorted(spec.enumerated) == [(1, 3), (4, 3), (6, 3)]
    assert str(spec) == "float32[1..6, 3]"
    assert spec.default_shape == (4, 3)
    assert spec.accepts((6, 3))
    assert not spec.accepts((2, 3))


def test_of_enumerated_shapes_of_several_ranks_those_of_the_programs_rank_are_allowed():
    def change(feature):
        for shape in ([3, 4], [1, 3, 4], [5, 6], [2]):
            feature.multiArrayType.enumeratedShapes.shapes.add(shape=shape)

    spec = described(change, TensorType("float32", (None, None)))
    assert spec.enumerated == ((3, 4), (5, 6))
    assert spec.shape == ((3, 5), (4, 6))
    anyhow = described(change, TensorType("float32", None))
    assert all(anyhow.accepts(shape) for shape in ([3, 4], [1, 3, 4], [5, 6], [2]))
    assert not anyhow.accepts([3, 6])


def test_a_range_without_upper_bound():
    def change(feature):
        feature.multiArrayType.shapeRange.sizeRanges.add(lowerBound=2, upperBound=-1)
        feature.multiArrayType.shapeRange.sizeRanges.add(lowerBound=4, upperBound=4)

    spec = described(change, TensorType("float32", (None, None)))
    assert str(spec) == "float32[2.., 4]"
    assert spec.accepts((10**12, 4))
    assert not spec.accepts((1, 4))


def test_a_described_shape_without_ranges_is_the_only_one():
    def change(feature):
        feature.multiArrayType.shape.extend([3, 4])

    assert str(described(change, TensorType("float32", (None, 4)))) == "float32[3, 4]"
    assert str(described(lambda feature: None, TensorType("float32", (None, 4)))) == "float32[0.., 4]"


@pytest.mark.parametrize(
    ("field", "given", "expected"),
    [("floatDefaultValue", 2.5, 2.5), ("intDefaultValue", -3, -3.0), ("doubleDefaultValue", 0.0, 0.0), (None, 0, 0.0)],
)
def test_the_default_of_an_optional_input_is_zero_unless_described(field, given, expected):
    def change(feature):
        feature.isOptional = True
        feature.multiArrayType.shape.append(2)
        if field:
            setattr(feature.multiArrayType, field, given)

    spec = described(change, TensorType("float32", (2,)))
    assert (spec.optional, spec.default) == (True, expected)


def test_a_required_input_has_no_default():
    spec = described(lambda feature: feature.multiArrayType.shape.append(2), TensorType("float32", (2,)))
    assert (spec.optional, spec.default) == (False, None)


# ------------------------------------------------------------------ images


def test_sizes_of_an_image_may_be_ranges_or_enumerated():
    def ranged(feature):
        image = feature.imageType
        image.colorSpace, image.height, image.width = 20, 6, 8
        image.imageSizeRange.heightRange.lowerBound, image.imageSizeRange.heightRange.upperBound = 5, 10
        image.imageSizeRange.widthRange.lowerBound, image.imageSizeRange.widthRange.upperBound = 8, -1

    spec = described(ranged, TensorType("float32", (1, 3, None, None)))
    assert (str(spec), spec.kind) == ("RGB image float32[1, 3, 5..10, 8..]", "image")
    assert spec.default_shape == (1, 3, 6, 8)

    def listed(feature):
        feature.imageType.colorSpace = 10
        for height, width in ((4, 5), (6, 7)):
            feature.imageType.enumeratedSizes.sizes.add(height=height, width=width)

    spec = described(listed, TensorType("uint8", (1, None, None)))
    assert spec.enumerated == ((1, 4, 5), (1, 6, 7))
    assert (str(spec), spec.default_shape) == ("GRAYSCALE image uint8[1, 4..6, 5..7]", (1, 4, 5))


def test_the_program_decides_over_the_size_that_an_image_is_described_with():
    def change(feature):
        feature.imageType.colorSpace, feature.imageType.height, feature.imageType.width = 40, 99, 99

    spec = described(change, TensorType("float16", (1, 1, 2, 3)))
    assert spec.shape == (1, 1, 2, 3)
    assert spec.color == "GRAYSCALE_FLOAT16"
    assert spec.default_shape == (1, 1, 2, 3)


@pytest.mark.parametrize(
    ("color_space", "shape"),
    [(0, (1, 3, 4, 5)), (20, (1, 1, 4, 5)), (10, (3, 4, 5)), (20, (1, 24, None)), (10, (4, 5))],
)
def test_an_image_that_is_no_image_in_the_program(color_space, shape):
    def change(feature):
        feature.imageType.colorSpace, feature.imageType.height, feature.imageType.width = color_space, 4, 5

    with pytest.raises(PackageError, match="'x' is described as an image, and it is a tensor of another form"):
        described(change, TensorType("float32", shape))


# ------------------------------------------------------------------ states and classifiers


def test_states_are_no_inputs():
    taken = (Named("x", TensorType("float32", (3,))), Named("kept", TensorType("float16", (3,), "state")))
    program = Program({"main": Function("main", "CoreML8", taken, Block((), (), (), {}))})
    found = interfaces(schema.model_module().Model().description, program)["main"]
    assert list(found.inputs) == ["x"]
    assert {n: (s.kind, s.dtype, s.shape) for n, s in found.states.items()} == {"kept": ("state", "float16", (3,))}


@pytest.mark.parametrize(("labels", "dtype"), [(["a", "b"], "str"), ([3, 5], "int64")])
def test_a_classifier_returns_a_label_and_a_dictionary(convert, labels, dtype):
    import torch

    package = convert(
        torch.nn.Softmax(-1),
        torch.zeros(1, 2),
        inputs=lambda ct: [ct.TensorType(name="x", shape=(1, 2))],
        classifier_config=lambda ct: ct.ClassifierConfig(labels),
    )
    outputs = interface(package).outputs
    assert {name: (spec.kind, spec.dtype) for name, spec in outputs.items()} == {
        "classLabel": ("label", dtype),
        "classLabel_probs": ("dictionary", dtype),
    }
