"""coremltools' `MLModel.predict` through the portable engine, against torch."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from layerdiff import mil, quiet
from layerdiff.errors import EngineError, FeedError, LayerdiffError

Convert = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("enabled")


def torch_output(module: Any, *inputs: Any) -> Any:
    with torch.no_grad():
        return module(*inputs).numpy()


class TestPredict:
    def test_a_model_in_memory_predicts_what_torch_computes(self, model: Any, network: Any, x: Any) -> None:
        outputs = model.predict({"x": x.numpy()})
        assert list(outputs) == ["y"]
        assert outputs["y"].dtype == np.float32
        np.testing.assert_allclose(outputs["y"], torch_output(network, x), atol=1e-6)

    def test_a_saved_model_predicts_the_same(self, ct: Any, model: Any, x: Any, tmp_path: Path) -> None:
        path = str(tmp_path / "saved.mlpackage")
        model.save(path)
        again = ct.models.MLModel(path).predict({"x": x.numpy()})
        np.testing.assert_array_equal(again["y"], model.predict({"x": x.numpy()})["y"])

    def test_a_model_without_weights_predicts(self, convert: Convert, x: Any) -> None:
        module = torch.nn.Softplus()
        outputs = convert(module, x=x).predict({"x": x.numpy()})
        np.testing.assert_allclose(outputs["y"], torch_output(module, x), atol=1e-6)

    def test_a_list_is_a_batch_of_requests(self, model: Any, x: Any) -> None:
        feeds = [{"x": x.numpy()}, {"x": -x.numpy()}, {"x": 3 * x.numpy()}]
        expected = [model.predict(dict(feed))["y"] for feed in feeds]
        batch = model.predict(feeds)
        assert len(batch) == 3
        for outputs, single in zip(batch, expected, strict=True):
            np.testing.assert_array_equal(outputs["y"], single)
        assert not np.array_equal(expected[0], expected[1])

    @pytest.mark.parametrize("given", ["torch", "list", "float64", "float16", "int32"])
    def test_inputs_are_brought_to_the_declared_dtype(self, model: Any, given: str) -> None:
        whole = torch.arange(16).reshape(2, 8) - 7  # every value is the same in all these dtypes
        values = {"torch": whole.float(), "list": whole.tolist()}
        outputs = model.predict(
            {"x": values.get(given, whole.numpy().astype(given if given in np.sctypeDict else "f4"))}
        )
        np.testing.assert_array_equal(outputs["y"], model.predict({"x": whole.numpy().astype(np.float32)})["y"])

    def test_floats_for_an_integer_input_lose_their_fraction(self, ct: Any, convert: Convert) -> None:
        class Rows(torch.nn.Module):
            def forward(self, x: Any, rows: Any) -> Any:
                return x[rows]

        x, rows = torch.arange(12.0).reshape(4, 3), torch.tensor([2, 0], dtype=torch.int32)
        inputs = [ct.TensorType(name="x", shape=x.shape), ct.TensorType(name="rows", shape=(2,), dtype=np.int32)]
        gather = convert(Rows(), x=x, rows=rows, inputs=inputs)
        outputs = gather.predict({"x": x.numpy(), "rows": np.array([2.0, 0.75])})
        np.testing.assert_array_equal(outputs["y"], x.numpy()[[2, 0]])

    def test_the_caller_keeps_its_arrays(self, model: Any, x: Any) -> None:
        given = x.numpy().copy()
        model.predict({"x": given})
        np.testing.assert_array_equal(given, x.numpy())

    def test_float16_outputs_come_back_as_float32(self, ct: Any, convert: Convert, network: Any, x: Any) -> None:
        half = convert(
            network,
            x=x,
            precision="float16",
            inputs=[ct.TensorType(name="x", shape=x.shape, dtype=np.float16)],
            options={"outputs": [ct.TensorType(name="y", dtype=np.float16)]},
        )
        outputs = half.predict({"x": x.numpy().astype(np.float16)})
        assert outputs["y"].dtype == np.float32
        assert np.array_equal(outputs["y"], outputs["y"].astype(np.float16).astype(np.float32))
        np.testing.assert_allclose(outputs["y"], torch_output(network, x), atol=5e-3)

    def test_outputs_of_rank_zero_have_one_element(self, convert: Convert, x: Any) -> None:
        class Sum(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return x.sum()

        outputs = convert(Sum(), x=x).predict({"x": x.numpy()})
        assert outputs["y"].shape == (1,)
        np.testing.assert_allclose(outputs["y"][0], x.sum().item(), rtol=1e-6)


class TestImages:
    """What is given and returned are pillow's images; the program computes with tensors [1, C, H, W]."""

    class Darker(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x / 2

    class Red(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x[:, 0] * 1.0

    PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)

    @pytest.mark.parametrize("layout", ["RGB", "BGR"])
    def test_the_first_channel_is_that_of_the_layout(self, ct: Any, convert: Convert, layout: str) -> None:
        image = ct.ImageType(name="x", shape=(1, 3, 4, 6), color_layout=layout)
        red = convert(self.Red(), x=torch.rand(1, 3, 4, 6), inputs=[image])
        outputs = red.predict({"x": Image.fromarray(self.PIXELS)})
        np.testing.assert_array_equal(outputs["y"][0], self.PIXELS[..., 0 if layout == "RGB" else 2])

    def test_scale_and_bias_are_part_of_the_program(self, ct: Any, convert: Convert) -> None:
        image = ct.ImageType(name="x", shape=(1, 3, 4, 6), scale=1 / 255, bias=[-0.5, 0, 0])
        red = convert(self.Red(), x=torch.rand(1, 3, 4, 6), inputs=[image])
        outputs = red.predict({"x": Image.fromarray(self.PIXELS)})
        np.testing.assert_allclose(outputs["y"][0], self.PIXELS[..., 0] / 255 - 0.5, atol=1e-6)

    def test_an_image_comes_back_as_one(self, ct: Any, convert: Convert) -> None:
        darker = convert(
            self.Darker(),
            x=torch.rand(1, 3, 4, 6),
            inputs=[ct.ImageType(name="x", shape=(1, 3, 4, 6), color_layout="BGR")],
            options={"outputs": [ct.ImageType(name="y", color_layout="RGB")]},
        )
        picture = darker.predict({"x": Image.fromarray(self.PIXELS)})["y"]
        assert (picture.mode, picture.size) == ("RGBA", (6, 4))
        shown = np.asarray(picture)
        assert np.abs(shown[..., :3] - self.PIXELS[..., ::-1] / 2).max() <= 0.5
        assert (shown[..., 3] == 255).all()

    def test_grey_images(self, ct: Any, convert: Convert) -> None:
        darker = convert(
            self.Darker(),
            x=torch.rand(1, 1, 4, 6),
            inputs=[ct.ImageType(name="x", shape=(1, 1, 4, 6), color_layout="G")],
            options={"outputs": [ct.ImageType(name="y", color_layout="G")]},
        )
        even = self.PIXELS[..., 0] // 2 * 2
        picture = darker.predict({"x": Image.fromarray(even)})["y"]
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.asarray(picture), even // 2)

    def test_another_size_is_refused(self, ct: Any, convert: Convert) -> None:
        image = ct.ImageType(name="x", shape=(1, 3, 4, 6))
        red = convert(self.Red(), x=torch.rand(1, 3, 4, 6), inputs=[image])
        with pytest.raises(RuntimeError, match=r"^Unable to compute the prediction using ML Program: .*another size"):
            red.predict({"x": Image.fromarray(self.PIXELS[:3])})


def test_a_classifier_gives_the_label_and_every_probability(ct: Any, convert: Convert, network: Any, x: Any) -> None:
    module, labels = torch.nn.Sequential(network, torch.nn.Softmax(-1)), ["a", "b", "c", "d"]
    classifier = convert(module, x=x[:1], options={"classifier_config": ct.ClassifierConfig(labels)})
    outputs = classifier.predict({"x": x[:1].numpy()})
    expected = torch_output(module, x[:1])[0]
    assert outputs["classLabel"] == labels[int(expected.argmax())]
    (probabilities,) = (value for value in outputs.values() if isinstance(value, dict))
    assert list(probabilities) == labels
    np.testing.assert_allclose(list(probabilities.values()), expected, atol=1e-6)


class TestRefusals:
    def test_a_failure_is_what_scripts_look_for(self, model: Any) -> None:
        with pytest.raises(RuntimeError, match=r"^Unable to compute the prediction using ML Program: ") as caught:
            model.predict({"x": np.zeros((3, 8), np.float32)})
        assert isinstance(caught.value, LayerdiffError)
        assert isinstance(caught.value.__cause__, FeedError)
        assert "expected float32[2, 8], got float32[3, 8]" in str(caught.value)

    def test_a_missing_input_is_named(self, model: Any) -> None:
        with pytest.raises(RuntimeError, match="the input 'x' is missing"):
            model.predict({})

    def test_an_op_that_fails_is_named(self, ct: Any) -> None:
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.mil import types

        @mb.program(  # type: ignore[untyped-decorator]
            input_specs=[mb.TensorSpec((4,)), mb.TensorSpec((2,), types.int32)], opset_version=ct.target.iOS17
        )
        def program(x: Any, indices: Any) -> Any:
            return mb.gather(x=x, indices=indices, validate_indices=True, name="picked")

        with quiet.third_party():
            gather = ct.convert(program, source="milinternal", minimum_deployment_target=ct.target.iOS17)
        with pytest.raises(RuntimeError, match="Unable to compute the prediction using ML Program") as caught:
            gather.predict({"x": np.zeros(4, np.float32), "indices": np.array([0, 9], np.int32)})
        assert isinstance(caught.value.__cause__, EngineError)
        assert "'picked" in str(caught.value)

    def test_a_name_that_is_no_input_is_refused_by_coremltools(self, model: Any, x: Any) -> None:
        with pytest.raises(KeyError, match="does not match any of the model input"):
            model.predict({"x": x.numpy(), "z": x.numpy()})

    def test_a_neural_network_says_so_when_it_is_asked_to_predict(self, ct: Any) -> None:
        spec = ct.proto.Model_pb2.Model(specificationVersion=4)
        spec.neuralNetwork.SetInParent()
        with pytest.warns(RuntimeWarning, match="You will not be able to run predict"):
            network = ct.models.MLModel(spec)
        with pytest.raises(RuntimeError, match="is a 'neuralNetwork', not an ML Program"):
            network.predict({})

    def test_a_model_that_was_not_to_be_loaded_does_not_predict(
        self, ct: Any, model: Any, x: Any, tmp_path: Path
    ) -> None:
        model.save(str(tmp_path / "m.mlpackage"))
        idle = ct.models.MLModel(str(tmp_path / "m.mlpackage"), skip_model_load=True)
        with pytest.raises(Exception, match="Cannot make predictions"):
            idle.predict({"x": x.numpy()})


class TestLoading:
    def test_a_model_is_loaded_once(
        self, ct: Any, model: Any, x: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "m.mlpackage"
        model.save(str(path))
        loads: list[Path] = []
        load = mil.load
        monkeypatch.setattr(
            mil, "load", lambda path, **more: (loads.append(path), load(path, **more))[1], raising=False
        )
        loaded = ct.models.MLModel(str(path))
        for _ in range(3):
            loaded.predict({"x": x.numpy()})
        assert loads == [path]

    def test_a_loaded_model_does_not_need_its_files(self, ct: Any, model: Any, x: Any, tmp_path: Path) -> None:
        path = tmp_path / "m.mlpackage"
        model.save(str(path))
        loaded = ct.models.MLModel(str(path))
        shutil.rmtree(path)
        np.testing.assert_array_equal(loaded.predict({"x": x.numpy()})["y"], model.predict({"x": x.numpy()})["y"])

    def test_durations_are_measured(self, ct: Any, model: Any, x: Any, tmp_path: Path) -> None:
        model.save(str(tmp_path / "m.mlpackage"))
        loaded = ct.models.MLModel(str(tmp_path / "m.mlpackage"))
        assert loaded.load_duration_in_nano_seconds > 0
        assert loaded.last_predict_duration_in_nano_seconds is None
        loaded.predict({"x": x.numpy()})
        assert loaded.last_predict_duration_in_nano_seconds > 0

    def test_a_model_keeps_predicting_when_the_block_has_ended(self, convert: Convert, x: Any) -> None:
        made_in_a_block = convert(torch.nn.ReLU(), x=x)
        np.testing.assert_array_equal(made_in_a_block.predict({"x": x.numpy()})["y"], np.maximum(x.numpy(), 0))

    def test_compute_units_and_hints_are_taken(self, ct: Any, model: Any, x: Any, tmp_path: Path) -> None:
        model.save(str(tmp_path / "m.mlpackage"))
        loaded = ct.models.MLModel(
            str(tmp_path / "m.mlpackage"),
            compute_units=ct.ComputeUnit.CPU_AND_NE,
            optimization_hints={"reshapeFrequency": ct.ReshapeFrequency.Infrequent},
        )
        np.testing.assert_array_equal(loaded.predict({"x": x.numpy()})["y"], model.predict({"x": x.numpy()})["y"])


@pytest.fixture(scope="module")
def two_functions(ct: Any, convert: Convert, x: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A package with the functions `relu`, the default one, and `sine`."""
    folder = tmp_path_factory.mktemp("functions")

    class Sine(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.sin(x)

    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, module in (("relu", torch.nn.ReLU()), ("sine", Sine())):
        convert(module, x=x, target="iOS18").save(str(folder / f"{name}.mlpackage"))
        descriptor.add_function(str(folder / f"{name}.mlpackage"), "main", name)
    descriptor.default_function_name = "relu"
    with quiet.third_party():
        ct.utils.save_multifunction(descriptor, str(folder / "both.mlpackage"))
    return str(folder / "both.mlpackage")


class TestFunctions:
    @pytest.mark.parametrize(("function", "expected"), [(None, torch.relu), ("relu", torch.relu), ("sine", torch.sin)])
    def test_each_function_predicts(
        self, ct: Any, two_functions: str, x: Any, function: str | None, expected: Any
    ) -> None:
        outputs = ct.models.MLModel(two_functions, function_name=function).predict({"x": x.numpy()})
        np.testing.assert_allclose(outputs["y"], expected(x).numpy(), atol=1e-6)

    def test_an_unknown_function_is_refused(self, ct: Any, two_functions: str) -> None:
        with (
            pytest.warns(RuntimeWarning, match="has no function 'cosine'"),
            pytest.raises(ValueError, match="cosine not found"),
        ):
            ct.models.MLModel(two_functions, function_name="cosine")

    def test_a_compiled_model_has_the_functions(self, ct: Any, two_functions: str, x: Any) -> None:
        path = (kept := ct.models.MLModel(two_functions)).get_compiled_model_path()
        outputs = ct.models.CompiledMLModel(path, function_name="sine").predict({"x": x.numpy()})
        np.testing.assert_allclose(outputs["y"], np.sin(x.numpy()), atol=1e-6)
        with pytest.raises(RuntimeError, match="has no function 'invalid'"):
            ct.models.CompiledMLModel(path, function_name="invalid")
        del kept


class TestWhatOnlyAppleKnows:
    def test_compute_devices(self, ct: Any) -> None:
        for ask in (
            ct.models.compute_device.MLComputeDevice.get_all_compute_devices,
            ct.models.MLModel.get_available_compute_devices,
        ):
            with pytest.raises(RuntimeError, match=r"compute devices is known to Apple's Core ML only[\s\S]*on a Mac"):
                ask()

    def test_compute_plans(self, ct: Any, model: Any) -> None:
        path = model.get_compiled_model_path()
        with pytest.raises(RuntimeError, match="compute plan is known to Apple's Core ML only"):
            ct.models.compute_plan.MLComputePlan.load_from_path(path)
        with pytest.raises(RuntimeError, match="structure of a compiled model is known to Apple's Core ML only"):
            ct.models.compute_plan.MLModelStructure.load_from_path(path)

    def test_the_lowest_specification_version(self, ct: Any, model: Any, tmp_path: Path) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ct.utils.save_spec(
                model.get_spec(),
                str(tmp_path / "m.mlpackage"),
                auto_set_specification_version=True,
                weights_dir=model.weights_dir,
            )
        assert any("specification version" in str(w.message) for w in caught)
        assert (tmp_path / "m.mlpackage").is_dir()
