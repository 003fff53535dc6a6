"""Compiled models, which are copies here: `CompiledMLModel`, `compile_model` and models in memory."""

from __future__ import annotations

import gc
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff.binding import compiled
from layerdiff.errors import PackageError

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
