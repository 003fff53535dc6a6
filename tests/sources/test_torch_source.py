from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerdiff.errors import ConfigError, EngineError, FeedError
from layerdiff.sources.torch_source import TorchSource
from tests.sources.torch_nets import CASES, case, floats, ready

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


class Typed(nn.Module):
    """Records the dtypes that it is fed."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.fed: dict[str, torch.dtype] = {}

    def forward(self, x: Tensor, lengths: Tensor | None = None, *, mask: Tensor | None = None) -> Tensor:
        given = {"x": x, "lengths": lengths, "mask": mask}
        self.fed = {name: tensor.dtype for name, tensor in given.items() if tensor is not None}
        return x * self.scale


def source(module: nn.Module, **options: Any) -> TorchSource:
    return TorchSource.from_module(module.eval(), name="net", **options)


def ignore(name: str, value: np.ndarray) -> None:
    """A sink."""


def test_description() -> None:
    module, _ = case("tied")
    assert source(module).description == {
        "source": "net",
        "engine": "torch",
        "class": "Tied",
        "parameters": 6 * 4 + 4 * 4 + 4 + 4,
        "dtype": "float32",
        "device": "cpu",
        "torch": torch.__version__,
        "eval": True,
        "fused_attention": False,
    }


@pytest.mark.parametrize(("name", "expected"), [("functional", ("tokens",)), ("stepwise", ("x", "limit"))])
def test_signature(name: str, expected: tuple[str, ...]) -> None:
    assert source(case(name)[0]).signature == expected


def test_inputs_stand_in_the_order_of_the_signature() -> None:
    feed = {"mask": np.ones(2, bool), "lengths": np.ones(2, np.int32), "x": floats(2)}
    outline = source(Typed()).outline(feed)
    assert [(node.name, node.kind, node.dtype) for node in outline.inputs] == [
        ("x", "input", "float32"),
        ("lengths", "input", "int32"),
        ("mask", "input", "bool"),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floats_are_fed_in_the_dtype_of_the_model_and_integers_in_their_own(dtype: torch.dtype) -> None:
    module = Typed().to(dtype)
    feed = {"x": np.ones(2, np.float64), "lengths": np.ones(2, np.int64), "mask": np.ones(2, bool)}
    source(module).stream(feed, ignore)
    assert module.fed == {"x": dtype, "lengths": torch.int64, "mask": torch.bool}


def test_a_model_without_parameters_is_fed_what_is_given() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    outline = source(Net()).outline({"x": np.ones(2)})
    assert (outline.inputs[0].dtype, outline.nodes[0].dtype) == ("float64", "float64")


def test_unknown_inputs_are_refused_with_the_known_ones() -> None:
    with pytest.raises(FeedError) as caught:
        source(Typed()).outline({"x": floats(2), "length": floats(2)})
    assert str(caught.value).splitlines()[0] == "the model has no input 'length'."
    assert "its inputs: x, lengths, mask — did you mean 'lengths'?" in str(caught.value)


def test_missing_inputs_are_refused() -> None:
    with pytest.raises(FeedError, match="the feed lacks the input 'x'") as caught:
        source(Typed()).stream({"mask": floats(2)}, ignore)
    assert "given: mask" in str(caught.value)


def test_an_array_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(FeedError, match="the input 'x' is object"):
        source(Typed()).outline({"x": np.array([None])})


def test_names_of_keyword_arguments_are_free() -> None:
    class Net(nn.Module):
        def forward(self, **tensors: Tensor) -> Tensor:
            return tensors["a"] + tensors["b"]

    outline = source(Net()).outline({"a": floats(2), "b": floats(2)})
    assert outline.nodes[0].inputs == ("a", "b")


def test_an_own_call_replaces_forward() -> None:
    module, _ = case("reused")
    watched = source(module, call=lambda net, feed: net.block(feed["y"]) * 2)
    assert watched.signature == ()
    outline = watched.outline({"y": floats(2, 4)})
    assert [(node.name, node.inputs) for node in outline.nodes] == [
        ("block.0", ("y",)),
        ("block.1", ("block.0",)),
        ("/mul", ("block.1",)),
    ]


@pytest.mark.parametrize("spoil", [lambda net: net.train(), lambda net: net.net[9].train()])
def test_train_mode_is_refused(spoil: Any) -> None:
    module, feed = case("convolutions")
    watched = source(module)
    spoil(module)
    for refused in (lambda: TorchSource.from_module(module, name="net"), lambda: watched.stream(feed, ignore)):
        with pytest.raises(ConfigError, match="the reference is in train mode") as caught:
            refused()
        assert "is training" in str(caught.value)
        assert ".eval()" in str(caught.value)
    module.eval()
    watched.stream(feed, ignore)


def test_the_first_module_that_train_mode_changes_is_named() -> None:
    module, _ = case("convolutions")
    with pytest.raises(ConfigError, match=r"'net.1' \(BatchNorm1d\) is training"):
        TorchSource.from_module(module.train(), name="net")


def test_a_model_that_fails_is_an_engine_error_that_names_the_op() -> None:
    module, _ = case("reused")
    with pytest.raises(EngineError) as caught:
        source(module).outline({"x": floats(2, 3, 5)})
    assert "block.0/linear" in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_half_of_a_run_was_streamed_before_it_failed() -> None:
    module = ready(nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4)))
    got: list[str] = []
    with pytest.raises(EngineError, match="1/linear"):
        source(module).stream({"input": floats(1, 3)}, lambda name, _: got.append(name))
    assert got == ["0"]


@pytest.mark.parametrize("name", CASES)
def test_outlines_are_the_same_whatever_was_run_before(name: str) -> None:
    module, feed = case(name)
    watched = source(module)
    first = watched.outline(feed)
    watched.stream(feed, ignore)
    assert [(n.name, n.kind, n.inputs, n.aliases) for n in watched.outline(feed).nodes] == [
        (n.name, n.kind, n.inputs, n.aliases) for n in first.nodes
    ]
