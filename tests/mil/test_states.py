"""Models that keep state, against the same torch module step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerdiff import mil, quiet
from layerdiff.errors import EngineError, FeedError


class Accumulator(torch.nn.Module):
    """Two states, one of them written twice and read between."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1, 4))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.total.add_(x)
        before = self.total * 2
        self.total.mul_(0.5)
        self.seen.add_(1)
        return before + x, self.total / self.seen


class Cache(torch.nn.Module):
    """A key cache: a row is written at a position that is an input, and the whole is read."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(6, 4))

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        self.keys[position : position + 1] = x
        return torch.softmax(x @ self.keys.T, -1)


def converted(module: torch.nn.Module, inputs: dict[str, torch.Tensor], path: Path) -> mil.Model:
    with quiet.third_party():
        import coremltools as ct

        states = [
            ct.StateType(wrapped_type=ct.TensorType(shape=tuple(buffer.shape), dtype=np.float16), name=name)
            for name, buffer in module.named_buffers()
        ]
        kinds = {torch.float32: np.float16, torch.int32: np.int32}
        traced = torch.jit.trace(module.eval(), tuple(inputs.values()), check_trace=False)
        for buffer in traced.buffers():
            buffer.zero_()
        model = ct.convert(
            traced,
            inputs=[ct.TensorType(name=n, shape=tuple(v.shape), dtype=kinds[v.dtype]) for n, v in inputs.items()],
            states=states,
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
        model.save(str(path))
    return mil.load(path)


@pytest.fixture(scope="module")
def accumulator(tmp_path_factory) -> mil.Model:
    path = tmp_path_factory.mktemp("states") / "accumulator.mlpackage"
    return converted(Accumulator(), {"x": torch.ones(1, 4)}, path)


def steps(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, 4)).astype(np.float16) for _ in range(count)]


def test_states_are_no_inputs_and_begin_as_zeros(accumulator):
    assert list(accumulator.inputs) == ["x"]
    state = accumulator.make_state()
    assert {n: (a.dtype.name, a.shape, a.any()) for n, a in state.items()} == {
        "total": ("float16", (1, 4), False),
        "seen": ("float16", (1,), False),
    }


def test_a_state_goes_from_call_to_call(accumulator):
    module, model = Accumulator(), accumulator.with_precision("float32")
    state = model.make_state()
    for x in steps(5):
        expected = module(torch.from_numpy(x).float())
        for result, wanted in zip(model.predict({"x": x}, state=state).values(), expected, strict=True):
            np.testing.assert_allclose(result, wanted.numpy(), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(state["total"], module.total.numpy(), rtol=1e-6)
        assert state["seen"].tolist() == module.seen.tolist()


def test_two_states_do_not_know_each_other(accumulator):
    first, second = accumulator.make_state(), accumulator.make_state()
    (x,) = steps(1)
    once = accumulator.predict({"x": x}, state=first)
    accumulator.predict({"x": x}, state=first)
    again = accumulator.predict({"x": x}, state=second)
    for name in once:
        np.testing.assert_array_equal(once[name], again[name])
    assert first["seen"] == 2
    assert second["seen"] == 1


def test_a_declared_state_is_rounded_to_float16(accumulator):
    state, total = accumulator.make_state(), np.zeros((1, 4), np.float16)
    for x in steps(4):
        accumulator.predict({"x": x}, state=state)
        total = (total + x) * np.float16(0.5)
        np.testing.assert_array_equal(state["total"], total)


def test_a_cache_is_written_at_a_computed_position(tmp_path):
    module = Cache()
    inputs = {"x": torch.ones(1, 4), "position": torch.zeros(1, dtype=torch.int32)}
    model = converted(Cache(), inputs, tmp_path / "c.mlpackage")
    model = model.with_precision("float32")
    state = model.make_state()
    for position, x in enumerate(steps(6)):
        at = np.array([position], np.int32)
        expected = module(torch.from_numpy(x).float(), torch.from_numpy(at))
        (result,) = model.predict({"x": x, "position": at}, state=state).values()
        np.testing.assert_allclose(result, expected.numpy(), rtol=1e-5)
        np.testing.assert_allclose(state["keys"], module.keys.numpy(), rtol=1e-6)


def test_an_inner_tensor_depends_on_what_was_written_before_it(accumulator):
    last = [t for t in accumulator.tensors if t.op == "read_state" or t.op.startswith("real_div")][-1].name
    assert {"x", "total"} <= accumulator.ancestors(last)
    assert accumulator.depth(last) > 2
    (x,) = steps(1)
    state, whole = accumulator.make_state(), accumulator.make_state()
    alone = accumulator.run({"x": x}, [last], state=state)[last]
    traced = {t.name: t.value for t in accumulator.trace({"x": x}, state=whole)}
    np.testing.assert_array_equal(alone, traced[last])
    for name in state:  # every write is done, whatever is asked for
        np.testing.assert_array_equal(state[name], whole[name])


def test_a_failed_call_leaves_the_state(accumulator, monkeypatch):
    from layerdiff.mil import ops

    def broken(*, x: Any, y: Any) -> Any:
        raise RuntimeError("no")

    broken.__annotations__ = {"x": torch.Tensor, "y": torch.Tensor}
    monkeypatch.setitem(ops.KERNELS, "real_div", broken)
    model = accumulator.with_precision("declared")
    state = model.make_state()
    state["seen"][...] = 3
    with pytest.raises(EngineError, match="real_div"):
        model.predict({"x": steps(1)[0]}, state=state)
    assert state["seen"] == 3
    assert not state["total"].any()


def test_a_wrong_state_is_refused(accumulator):
    (x,) = steps(1)
    state = accumulator.make_state()
    with pytest.raises(FeedError, match=r"the model keeps a state, '(total|seen)', and none is given"):
        accumulator.predict({"x": x})
    with pytest.raises(FeedError, match="the model has no state 'sum'"):
        accumulator.predict({"x": x}, state={**state, "sum": x})
    with pytest.raises(FeedError, match="the state 'seen' does not fit") as raised:
        accumulator.predict({"x": x}, state={"total": state["total"]})
    assert "got NoneType" in str(raised.value)
    with pytest.raises(FeedError, match="the state 'total' does not fit") as raised:
        accumulator.predict({"x": x}, state={**state, "total": np.zeros((1, 5), np.float16)})
    assert "expected a writable array float16[1, 4], got float16[1, 5]" in str(raised.value)
