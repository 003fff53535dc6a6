"""Interfaces: dtypes from the program, ranges from the description."""

from __future__ import annotations

import numpy as np
import pytest

from layerdiff import mil, quiet
from layerdiff.errors import FeedError, PackageError
from layerdiff.mil.features import TensorSpec


def test_flexible_dimensions_are_printed_as_ranges(model):
    assert str(model.inputs["encoder"]) == "float32[1, 24, 1..9]"
    assert str(model.outputs["logits"]) == "float32[1, 0.., 0.., 13]"
    assert str(TensorSpec("x", "int32", (1, (2, None)))) == "int32[1, 2..]"


def test_which_shapes_are_accepted():
    spec = TensorSpec("x", "float32", (1, (2, 5), (1, None)))
    assert spec.accepts((1, 2, 1))
    assert spec.accepts((1, 5, 10**9))
    assert not spec.accepts((1, 6, 1))
    assert not spec.accepts((2, 2, 1))
    assert not spec.accepts((1, 2))
    assert spec.smallest == (1, 2, 1)


def converted(folder, shape, **keywords):
    """The loaded model of a small linear layer with one input of the given shape."""
    import torch

    with quiet.third_party():
        import coremltools as ct

        traced = torch.jit.trace(torch.nn.Linear(3, 2), torch.zeros(1, 3), check_trace=False)
        inputs = [ct.TensorType(name="x", shape=shape(ct), dtype=np.float32, **keywords)]
        target = ct.target.iOS17
        package = ct.convert(traced, inputs=inputs, minimum_deployment_target=target, skip_model_load=True)
        package.save(str(folder / "m.mlpackage"))
    return mil.load(folder / "m.mlpackage")


def test_enumerated_shapes_are_read_from_the_description(tmp_path):
    model = converted(tmp_path, lambda ct: ct.EnumeratedShapes(shapes=[[1, 3], [4, 3]], default=[1, 3]))
    assert model.inputs["x"].enumerated == ((1, 3), (4, 3))
    assert str(model.inputs["x"]) == "float32[1..4, 3]"
    with pytest.raises(FeedError, match="another shape"):
        model.predict({"x": np.zeros((2, 3), np.float32)})


def test_enumerated_shapes_of_different_rank_are_refused(edited):
    def mix(spec):
        shapes = spec.description.input[0].type.multiArrayType.enumeratedShapes.shapes
        shapes.add(shape=[1, 24, 7])
        shapes.add(shape=[24, 7])

    with pytest.raises(PackageError, match="differ in their number of axes") as raised:
        mil.load(edited(mix))
    assert "edited.mlpackage" in str(raised.value)


def test_an_optional_input_takes_its_default(tmp_path):
    model = converted(tmp_path, lambda ct: (1, 3), default_value=np.full((1, 3), 2.0, np.float32))
    assert model.inputs["x"].optional
    assert model.inputs["x"].default == 2.0
    (given,) = model.predict({"x": np.full((1, 3), 2.0, np.float32)}).values()
    (assumed,) = model.predict({}).values()
    np.testing.assert_array_equal(assumed, given)
