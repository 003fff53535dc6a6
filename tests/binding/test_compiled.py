"""Compiled models, which are copies here: `CompiledMLModel`, `compile_model`, models in memory, and their text."""

from __future__ import annotations

import gc
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff import quiet
from layerdiff.binding import compiled
from layerdiff.errors import PackageError
from layerdiff.mil import schema

FILE_VALUE = "blobFileValue"

pytestmark = pytest.mark.usefixtures("enabled")


@pytest.fixture
def package(model: Any, tmp_path: Path) -> Path:
    model.save(str(tmp_path / "m.mlpackage"))
    return tmp_path / "m.mlpackage"


@pytest.fixture
def expected(model: Any, x: Any) -> Any:
    return model.predict({"x": x.numpy()})["y"]


def temporary_folders() -> set[Path]:
    """The compiled copies of `m.mlpackage` that lie in the folder for temporary files."""
    return set(Path(tempfile.gettempdir()).glob("m-*.mlmodelc"))


class TestCompiledModelPath:
    def test_it_predicts_the_same_as_long_as_the_model_lives(
        self, ct: Any, package: Path, x: Any, expected: Any
    ) -> None:
        loaded = ct.models.MLModel(str(package))
        path = loaded.get_compiled_model_path()
        assert Path(path).suffix == ".mlmodelc"
        assert loaded.get_compiled_model_path() == path
        outputs = ct.models.CompiledMLModel(path).predict({"x": x.numpy()})
        np.testing.assert_array_equal(outputs["y"], expected)
        del loaded
        gc.collect()
        assert not Path(path).exists()

    def test_a_compiled_model_outlives_its_files(self, ct: Any, package: Path, x: Any, expected: Any) -> None:
        path = ct.utils.compile_model(str(package))
        loaded = ct.models.CompiledMLModel(path)
        shutil.rmtree(path)
        np.testing.assert_array_equal(loaded.predict({"x": x.numpy()})["y"], expected)

    def test_a_package_that_was_written_again_is_not_what_was_loaded(
        self, ct: Any, package: Path, convert: Any, x: Any
    ) -> None:
        import torch

        loaded = ct.models.MLModel(str(package))
        convert(torch.nn.ReLU(), x=x).save(str(package))
        with pytest.raises(RuntimeError, match=r"'m\.mlpackage' was changed since it was loaded"):
            loaded.get_compiled_model_path()


class TestCompileModel:
    def test_a_package_can_be_compiled_to_a_place(
        self, ct: Any, package: Path, x: Any, expected: Any, tmp_path: Path
    ) -> None:
        destination = str(tmp_path / "there.mlmodelc")
        before = temporary_folders()
        assert ct.utils.compile_model(str(package), destination) == destination
        assert temporary_folders() == before
        shutil.rmtree(package)
        loaded = ct.models.CompiledMLModel(destination, compute_units=ct.ComputeUnit.CPU_ONLY)
        np.testing.assert_array_equal(loaded.predict({"x": x.numpy()})["y"], expected)

    def test_a_batch_of_requests(self, ct: Any, package: Path, x: Any, expected: Any, tmp_path: Path) -> None:
        path = ct.utils.compile_model(str(package), str(tmp_path / "there.mlmodelc"))
        outputs = ct.models.CompiledMLModel(path).predict([{"x": x.numpy()}, {"x": 0 * x.numpy()}])
        np.testing.assert_array_equal(outputs[0]["y"], expected)
        assert not np.array_equal(outputs[1]["y"], expected)

    def test_what_is_no_model_is_refused(self, ct: Any, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match=r"The model cannot be compiled: 'none\.mlpackage' does not exist"):
            ct.utils.compile_model(str(tmp_path / "none.mlpackage"))
        (tmp_path / "empty.mlmodelc").mkdir()
        with pytest.raises(RuntimeError, match="The model cannot be loaded"):
            ct.models.CompiledMLModel(str(tmp_path / "empty.mlmodelc"))


def pipeline(ct: Any, folder: Path) -> Any:
    """Two models one after the other, each with its own weights: x → hidden → y."""
    import torch

    parts = []
    for seed, (taken, given) in enumerate((("x", "hidden"), ("hidden", "y"))):
        torch.manual_seed(seed)
        with quiet.third_party():
            part = ct.convert(
                torch.jit.trace(torch.nn.Linear(8, 8).eval(), torch.zeros(2, 8)),
                inputs=[ct.TensorType(name=taken, shape=(2, 8))],
                outputs=[ct.TensorType(name=given)],
                minimum_deployment_target=ct.target.iOS16,
            )
        part.save(str(folder / f"{given}.mlpackage"))
        parts.append(ct.models.MLModel(str(folder / f"{given}.mlpackage")))
    return ct.utils.make_pipeline(*parts)


class TestTextForm:
    """A compiled model without its specification is what Core ML's compiler leaves: the text is loaded."""

    def without_specification(self, path: str) -> str:
        (Path(path) / compiled.SPECIFICATION).unlink()
        return path

    @pytest.mark.parametrize("precision", ["float32", "float16"])
    @pytest.mark.parametrize("target", ["iOS15", "iOS18"])
    def test_it_gives_the_same_bits(
        self, ct: Any, convert: Any, network: Any, x: Any, tmp_path: Path, precision: str, target: str
    ) -> None:
        options = {} if target == "iOS18" else {"options": {}}
        model = convert(network, x=x, precision=precision, target=target, **options)
        model.save(str(tmp_path / "m.mlpackage"))
        path = self.without_specification(ct.utils.compile_model(str(tmp_path / "m.mlpackage")))
        assert (
            (Path(path) / "model.mil").read_text().startswith("program(1.3)" if target == "iOS18" else "program(1.0)")
        )
        (found,) = ct.models.CompiledMLModel(path).predict({"x": x.numpy()}).values()
        (expected,) = model.predict({"x": x.numpy()}).values()
        np.testing.assert_array_equal(found, expected)
        shutil.rmtree(path)

    def test_flexible_lengths_are_kept(self, ct: Any, convert: Any, network: Any, x: Any, tmp_path: Path) -> None:
        import torch

        flexible = [ct.TensorType(name="x", shape=(ct.RangeDim(1, 4, 2), 8))]
        model = convert(network, x=x, inputs=flexible)
        model.save(str(tmp_path / "m.mlpackage"))
        path = self.without_specification(ct.utils.compile_model(str(tmp_path / "m.mlpackage")))
        loaded, three = ct.models.CompiledMLModel(path), torch.cat([x, x[:1]]).numpy()
        np.testing.assert_array_equal(loaded.predict({"x": three})["y"], model.predict({"x": three})["y"])
        with pytest.raises(RuntimeError, match="'x'"):
            loaded.predict({"x": np.zeros((5, 8), np.float32)})
        shutil.rmtree(path)

    def test_a_model_in_memory_has_it_too(self, ct: Any, package: Path) -> None:
        folder = package / "Data" / "com.apple.CoreML"
        path = Path(compiled.write_model((folder / "model.mlmodel").read_bytes(), {}))
        assert sorted(file.name for file in path.iterdir()) == ["metadata.json", "model.mil", "model.mlmodel"]
        compiled_path = Path(ct.utils.compile_model(str(package)))
        assert (path / "model.mil").read_bytes() == (compiled_path / "model.mil").read_bytes()
        for folder in (path, compiled_path):
            shutil.rmtree(folder)

    def test_the_members_of_a_pipeline_have_their_own(self, ct: Any, x: Any, tmp_path: Path) -> None:
        model = pipeline(ct, tmp_path)
        model.save(str(tmp_path / "m.mlpackage"))
        destination = str(tmp_path / "there.mlmodelc")
        whole = ct.models.CompiledMLModel(ct.utils.compile_model(str(tmp_path / "m.mlpackage"), destination))
        bits = whole.predict({"x": x.numpy()})["y"]
        np.testing.assert_array_equal(bits, model.predict({"x": x.numpy()})["y"])
        shutil.rmtree(Path(destination) / "weights")
        loaded = ct.models.CompiledMLModel(self.without_specification(destination))
        np.testing.assert_array_equal(loaded.predict({"x": x.numpy()})["y"], bits)

    def test_a_file_system_without_links_gets_copies(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def refused(*_: Any) -> None:
            raise OSError("no links here")

        monkeypatch.setattr(compiled.os, "link", refused)
        (tmp_path / "weight.bin").write_bytes(b"weights")
        compiled.write_text_form(compiled.TextForm({}, {"model0/weight.bin": "weight.bin"}), tmp_path)
        assert (tmp_path / "model0" / "weight.bin").read_bytes() == b"weights"

    def test_weights_outside_of_the_model_are_not_shared(self, ct: Any, tmp_path: Path) -> None:
        spec = pipeline(ct, tmp_path).get_spec()
        block = spec.pipeline.models[0].mlProgram.functions["main"].block_specializations["CoreML6"]
        (value,) = (v for op in block.operations for v in op.attributes.values() if v.WhichOneof("value") == FILE_VALUE)
        kept = compiled.text_form(spec, where="").member_weights
        value.blobFileValue.fileName = "@model_path/../../weight.bin"
        changed = compiled.text_form(spec, where="").member_weights
        assert set(kept) - set(changed) == {name for name in kept if name.startswith("model0/")}

    def test_other_models_have_none(self, tmp_path: Path) -> None:
        spec = schema.model_module().Model()
        spec.neuralNetwork.SetInParent()
        (tmp_path / "m.mlmodel").write_bytes(spec.SerializeToString())
        path = Path(compiled.compile_package(tmp_path / "m.mlmodel"))
        assert [file.name for file in path.iterdir()] == ["model.mlmodel"]
        shutil.rmtree(path)

    def test_bytes_that_are_no_specification_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "m.mlmodel").write_bytes(b"\xff" * 9)
        before = temporary_folders()
        with pytest.raises(PackageError, match="truncated or not a Core ML model"):
            compiled.compile_package(tmp_path / "m.mlmodel")
        assert temporary_folders() == before


def test_only_the_weights_beside_a_bare_specification_are_copied(package: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(package / "Data" / "com.apple.CoreML", tmp_path / "bare")
    (folder / "holidays").mkdir()
    path = Path(compiled.compile_package(folder / "model.mlmodel"))
    assert sorted(p.name for p in path.iterdir() if p.is_dir()) == ["weights"]
    shutil.rmtree(path)


class TestAssets:
    def test_of_a_compiled_model(self, ct: Any, package: Path, x: Any, expected: Any, tmp_path: Path) -> None:
        path = ct.utils.compile_model(str(package), str(tmp_path / "there.mlmodelc"))
        asset = ct.models.model.MLModelAsset.from_path(path)
        outputs = ct.models.CompiledMLModel.from_asset(asset).predict({"x": x.numpy()})
        np.testing.assert_array_equal(outputs["y"], expected)

    def test_of_bytes(self, ct: Any, package: Path, x: Any, expected: Any) -> None:
        folder = package / "Data" / "com.apple.CoreML"
        weights = (folder / "weights" / "weight.bin").read_bytes()
        asset = ct.models.model.MLModelAsset.from_memory(
            spec_data=(folder / "model.mlmodel").read_bytes(), blob_mapping={"weights/weight.bin": weights}
        )
        loaded = ct.models.CompiledMLModel.from_asset(asset)
        del asset
        gc.collect()
        np.testing.assert_array_equal(loaded.predict({"x": x.numpy()})["y"], expected)

    def test_a_weight_file_outside_of_the_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(PackageError, match="lies outside of the model"):
            compiled.write_model(b"", {"../../weight.bin": b""})
