"""Stateful models: `make_state`, `predict(state=…)`, `read_state` and `write_state`, against torch step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerdiff import quiet

Convert = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("enabled")


class Memory(torch.nn.Module):
    """Sums what it is given, and keeps the last row of it; whole numbers stay exact in float16."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(2, 3))
        self.register_buffer("rows", torch.zeros(4, 3))

    def forward(self, x: Any) -> Any:
        self.total.add_(x)
        self.rows[1:3] = x * 2
        return self.total * self.rows.sum(0)


STEPS = [torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]) + step for step in range(4)]


@pytest.fixture(scope="module")
def memory(ct: Any, convert: Convert) -> Any:
    with quiet.third_party():
        states = [
            ct.StateType(ct.TensorType(shape=(2, 3), dtype=np.float16), name="total"),
            ct.StateType(ct.TensorType(shape=(4, 3), dtype=np.float16), name="rows"),
        ]
        return convert(
            Memory(),
            x=STEPS[0],
            target="iOS18",
            precision="float16",
            options={"outputs": [ct.TensorType(name="y")], "states": states},
        )


def test_every_step_is_what_torch_computes(memory: Any) -> None:
    reference, state = Memory(), memory.make_state()
    for x in STEPS:
        expected = reference(x)
        outputs = memory.predict({"x": x.numpy()}, state=state)
        np.testing.assert_array_equal(outputs["y"], expected.numpy())
        np.testing.assert_array_equal(state.read_state("total"), reference.total.numpy())
        np.testing.assert_array_equal(state.read_state("rows"), reference.rows.numpy())
    assert np.abs(state.read_state("total")).max() > 0


def test_states_begin_at_zero_and_are_independent(memory: Any) -> None:
    first, second = memory.make_state(), memory.make_state()
    memory.predict({"x": STEPS[0].numpy()}, state=first)
    np.testing.assert_array_equal(second.read_state("total"), np.zeros((2, 3)))
    np.testing.assert_array_equal(memory.make_state().read_state("rows"), np.zeros((4, 3)))


def test_a_state_that_is_written_is_what_the_next_step_sees(memory: Any) -> None:
    state = memory.make_state()
    state.write_state("total", np.full((2, 3), 100.0))
    memory.predict({"x": STEPS[0].numpy()}, state=state)
    np.testing.assert_array_equal(state.read_state("total"), STEPS[0].numpy() + 100)


def test_what_is_read_is_a_copy(memory: Any) -> None:
    state = memory.make_state()
    read = state.read_state("total")
    assert read.dtype == np.float32
    read += 1
    np.testing.assert_array_equal(state.read_state("total"), np.zeros((2, 3)))


def test_a_compiled_model_has_states(ct: Any, memory: Any, tmp_path: Path) -> None:
    memory.save(str(tmp_path / "m.mlpackage"))
    path = ct.utils.compile_model(str(tmp_path / "m.mlpackage"), str(tmp_path / "m.mlmodelc"))
    loaded = ct.models.CompiledMLModel(path)
    state = loaded.make_state()
    outputs = loaded.predict({"x": STEPS[1].numpy()}, state)
    np.testing.assert_array_equal(outputs["y"], Memory()(STEPS[1]).numpy())


class TestRefusals:
    def test_an_unknown_state(self, memory: Any) -> None:
        state = memory.make_state()
        with pytest.raises(RuntimeError, match="has no state 'totals'") as caught:
            state.read_state("totals")
        assert "did you mean 'total'?" in str(caught.value)
        with pytest.raises(RuntimeError, match="has no state 'totals'"):
            state.write_state("totals", np.zeros((2, 3)))

    def test_a_value_of_another_shape(self, memory: Any) -> None:
        with pytest.raises(RuntimeError, match=r"expected float16\[2, 3\], got float64\[3\]"):
            memory.make_state().write_state("total", np.zeros(3))

    def test_no_state(self, memory: Any) -> None:
        with pytest.raises(RuntimeError, match="Unable to compute the prediction using ML Program"):
            memory.predict({"x": STEPS[0].numpy()})

    def test_a_batch_with_a_state_is_refused_by_coremltools(self, memory: Any) -> None:
        with pytest.raises(AssertionError, match="unbatched"):
            memory.predict([{"x": STEPS[0].numpy()}], state=memory.make_state())
