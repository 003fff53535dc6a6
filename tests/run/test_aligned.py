"""One feed through both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch

from layerdiff import mil, quiet
from layerdiff.run import aligned
from layerdiff.run.aligned_trial import AlignedTrial
from layerdiff.run.runs import PackageRuns
from layerdiff.sources.torch_source import TorchSource


def test_freed_memory_is_returned_once_at_the_first_tensor_that_the_heap_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()).eval()
    x = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    with quiet.third_party():
        ct.convert(
            torch.jit.trace(net, (torch.from_numpy(x),)),
            inputs=[ct.TensorType(name="input", shape=x.shape)],
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        ).save(str(tmp_path / "net.mlpackage"))
    model: Any = mil.load(tmp_path / "net.mlpackage")
    trial = AlignedTrial("it", "net", TorchSource.from_module(net, name="net"), PackageRuns(model))
    returned: list[int] = []
    monkeypatch.setattr(aligned, "return_freed", lambda: returned.append(1))
    aligned.compare_feed([trial], {"input": x}, "small")
    assert not returned
    monkeypatch.setattr(aligned, "HEAP_TENSOR_BYTES", x.nbytes)  # what both of the stages have
    aligned.compare_feed([trial], {"input": x}, "large")
    assert returned == [1]
