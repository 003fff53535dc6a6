from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from layerdiff.sources.torch_source import TorchSource
from tests.sources.torch_nets import as_tensors, floats, ready


class Autocast(nn.Module):
    """Switches autocast on and off inside of itself, around composite ops."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.gru, self.out = nn.Linear(4, 4), nn.GRU(4, 4, batch_first=True), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.fc(x)
            y, _ = self.gru(x)
            with torch.autocast("cpu", enabled=False):
                y = self.out(y.float())
        return x, y


def outputs(module: nn.Module, feed: dict[str, Any]) -> list[bytes]:
    """The bits of what the module returns while it is captured."""
    source = TorchSource.from_module(module, name="net")
    names = source.outline(feed).outputs
    got: dict[str, bytes] = {}
    source.stream(feed, lambda name, value: got.update({name: value.tobytes()}), names)
    return [got[name] for name in names]


@pytest.mark.parametrize("around", [False, True])
def test_autocast_inside_and_around_the_model_stays_as_it_is(around: bool) -> None:
    module, feed = ready(Autocast()), {"x": floats(2, 3, 4)}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=around):
        with torch.inference_mode():
            plain = [tensor.float().numpy().tobytes() for tensor in module(**as_tensors(feed))]
        assert outputs(module, feed) == plain


def test_a_product_with_a_weight_that_wants_no_gradient() -> None:
    """matmul folds its first factor or doesn't, by whether the second wants a gradient."""
    module, feed = ready(nn.GRU(4, 4, batch_first=True)), {"input": floats(2, 3, 4)}
    bits = {}
    for wants in (True, False):
        module.requires_grad_(wants)
        with torch.inference_mode():
            plain = [tensor.numpy().tobytes() for tensor in module(**as_tensors(feed))]
        bits[wants] = outputs(module, feed)
        assert bits[wants] == plain


class Counting(TorchDispatchMode):
    """A mode of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_a_mode_of_the_user_sees_the_model_and_not_the_sink() -> None:
    source = TorchSource.from_module(nn.ReLU().eval(), name="net")
    with Counting() as counting:
        source.stream({"input": floats(2)}, lambda *_: torch.ones(2).neg())
    assert counting.ops[-1] == "aten::relu"
    assert "aten::neg" not in counting.ops
