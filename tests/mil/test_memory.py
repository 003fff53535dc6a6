"""Refusing what the machine cannot hold."""

from __future__ import annotations

import pytest
import torch

from layerdiff.errors import EngineError
from layerdiff.mil import memory
from layerdiff.mil.ops import KERNELS
from layerdiff.mil.ops.signature import Out
from layerdiff.mil.program import TensorType


def test_what_fits_and_what_is_not_known_is_not_refused(monkeypatch):
    monkeypatch.setattr(memory, "machine_bytes", lambda: 24)
    for shape in ((2, 3), (None, 10**9), None, (10**9, 0)):
        memory.require_room("t", TensorType("float32", shape), torch.float32, where="here")
    with pytest.raises(EngineError, match="the tensor 't' does not fit into memory") as raised:
        memory.require_room("t", TensorType("float32", (7,)), torch.float32, where="here")
    assert "in here" in str(raised.value)
    memory.require_room("t", TensorType("float16", (12,)), torch.float16, where="here")


def test_the_machine_has_some_memory():
    assert memory.machine_bytes() > 2**28


FLOATS = Out("x", "float32", torch.float32)
HUGE = 10**7


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("fill", {"shape": (HUGE, HUGE), "out": FLOATS}),
        ("one_hot", {"indices": torch.zeros(9, dtype=torch.int32), "one_hot_vector_size": HUGE**2, "out": FLOATS}),
        ("pad", {"x": torch.zeros(2, 3), "pad": (0, HUGE, HUGE, 0)}),
        ("range_1d", {"start": torch.tensor(0.0), "end": torch.tensor(1e14), "step": torch.tensor(1.0), "out": FLOATS}),
        ("tile", {"x": torch.zeros(2, 3), "reps": (HUGE, HUGE)}),
        ("random_normal", {"shape": (HUGE, HUGE), "out": FLOATS}),
        ("random_uniform", {"shape": (HUGE, HUGE), "out": FLOATS}),
        ("random_bernoulli", {"shape": (HUGE, HUGE), "out": FLOATS}),
    ],
)
def test_a_shape_that_was_computed_may_be_absurd_too(op, inputs):
    with pytest.raises(MemoryError, match=r"a tensor of \d+\.\d GiB was asked for, the machine has"):
        KERNELS[op](**inputs)
