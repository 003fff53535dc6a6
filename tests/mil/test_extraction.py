"""A part of a package gives what the whole one shows inside, and coremltools reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff import mil
from layerdiff.errors import FeedError
from layerdiff.mil.extraction import Part
from tests.mil.test_exposure import X, opened_by_coremltools


def bytes_of(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


def extracted_and_checked(package: Path, tensor: str, given: dict[str, Any], feed: Any, target: Path) -> Part:
    """The part for some tensors in front, whose values are those of the whole model on `feed`."""
    model = mil.load(package)
    expected = model.run(feed, [tensor])[tensor]
    part = mil.extract(package, tensor, given, target)
    other = mil.load(target)
    assert list(other.inputs) == list(part.feed)
    assert list(other.outputs) == [part.output]
    got = other.predict(part.feed)[part.output]
    assert got.shape == expected.shape
    # as an input a tensor lies in memory in one piece, so that a product may add up in another order
    rounding = np.finfo(expected.dtype).eps * np.abs(expected).max() if expected.dtype.kind == "f" else 0
    np.testing.assert_allclose(got.astype(expected.dtype), expected, rtol=0, atol=4 * rounding)
    program = opened_by_coremltools(target)
    assert [v.name for v in program.functions["main"].outputs] == [part.output]
    return part


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_tensor_behind_every_other(joints: Any, precision: str, tmp_path: Path) -> None:
    joint = joints[precision]
    model = mil.load(joint.package)
    names = [tensor.name for tensor in model.tensors]
    values = model.run(joint.feed, names)
    rng = np.random.default_rng(0)
    for number, tensor in enumerate(names):
        before = names[: names.index(tensor)]
        fronts = [str(name) for name in rng.permutation(before)[: int(rng.integers(0, 4))]]
        given = {**joint.feed, **{name: values[name] for name in fronts}}
        part = extracted_and_checked(joint.package, tensor, given, joint.feed, tmp_path / f"{number}.mlpackage")
        assert set(part.feed) <= {*given, *(f"{name}_as_{kind}" for name in fronts for kind in ("int32", "float32"))}


def test_only_the_weights_that_are_needed_are_copied(joints: Any, tmp_path: Path) -> None:
    joint = joints["float32"]
    model = mil.load(joint.package)
    last = next(tensor for tensor in reversed(list(model.tensors)) if tensor.op == "linear")
    before = next(t.name for t in model.tensors if t.op == "relu")
    values = model.run(joint.feed, [before])
    part = extracted_and_checked(joint.package, last.name, values, joint.feed, tmp_path / "part.mlpackage")
    assert part.ops == ("linear",)
    weights = tmp_path / "part.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    whole = joint.package / "Data/com.apple.CoreML/weights/weight.bin"
    assert 0 < weights.stat().st_size < whole.stat().st_size
    assert bytes_of(tmp_path / "part.mlpackage") < bytes_of(joint.package)


@pytest.mark.parametrize("opset", ["iOS15", "iOS16", "iOS18"])
def test_every_dtype_can_stand_in_front(build: Any, opset: str, tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder as mb

    def program(x: Any) -> Any:
        positive = mb.greater(x=x, y=0.0, name="positive")
        counted = mb.add(x=mb.cast(x=positive, dtype="int32"), y=1, name="counted")
        half = mb.cast(x=x, dtype="fp16", name="half")
        mixed = mb.select(cond=positive, a=half, b=mb.sigmoid(x=half), name="mixed")
        return mb.add(x=mb.cast(x=mixed, dtype="fp32"), y=mb.cast(x=counted, dtype="fp32"), name="out")

    package = build(program, opset=opset, x=X)
    names = ["positive", "counted", "half"]
    values = mil.load(package).run({"x": X}, names)
    part = extracted_and_checked(package, "out", values, {"x": X}, tmp_path / "part.mlpackage")
    expected = {"positive_as_int32": "int32", "counted": "int32"}
    expected |= {"half_as_float32": "float32"} if opset == "iOS15" else {"half": "float16"}
    assert {name: str(value.dtype) for name, value in part.feed.items()} == expected
    inner = extracted_and_checked(package, "positive", {"x": X}, {"x": X}, tmp_path / "inner.mlpackage")
    assert (inner.output, inner.ops) == ("positive_as_int32", ("greater", "cast"))


@pytest.mark.parametrize("opset", ["iOS15", "iOS16"])
def test_values_of_a_wider_dtype_are_rounded_to_the_tensors(build: Any, opset: str, tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder as mb

    package = build(lambda x: mb.exp(x=mb.relu(x=x, name="kept"), name="out"), opset=opset, precision="float16", x=X)
    (name,) = [tensor.name for tensor in mil.load(package).tensors if tensor.op == "relu"]
    (last,) = [tensor.name for tensor in mil.load(package).tensors if tensor.op == "exp"]
    value = np.abs(X) + 1e-5
    part = mil.extract(package, last, {name: value}, tmp_path / "part.mlpackage")
    ((given, fed),) = part.feed.items()
    assert (given == name, str(fed.dtype)) == ((True, "float16") if opset == "iOS16" else (False, "float32"))
    np.testing.assert_array_equal(fed, value.astype(np.float16))
    assert mil.load(part.path).inputs[given].dtype == str(fed.dtype)
    assert [v.name for v in opened_by_coremltools(part.path).functions["main"].outputs] == [part.output]


def test_blocks_go_along(build: Any, tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder as mb

    def program(x: Any) -> Any:
        doubled = mb.mul(x=x, y=2.0, name="doubled")
        total = mb.reduce_sum(x=doubled, axes=[0, 1], keep_dims=False)
        chosen = mb.cond(
            pred=mb.greater(x=total, y=0.0),
            _true_fn=lambda: mb.add(x=doubled, y=1.0),
            _false_fn=lambda: mb.sub(x=doubled, y=1.0),
            name="chosen",
        )
        return mb.relu(x=chosen, name="out")

    package = build(program, x=X)
    values = mil.load(package).run({"x": X}, ["doubled"])
    part = extracted_and_checked(package, "out", values, {"x": X}, tmp_path / "part.mlpackage")
    assert (list(part.feed), "cond" in part.ops) == (["doubled"], True)


def test_what_is_not_given_is_refused(joints: Any, tmp_path: Path) -> None:
    joint = joints["float32"]
    output = next(iter(mil.load(joint.package).outputs))
    target = tmp_path / "part.mlpackage"
    with pytest.raises(FeedError, match="depends on the input 'encoder', which is not given"):
        mil.extract(joint.package, output, {"decoder": joint.feed["decoder"]}, target)
    with pytest.raises(FeedError, match="no tensor 'nothing'"):
        mil.extract(joint.package, "nothing", joint.feed, target)
    assert not target.exists()
