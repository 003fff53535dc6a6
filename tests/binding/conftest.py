"""Models that coremltools converts while `predict` is enabled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from layerdiff import quiet
from layerdiff.binding import enable_predict

Convert = Callable[..., Any]


@pytest.fixture(scope="session")
def ct() -> Any:
    """coremltools, as it is on this machine."""
    with quiet.third_party():
        import coremltools
    return coremltools


@pytest.fixture
def enabled(ct: Any) -> Iterator[None]:
    """`predict` works during the test."""
    with enable_predict():
        yield


@pytest.fixture(scope="session")
def convert(ct: Any) -> Convert:
    """`convert(module, x=tensor, …)`: the `MLModel` of a torch module, converted and loaded in memory.

    `inputs` replaces the types of the inputs; other keywords go to `coremltools.convert`.
    """

    def converted(
        module: Any,
        *,
        precision: str = "float32",
        target: str = "iOS16",
        inputs: Any = None,
        options: dict[str, Any] | None = None,
        **feed: Any,
    ) -> Any:
        import torch

        with quiet.third_party(), enable_predict():
            return ct.convert(
                torch.jit.trace(module.eval(), tuple(feed.values())),
                inputs=inputs or [ct.TensorType(name=n, shape=t.shape) for n, t in feed.items()],
                convert_to="mlprogram",
                compute_precision=getattr(ct.precision, precision.upper()),
                minimum_deployment_target=getattr(ct.target, target),
                **(options or {"outputs": [ct.TensorType(name="y")]}),
            )

    return converted


@pytest.fixture(scope="session")
def network() -> Any:
    """Three linear layers with activations, of fixed weights: `a`, `b`, `c`."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = torch.nn.Linear(8, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 4)

        def forward(self, x: Any) -> Any:
            return self.c(torch.tanh(self.b(torch.relu(self.a(x)))))

    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="session")
def x() -> Any:
    """float32[2, 8], a feed of `network`."""
    import torch

    return torch.randn(2, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def model(convert: Convert, network: Any, x: Any) -> Any:
    """`network` in float32, with the input `x` and the output `y`."""
    return convert(network, x=x)
