"""Refusing what the machine cannot hold."""

from __future__ import annotations

import pytest
import torch

from layerdiff.errors import EngineError
from layerdiff.mil import memory
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
