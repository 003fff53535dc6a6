"""`layerdiff.diff`: any two kinds of model, from Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import layerdiff
from layerdiff import quiet
from layerdiff.errors import LayerdiffError
from layerdiff.sources.recorded_writer import record
from layerdiff.sources.torch_source import TorchSource
from tests.align.networks import convert

X = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(6, 7)
        self.down = torch.nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(x)))


def net() -> Net:
    torch.manual_seed(5)
    return Net().eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One and the same model in every form that a source takes."""
    folder = tmp_path_factory.mktemp("models")
    x = torch.from_numpy(X)
    with quiet.third_party():
        torch.jit.trace(net(), x).save(str(folder / "script.pt"))
        torch.export.save(torch.export.export(net(), (x,)), folder / "exported.pt2")
        torch.onnx.export(net(), (x,), str(folder / "net.onnx"), dynamo=False, input_names=["x"])
        record(TorchSource.from_module(net(), name="Net"), [("feed", {"x": X})], folder / "net.trace")
    convert(net(), {"x": X}, folder / "net.mlpackage")
    convert(net(), {"x": X}, folder / "half.mlpackage", precision="float16")
    names = ("script.pt", "exported.pt2", "net.onnx", "net.trace", "net.mlpackage", "half.mlpackage")
    return {"module": net(), **{name: folder / name for name in names}}


KINDS = ("module", "script.pt", "exported.pt2", "net.onnx", "net.trace", "net.mlpackage")


@pytest.mark.parametrize("reference", KINDS)
def test_any_kind_of_model_is_compared_with_every_other(reference: str, models: dict[str, Any]) -> None:
    """All computing ops pair up, and their values agree to float32 rounding."""
    report = layerdiff.diff(reference=models[reference], candidates=dict(models), feed={"x": X})
    assert report.ok, {name: [(r.name, r.reason) for r in c.stages] for name, c in report.candidates.items()}
    for name, candidate in report.candidates.items():
        by_onnx = name == reference == "net.onnx"  # in which a linear layer is a product and a sum
        assert len(candidate.stages) == (5 if by_onnx else 3), name
        assert all(row.metrics["relative_l2_error"] < (1e-3 if "half" in name else 1e-6) for row in candidate.stages)


def test_a_package_against_its_other_precision(models: dict[str, Any]) -> None:
    """The float16 one is held against the float32 one without a torch model in sight."""
    report = layerdiff.diff(
        reference=models["net.mlpackage"], candidates={"half": models["half.mlpackage"]}, feed={"x": X}
    )
    (half,) = report.candidates.values()
    assert report.ok
    assert {row.alignment_method for row in half.stages} == {"name", "structure"}
    assert all(1e-5 < row.metrics["relative_l2_error"] < 1e-3 for row in half.stages)


def test_a_loaded_package_is_a_model_too(models: dict[str, Any]) -> None:
    report = layerdiff.diff(
        reference=models["module"], candidates={"it": layerdiff.load(models["net.mlpackage"])}, feed={"x": X}
    )
    assert report.ok


def test_tensors_and_several_feeds_are_fed(models: dict[str, Any]) -> None:
    feeds = [{"x": torch.from_numpy(X)}, {"x": X + 1}]
    report = layerdiff.diff(reference=models["module"], candidates={"it": models["net.mlpackage"]}, feed=feeds)
    assert report.ok
    assert [clip["name"] for clip in report.inputs["clips"]] == ["feed 0", "feed 1"]
    exact = np.concatenate([net().up(torch.from_numpy(X + i)).detach().numpy() for i in (0, 1)])
    row = next(row for row in report.candidates["it"].stages if row.name == "up")
    assert (row.reference.min, row.reference.max) == (exact.min(), exact.max())  # type: ignore[union-attr]


def test_given_stages_are_compared_and_nothing_else(models: dict[str, Any]) -> None:
    whole = layerdiff.diff(reference=models["module"], candidates={"it": models["net.mlpackage"]}, feed={"x": X})
    tensor = next(row.candidate.tensor for row in whole.candidates["it"].stages if row.name == "down")  # type: ignore[union-attr]
    report = layerdiff.diff(
        reference=models["module"],
        candidates={"it": models["net.mlpackage"]},
        feed={"x": X},
        stages={"out": {"reference": "down", "candidate": tensor}, "last": {"of": "out", "slice": "..., -1:"}},
    )
    assert [row.name for row in report.candidates["it"].stages] == ["out", "last"]
    assert report.ok


def test_estimated_limits_run_each_side_once(models: dict[str, Any]) -> None:
    report = layerdiff.diff(
        reference=models["module"], candidates={"it": models["net.mlpackage"]}, feed={"x": X}, limits="estimated"
    )
    assert report.ok
    assert all(row.own_error is None for row in report.candidates["it"].stages)


def test_a_threshold_of_the_user_replaces_the_limit(models: dict[str, Any]) -> None:
    report = layerdiff.diff(
        reference=models["module"],
        candidates={"half": models["half.mlpackage"]},
        feed={"x": X},
        thresholds={"relative_l2_error": 1e-9},
    )
    assert not report.ok
    assert report.first_divergence == "up"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"candidates": {}}, "there is no candidate to compare"),
        ({"thresholds": {"cosine": 1}}, "there is no metric 'cosine'"),
        ({"feed": 3}, "a feed"),
        ({"candidates": {"it": "no.mlpackage"}}, "no.mlpackage"),
        ({"reference": "no_module:make"}, "no_module"),
        ({"stages": {"out": {"reference": "down"}}}, "out"),
        ({"stages": {"out": {"reference": "dwn", "candidate": "x"}}}, "did you mean 'down'"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, Any], said: str, models: dict[str, Any]) -> None:
    asked = {"reference": models["module"], "candidates": {"it": models["net.mlpackage"]}, "feed": {"x": X}} | options
    with pytest.raises(LayerdiffError) as caught:
        layerdiff.diff(**asked)
    assert said in str(caught.value)


def test_log_probabilities_are_held_to_normalised_logits(models: dict[str, Any]) -> None:
    class Normalised(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log_softmax(self.net(x), dim=-1)

    found = {}
    for is_normalised in (False, True):
        stage = {"reference": "down", "candidate": "/log_softmax", "log_softmax": is_normalised}
        candidates = {"it": Normalised().eval()}
        report = layerdiff.diff(reference=models["module"], candidates=candidates, feed={"x": X}, stages={"out": stage})
        found[is_normalised] = report.status
    assert found == {False: "fail", True: "pass"}
