"""Pipelines: what one model returns the next one takes, held to the models one by one and to torch."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from layerdiff import mil, quiet
from layerdiff.errors import EngineError, FeedError, LayerdiffError, PackageError
from layerdiff.mil import schema
from layerdiff.mil.package import PipelinePackage, open_package
from layerdiff.mil.pipeline import Pipeline

SPECIFICATION = Path("Data/com.apple.CoreML/model.mlmodel")


class Modules:
    """Two linear layers and a sum, as torch modules and as packages: first(x), second(hidden), both(hidden, y)."""

    def __init__(self, convert, folder) -> None:
        import torch

        class Both(torch.nn.Module):
            def forward(self, hidden, offset):
                return torch.relu(hidden) + offset

        torch.manual_seed(0)
        self.first, self.second, self.both = torch.nn.Linear(6, 4), torch.nn.Linear(4, 3), Both()
        x, hidden = torch.zeros(2, 6), torch.zeros(2, 4)
        self.folder = folder
        self.packages = {
            "first": convert(self.first, x, **_names(["x"], [(2, 6)], "hidden")),
            "second": convert(self.second, hidden, **_names(["hidden"], [(2, 4)], "y", precision="FLOAT16")),
            "both": convert(self.both, hidden, hidden, **_names(["hidden", "offset"], [(2, 4)] * 2, "z")),
        }

    def pipeline(self, *names) -> Path:
        """The package that coremltools makes of models."""
        path = self.folder / f"{'-'.join(names)}.mlpackage"
        return path if path.exists() else pipeline([self.packages[name] for name in names], path)


def pipeline(packages, path) -> Path:
    """The package that coremltools makes of others."""
    with quiet.third_party():
        import coremltools as ct

        models = [ct.models.MLModel(str(package), skip_model_load=True) for package in packages]
        ct.utils.make_pipeline(*models).save(str(path))
    return path


def _names(inputs, shapes, output, precision="FLOAT32"):
    return {
        "inputs": lambda ct: [ct.TensorType(name=n, shape=s) for n, s in zip(inputs, shapes, strict=True)],
        "outputs": lambda ct: [ct.TensorType(name=output)],
        "compute_precision": precision,
    }


@pytest.fixture(scope="module")
def modules(convert, tmp_path_factory):
    return Modules(convert, tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(scope="module")
def chain(modules):
    return mil.load(modules.pipeline("first", "second"))


X = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)


def of_torch(module, *arrays):
    import torch

    with torch.no_grad():
        return module(*map(torch.from_numpy, arrays)).numpy()


def change(package, folder, edit):
    """A copy of a package whose specification went through `edit`."""
    changed = shutil.copytree(package, folder / "changed.mlpackage")
    spec = schema.model_module().Model()
    spec.ParseFromString((changed / SPECIFICATION).read_bytes())
    edit(spec)
    (changed / SPECIFICATION).write_bytes(spec.SerializeToString())
    return changed


# ------------------------------------------------------------------ running


def test_a_pipeline_computes_what_its_models_compute_one_after_the_other(chain, modules):
    assert isinstance(chain, Pipeline)
    assert list(chain.members) == ["model0", "model1"]
    assert (list(chain.inputs), list(chain.outputs)) == (["x"], ["y"])
    (found,) = chain.predict({"x": X}).values()
    hidden = mil.load(modules.packages["first"]).predict({"x": X})["hidden"]
    np.testing.assert_array_equal(found, mil.load(modules.packages["second"]).predict({"hidden": hidden})["y"])
    np.testing.assert_allclose(found, of_torch(modules.second, of_torch(modules.first, X)), atol=2e-3)


def test_a_later_model_may_take_an_input_of_the_pipeline(modules):
    model = mil.load(modules.pipeline("first", "second", "both"))
    assert list(model.inputs) == ["x", "offset"]
    assert sorted(model.outputs) == ["y", "z"]
    offset = np.float32([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = model.predict({"x": X, "offset": offset})
    hidden = of_torch(modules.first, X)
    np.testing.assert_allclose(found["z"], np.maximum(hidden, 0) + offset, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["y"], of_torch(modules.second, hidden), atol=2e-3)


def test_only_what_is_asked_for_is_run(modules):
    model = mil.load(modules.pipeline("first", "second", "both"))
    hidden = of_torch(modules.first, X)
    assert list(model.run({"x": X}, ["hidden"])) == ["hidden"]
    np.testing.assert_allclose(model.run({"x": X}, ["hidden"])["hidden"], hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.run({"x": X}, ["y"])["y"], of_torch(modules.second, hidden), atol=2e-3)
    given = np.ones((2, 4), np.float32)
    found = model.run({"offset": given}, ["z", "offset"], inject={"hidden": -given})
    np.testing.assert_array_equal(found["z"], given)
    np.testing.assert_array_equal(found["offset"], given)
    with pytest.raises(FeedError, match="'x' is missing"):
        model.run({"offset": given}, ["z"])


def test_inner_tensors_are_named_by_their_model(chain, modules):
    linear = [tensor.name for tensor in chain.tensors if tensor.op == "linear"]
    assert linear[0] == "model0/hidden"
    assert linear[1].startswith("model1/")
    found = chain.run({"x": X}, linear)
    np.testing.assert_allclose(found["model0/hidden"], of_torch(modules.first, X), rtol=1e-5, atol=1e-6)
    moved = chain.run({"x": X}, ["y"], inject={linear[1]: np.full((2, 3), 0.5, np.float16)})["y"]
    np.testing.assert_array_equal(moved, np.full((2, 3), 0.5))


def test_a_trace_goes_through_all_models(chain):
    traced = {tensor.name: tensor.value for tensor in chain.trace({"x": X})}
    assert list(traced) == [tensor.name for tensor in chain.tensors]
    np.testing.assert_array_equal(traced["model1/y"], chain.predict({"x": X})["y"])


def test_precision_is_that_of_every_model(chain, modules):
    assert chain.declared_precision == "mixed"
    first, second = (copy.deepcopy(module).double() for module in (modules.first, modules.second))
    exact = of_torch(second, of_torch(first, X.astype(np.float64)))
    found = chain.with_precision("float64").predict({"x": X.astype(np.float64)})["y"]
    assert found.dtype == np.float64
    stored_in_float16 = np.abs(found - exact).max()
    assert 1e-6 < stored_in_float16 < 1e-3  # the weights of the second model are float16 in the package


def test_arrays_are_converted_from_one_model_to_the_next(convert, tmp_path):
    import torch

    class Index(torch.nn.Module):
        def forward(self, x):
            return x.argmax(-1)

    class Half(torch.nn.Module):
        def forward(self, index):
            return index * 0.5

    first = convert(Index(), torch.zeros(2, 6), **_names(["x"], [(2, 6)], "index"))
    second = convert(Half(), torch.zeros(2), **_names(["index"], [(2,)], "half"))
    model = mil.load(pipeline([first, second], tmp_path / "p.mlpackage"))
    assert model.members["model0"].outputs["index"].dtype == "int32"
    assert model.members["model1"].inputs["index"].dtype == "float32"
    np.testing.assert_array_equal(model.predict({"x": X})["half"], X.argmax(-1) / 2)


@pytest.fixture(scope="module")
def counting(modules, convert, tmp_path_factory):
    """x → the sum of all x so far → second."""
    import torch

    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(2, 4))

        def forward(self, x):
            self.total.add_(x)
            return self.total * 1.0

    def states(ct):
        return [ct.StateType(wrapped_type=ct.TensorType(shape=(2, 4), dtype=np.float16), name="total")]

    keywords = _names(["x"], [(2, 4)], "hidden", precision="FLOAT16")
    first = convert(Sum(), torch.zeros(2, 4), **keywords, states=states, minimum_deployment_target="iOS18")
    return mil.load(pipeline([first, modules.packages["second"]], tmp_path_factory.mktemp("state") / "s.mlpackage"))


def test_states_are_those_of_the_models(counting, modules):
    x, state = np.float32([[1, 2, 3, 4], [-1, -2, -3, -4]]), counting.make_state()
    assert {name: (a.dtype, a.tolist()) for name, a in state.items()} == {"total": (np.float16, [[0.0] * 4] * 2)}
    for calls in (1, 2):
        found = counting.predict({"x": x}, state)["y"]
        np.testing.assert_array_equal(state["total"], x * calls)
        np.testing.assert_allclose(found, of_torch(modules.second, x * calls), atol=1e-2)
    list(counting.trace({"x": x}, state=state))
    counting.run({"x": x}, ["y"], state=state)
    np.testing.assert_array_equal(state["total"], x * 4)
    with pytest.raises(FeedError, match="keeps a state, 'total', and none is given"):
        counting.predict({"x": x})
    with pytest.raises(FeedError, match="no state 'other'"):
        counting.predict({"x": x}, {"other": state["total"]})


def test_a_failed_call_leaves_the_states_of_models_before_it(counting, monkeypatch):
    state = counting.make_state()

    def failing(*_arguments, **_keywords):
        raise EngineError("no")

    monkeypatch.setattr(list(counting.members.values())[-1]._engine, "run", failing)
    with pytest.raises(EngineError, match="no"):
        counting.predict({"x": np.ones((2, 4), np.float32)}, state)
    assert not state["total"].any()


def test_the_first_anomaly_is_that_of_the_first_model(chain):
    x = X.copy()
    x[0, 1] = np.inf
    list(chain.trace({"x": x}, census=True))
    assert chain.first_anomalies["inf"].op == "input"
    assert chain.first_anomalies["inf"].tensor == "model0/x"


def test_a_misspelt_inner_tensor_is_answered_with_names_of_the_pipeline(chain):
    with pytest.raises(FeedError, match="there is no tensor 'model0/hiden'") as raised:
        chain.run({"x": X}, ["model0/hiden"])
    assert "did you mean 'model0/hidden'?" in str(raised.value)


@pytest.mark.parametrize("labels", [["no", "yes", "perhaps"], [7, -1, 2**40]])
def test_a_pipeline_may_end_in_a_classifier(modules, convert, tmp_path, labels):
    import torch

    classifier = convert(
        torch.nn.Softmax(-1),
        torch.zeros(1, 3),
        inputs=lambda ct: [ct.TensorType(name="y", shape=(1, 3))],
        classifier_config=lambda ct: ct.ClassifierConfig(labels),
    )
    linear = convert(torch.nn.Linear(6, 3), torch.zeros(1, 6), **_names(["x"], [(1, 6)], "y"))
    model = mil.load(pipeline([linear, classifier], tmp_path / "p.mlpackage"))
    scores = mil.load(linear).predict({"x": X[:1]})["y"][0].astype(np.float64)
    found = model.predict({"x": X[:1]})
    assert found["classLabel"] == labels[int(scores.argmax())]
    assert list(found["classLabel_probs"]) == labels
    expected = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(list(found["classLabel_probs"].values()), expected, rtol=1e-6)


def test_images_are_handed_on_as_images(convert, tmp_path):
    import torch
    from PIL import Image

    class Third(torch.nn.Module):
        def forward(self, x):
            return x / 3

    def grey(ct, name, **shape):
        return ct.ImageType(name=name, color_layout=ct.colorlayout.GRAYSCALE, **shape)

    packages = [
        convert(
            Third(),
            torch.zeros(1, 1, 2, 3),
            inputs=lambda ct, name=given: [grey(ct, name, shape=(1, 1, 2, 3))],
            outputs=lambda ct, name=returned: [grey(ct, name)],
        )
        for given, returned in (("a", "b"), ("b", "c"))
    ]
    model = mil.load(pipeline(packages, tmp_path / "p.mlpackage"))
    pixels = np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3)
    once = np.rint(pixels / 3)  # an image has whole numbers
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(np.asarray(model.predict({"a": image})["c"]), np.rint(once / 3))
    inner = model.run({"a": image}, ["c"])["c"]
    np.testing.assert_allclose(inner, once[None, None] / 3, rtol=1e-6)
    traced = {tensor.name: tensor.value for tensor in model.trace({"a": image})}
    np.testing.assert_array_equal(traced["model1/c"], inner)


# ------------------------------------------------------------------ refusals


def refusal(call) -> str:
    with pytest.raises(LayerdiffError) as raised:
        call()
    return str(raised.value)


def test_what_does_not_fit(chain):
    assert "has no input 'z'" in refusal(lambda: chain.predict({"x": X, "z": X}))
    assert "the input 'x' is missing" in refusal(lambda: chain.predict({}))
    assert "model 'model0', function 'main'" in refusal(lambda: chain.predict({"x": X[:, :3]}))
    assert "did you mean 'model0/hidden'?" in refusal(lambda: chain.run({"x": X}, ["mode0/hidden"]))
    assert "there is no tensor 'model1/nothing'" in refusal(lambda: chain.run({"x": X}, ["model1/nothing"]))


def test_a_pipeline_has_no_functions(modules):
    assert "is a pipeline" in refusal(lambda: mil.load(modules.pipeline("first", "second"), function="main"))


def test_a_member_that_is_no_ml_program(modules, tmp_path):
    def edit(spec):
        spec.pipeline.models[1].neuralNetwork.SetInParent()

    message = refusal(lambda: mil.load(change(modules.pipeline("first", "second"), tmp_path, edit)))
    assert "the model 'model1' of the pipeline 'changed.mlpackage' is a 'neuralNetwork'" in message
    assert 'convert_to="mlprogram"' in message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda spec: spec.pipeline.models[0].description.ClearField("input"), None),
        (lambda spec: spec.description.ClearField("input"), "needs 'x', which is no input of the pipeline"),
        (lambda spec: spec.description.output.add(name="w"), "no model of the pipeline returns its output 'w'"),
        (lambda spec: spec.pipeline.ClearField("models"), "holds no model"),
    ],
)
def test_a_pipeline_that_contradicts_itself(modules, tmp_path, edit, message):
    package = change(modules.pipeline("first", "second"), tmp_path, edit)
    if message is None:
        assert mil.load(package).predict({"x": X})["y"].shape == (2, 3)
        return
    with pytest.raises(PackageError, match=message):
        mil.load(package)


# ------------------------------------------------------------------ packages


def test_neither_coremltools_nor_pillow_is_imported(modules):
    code = (
        "import sys, numpy as np; from layerdiff import mil; model = mil.load(sys.argv[1]);"
        "model.predict({'x': np.zeros((2, 6), np.float32)});"
        "assert not {'coremltools', 'PIL'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(modules.pipeline("first", "second"))], check=True)


@pytest.mark.parametrize("kind", ["pipelineClassifier", "pipelineRegressor"])
def test_classifier_and_regressor_pipelines_are_pipelines(modules, tmp_path, kind):
    def edit(spec):
        models = list(spec.pipeline.models)
        getattr(spec, kind).pipeline.models.extend(models)

    package = change(modules.pipeline("first", "second"), tmp_path, edit)
    assert isinstance(open_package(package), PipelinePackage)
    assert mil.load(package).predict({"x": X})["y"].shape == (2, 3)


def test_models_go_by_the_names_that_the_package_gives(modules, tmp_path):
    package = change(
        modules.pipeline("first", "second"), tmp_path, lambda spec: spec.pipeline.names.extend(["encoder", "joint"])
    )
    model = mil.load(package)
    assert list(model.members) == ["encoder", "joint"]
    assert "encoder/hidden" in [tensor.name for tensor in model.tensors]
    assert repr(model) == "Pipeline(changed.mlpackage, encoder -> joint)"
