"""Models that keep state, against the same torch module step by step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerdiff import mil, quiet
from layerdiff.errors import EngineError, FeedError
from layerdiff.mil.constants import Constants
from layerdiff.mil.engine import Engine
from layerdiff.mil.features import Interface, TensorSpec
from layerdiff.mil.ops.signature import Census
from layerdiff.mil.package import Package
from layerdiff.mil.plan import Graph
from layerdiff.mil.precision import Precision
from layerdiff.mil.program import Block, Constant, Function, Named, Op, Program, TensorType

F32 = TensorType("float32", (3,))


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


def hand_made(function: Function) -> mil.Model:
    graph = Graph(function)
    specs = {n: TensorSpec(n, t.dtype, (3,), kind=t.kind) for n, t in graph.types.items()}
    interface = Interface(
        inputs={name: specs[name] for name in graph.inputs},
        outputs={name: specs[name] for name in function.block.outputs},
        states={name: specs[name] for name in graph.states},
    )
    package = Package(Path("by hand"), Program({"main": function}), {"main": interface}, "main", 9)
    return mil.Model(package, graph, Precision(), Constants())


def by_hand(*ops: Op, outputs: tuple[str, ...]) -> mil.Model:
    """A model of the input `x` and the states `s` and `t`, all float32[3]."""
    state = replace(F32, kind="state")
    inputs = (Named("x", F32), Named("s", state), Named("t", state))
    return hand_made(Function("main", "CoreML8", inputs, Block((), ops, outputs, {})))


def read(result: str, state: str) -> Op:
    return Op("read_state", result, {"input": (state,)}, (Named(result, F32),))


def write(state: str, data: str) -> Op:
    return Op("write_state", f"write_{state}", {"input": (state,), "data": (data,)}, ())


def test_states_may_change_places():
    model = by_hand(read("a", "s"), read("b", "t"), write("s", "b"), write("t", "a"), outputs=("a", "b"))
    state = {"s": np.array([1, 2, 3], np.float32), "t": np.array([4, 5, 6], np.float32)}
    result = model.predict({"x": np.zeros(3, np.float32)}, state)
    assert (result["a"].tolist(), result["b"].tolist()) == ([1, 2, 3], [4, 5, 6])
    assert (state["s"].tolist(), state["t"].tolist()) == ([4, 5, 6], [1, 2, 3])
    for name in "ab":
        assert not any(np.shares_memory(result[name], array) for array in state.values())


def test_a_state_that_is_only_read_is_left_as_it_is():
    model = by_hand(read("a", "s"), write("t", "x"), outputs=("a",))
    state = {"s": np.full(3, 0.1, np.float64), "t": np.zeros(3, np.float64)}
    model.predict({"x": np.ones(3, np.float32)}, state)
    assert state["s"].tolist() == [0.1] * 3  # and not the nearest float32
    assert state["t"].tolist() == [1] * 3


def test_a_state_of_a_dtype_that_numpy_lacks_is_held_in_a_wider_one():
    narrow = TensorType("bfloat16", (3,))
    inputs = (Named("x", narrow), Named("s", replace(narrow, kind="state")))
    ops = (Op("read_state", "a", {"input": ("s",)}, (Named("a", narrow),)), write("s", "x"))
    function = Function("main", "CoreML8", inputs, Block((), ops, ("a",), {}))
    model = hand_made(function)
    state = model.make_state()
    assert state["s"].dtype == np.float32
    model.predict({"x": np.full(3, 1 / 3, np.float32)}, state)
    assert state["s"].tolist() == [0.333984375] * 3
    assert model.predict({"x": np.ones(3, np.float32)}, state)["a"].tolist() == [0.333984375] * 3


def test_a_call_whose_result_cannot_be_shown_leaves_the_state():
    shape = Constant("shape", TensorType("int32", (1,)), inline=np.array([3], np.int32))
    index = [Constant("i", TensorType("int32", ()), inline=np.array(i, np.int32)) for i in range(2)]
    ragged = TensorType("float32", (None,), "list")
    ops = (
        write("s", "x"),
        Op("make_list", "made", {"elem_shape": (shape,)}, (Named("made", ragged),)),
        Op("list_write", "one", {"ls": ("made",), "index": (index[0],), "value": ("x",)}, (Named("one", ragged),)),
        Op(
            "stack",
            "pair",
            {"values": ("x", "x"), "axis": (index[0],)},
            (Named("pair", TensorType("float32", (2, 3))),),
        ),
        Op("list_write", "two", {"ls": ("one",), "index": (index[1],), "value": ("pair",)}, (Named("two", ragged),)),
    )
    model = by_hand(*ops, outputs=("two",))
    state = model.make_state()
    with pytest.raises(EngineError, match="a list holds tensors of different shapes"):
        model.predict({"x": np.ones(3, np.float32)}, state)
    assert not state["s"].any()


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


def test_a_condition_may_do_nothing_but_write_a_state():
    x, state = TensorType("float32", (2,)), TensorType("float32", (2,), "state")
    write = Op("write_state", "write", {"input": ("s",), "data": ("x",)}, ())
    blocks = (Block((), (write,), (), {}), Block((), (), (), {}))
    ops = (
        Op("cond", "cond", {"pred": ("p",)}, (), blocks),
        Op("read_state", "y", {"input": ("s",)}, (Named("y", x),)),
    )
    inputs = (Named("x", x), Named("p", TensorType("bool", ())), Named("s", state))
    graph = Graph(Function("main", "CoreML8", inputs, Block((), ops, ("y",), {})))
    engine = Engine(graph, package="test", precision=Precision(), constants=Constants())
    for predicate, expected in ((True, [1.0, 2.0]), (False, [0.0, 0.0])):
        feed = {"x": torch.tensor([1.0, 2.0]), "p": torch.tensor(predicate)}
        states = {"s": torch.zeros(2)}
        result = engine.run(engine.compiled(["y"]), feed, {}, states, Census())
        assert result["y"].tolist() == states["s"].tolist() == expected
