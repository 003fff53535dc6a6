"""How the tests of the kernels call them: arrays in, arrays out, with what every kernel promises checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from layerdiff.mil import ops
from layerdiff.mil.ops.signature import AS_PARAMETER, Census, Out, Tensors

Run = Callable[..., np.ndarray]


def _tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def _shares_memory(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(tensor.numel()) and tensor.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


@pytest.fixture(scope="session")
def run() -> Run:
    """`run(op, x=array, …)`: the result of the kernel of an op as an array.

    Fails when the kernel changes an input, or when it returns (a view of) an input although the engine
    rounds its result in place. `opset` is CoreML7 (iOS17) unless it is given; `out` is the declared dtype.
    """

    def call(op: str, *, opset: str = "CoreML7", out: str = "float32", **inputs: Any) -> np.ndarray:
        kernel = ops.kernel_of(op, opset)
        given: dict[str, Any] = {}
        for name, value in inputs.items():
            annotation = kernel.parameters[name].annotation
            if annotation in AS_PARAMETER:
                given[name] = value
            else:
                given[name] = [_tensor(v) for v in value] if annotation == Tensors else _tensor(value)
        injected = {"out": Out("y", out, getattr(torch, out)), "census": Census()}
        result = kernel.function(**given, **{n: v for n, v in injected.items() if n in kernel.parameters})
        for name, value in inputs.items():
            for tensor, array in _pairs(given[name], value):
                np.testing.assert_array_equal(tensor.numpy(), array, err_msg=f"{op} changed its input '{name}'")
                assert kernel.exact or not _shares_memory(result, tensor), f"{op} returns its input '{name}'"
        return np.asarray(result.numpy())

    return call


def _pairs(tensors: Any, arrays: Any) -> list[tuple[torch.Tensor, Any]]:
    if isinstance(tensors, torch.Tensor):
        return [(tensors, arrays)]
    return list(zip(tensors, arrays, strict=True)) if isinstance(tensors, list) else []
