from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerdiff.sources.torch_capture import Capture, watching
from layerdiff.sources.torch_source import TorchSource, held_tensors, plain_attention
from layerdiff.sources.torch_tensors import tensors_in
from tests.sources.torch_nets import CASES, Reused, as_tensors, case, floats, ready

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def source(module: nn.Module) -> TorchSource:
    return TorchSource.from_module(module, name="net")


def streamed(module: nn.Module, feed: dict[str, np.ndarray], wanted: list[str] | None = None) -> dict[str, np.ndarray]:
    got: dict[str, np.ndarray] = {}

    def sink(name: str, value: np.ndarray) -> None:
        assert name not in got
        got[name] = value.copy()

    source(module).stream(feed, sink, wanted)
    return got


def same(got: Any, expected: Tensor) -> None:
    np.testing.assert_array_equal(got, expected.numpy())
    assert got.dtype == expected.numpy().dtype


# ------------------------------------------------------------------ neutrality


@pytest.mark.parametrize("name", CASES)
def test_the_model_computes_the_same_bits(name: str) -> None:
    module, feed = case(name)
    with torch.inference_mode(), plain_attention():
        plain = [leaf.numpy().tobytes() for _, leaf in tensors_in(module(**as_tensors(feed)))]
    capture = Capture(held_tensors(module), sink=lambda *_: None)
    with torch.inference_mode(), plain_attention(), watching(module, capture):
        tensors = as_tensors(feed)
        capture.feed(tensors)
        output = module(**tensors)
    assert [leaf.numpy().tobytes() for _, leaf in tensors_in(output)] == plain


@pytest.mark.parametrize("name", ["attention", "convolutions"])
def test_outputs_are_those_of_an_ordinary_call_with_gradients(name: str) -> None:
    module, feed = case(name)
    expected = [leaf.detach() for _, leaf in tensors_in(module(**as_tensors(feed)))]
    outputs = source(module).outline(feed).outputs
    got = streamed(module, feed, list(outputs))
    assert len(expected) == len(outputs)
    for output, value in zip(outputs, expected, strict=True):
        same(got[output], value)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_left_behind(name: str) -> None:
    module, feed = case(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    given = {key: value.copy() for key, value in feed.items()}
    streamed(module, feed)
    assert all(not child._forward_hooks and not child._forward_pre_hooks for child in module.modules())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(np.array_equal(feed[key], given[key]) for key in feed)
    assert torch.backends.mha.get_fastpath_enabled()


# ------------------------------------------------------------------ values and names


def hooked(module: nn.Module, feed: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """What plain forward hooks record: `PATH[#CALL]` → a clone of the first tensor that the call returned."""
    record: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def hook(path: str) -> Any:
        def after(_: nn.Module, __: Any, output: Any) -> None:
            count = counts.setdefault(path, 0)
            counts[path] += 1
            tensor = next(leaf for _, leaf in tensors_in(output))
            record[f"{path}#{count}" if count else path] = tensor.clone()

        return after

    handles = [child.register_forward_hook(hook(path)) for path, child in module.named_modules() if path]
    with torch.inference_mode(), plain_attention():
        module(**as_tensors(feed))
    for handle in handles:
        handle.remove()
    return record


@pytest.mark.parametrize("name", CASES)
def test_module_tensors_are_those_that_hooks_record(name: str) -> None:
    module, feed = case(name)
    expected = hooked(module, feed)
    got = streamed(module, feed, list(expected))
    assert set(got) == set(expected)
    for tensor, value in expected.items():
        same(got[tensor], value)


@pytest.mark.parametrize("name", CASES)
def test_every_computed_tensor_is_streamed_once_in_order_under_its_main_name(name: str) -> None:
    module, feed = case(name)
    outline = source(module).outline(feed)
    got = streamed(module, feed)
    assert list(got) == [node.name for node in outline.nodes if node.kind != "constant"]
    for node in outline.nodes:
        if node.name in got:
            assert got[node.name].shape == node.shape
            assert got[node.name].dtype == node.dtype


@pytest.mark.parametrize("name", CASES)
def test_every_alias_names_the_same_values(name: str) -> None:
    module, feed = case(name)
    outline = source(module).outline(feed)
    names = [alias for node in (*outline.inputs, *outline.nodes) for alias in (node.name, *node.aliases)]
    assert len(names) == len(set(names))
    got = streamed(module, feed, names)
    assert set(got) == set(names)
    for node in (*outline.inputs, *outline.nodes):
        for alias in node.aliases:
            np.testing.assert_array_equal(got[alias], got[node.name])


def test_names_of_ops_and_modules() -> None:
    module, feed = case("reused")
    outline = source(module).outline(feed)
    nodes = [node for node in outline.nodes if node.kind != "constant"]
    assert [(node.name, node.aliases) for node in nodes] == [
        ("block.0", ("block.0/linear",)),
        ("block.1", ("block.1/relu", "block")),
        ("/add", ()),
        ("block.0#1", ("block.0#1/linear",)),
        ("block.1#1", ("block.1#1/relu", "block#1")),
        ("rnn", ("rnn/lstm", "rnn:0")),
        ("rnn:1.0", ("rnn/lstm:1", "rnn:1")),
        ("rnn:1.1", ("rnn/lstm:2",)),
    ]
    assert [node.scope for node in nodes] == ["block.0", "block.1", "", "block.0", "block.1", "rnn", "rnn", "rnn"]
    assert outline.outputs == ("rnn", "rnn:1.0", "rnn:1.1")


def test_dataclasses_and_named_tuples() -> None:
    module, feed = case("dataclasses")
    outline = source(module).outline(feed)
    assert outline.outputs == ("/add", "head/sin", "head/cos")
    x = torch.from_numpy(feed["x"])
    parts = {"head": x.exp(), "head:0.logits": x.exp(), "head:0.hidden.1": x.cos(), "head:1.1": x.neg()}
    got = streamed(module, feed, list(parts))
    for part, value in parts.items():
        same(got[part], value)


def test_a_module_that_returns_what_it_is_given_adds_a_name() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keep = nn.Identity()
            self.drop = nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            return self.keep(self.drop(self.keep(x).exp()))

    outline = source(Net().eval()).outline({"x": floats(2)})
    assert outline.inputs[0].aliases == ("keep",)
    assert [(node.name, node.aliases) for node in outline.nodes] == [("/exp", ("drop", "keep#1"))]


def test_an_input_keeps_its_name_where_a_module_has_the_same() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.x(x)

    feed = {"x": floats(1, 2)}
    outline = source(Net().eval()).outline(feed)
    assert [node.name for node in (*outline.inputs, *outline.nodes)] == ["x", "x/linear"]
    np.testing.assert_array_equal(streamed(Net().eval(), feed, ["x"])["x"], feed["x"])


def test_calls_that_fail_inside_the_model_end_where_they_failed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wrong, self.right = nn.Sequential(nn.Linear(3, 4)), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.wrong(x)
            except RuntimeError:
                return self.right(x)

    outline = source(Net().eval()).outline({"x": floats(1, 2)})
    assert [(node.name, node.inputs) for node in outline.nodes] == [("right", ("x",))]


def test_control_flow_follows_the_values() -> None:
    module, feed = case("stepwise")
    steps = {}
    with torch.inference_mode():
        x = torch.from_numpy(feed["x"])
        for count in range(8):
            x = torch.tanh(module.step(x)) * 2
            steps["/mul" if not count else f"/mul_{count}"] = x
            if x.sum() > 0:
                break
    got = streamed(module, feed)
    assert [name for name in got if "mul" in name] == list(steps)
    for name, value in steps.items():
        same(got[name], value)


# ------------------------------------------------------------------ in-place ops


def test_values_are_handed_out_before_they_are_overwritten() -> None:
    module, feed = case("in_place")
    with torch.inference_mode():
        linear = nn.functional.linear(torch.from_numpy(feed["x"]), module.fc.weight, module.fc.bias)
        plus = linear.relu() + 1
        scaled = torch.cat([plus[:, :1], plus[:, 1:] * 2], dim=1)
    assert (linear < 0).any()
    got = streamed(module, feed)
    expected = {"fc": linear, "act": linear.relu(), "/add": plus, "/slice": plus[:, 1:], "/mul": plus[:, 1:] * 2}
    expected |= {"/updated": scaled, "/neg": -scaled, "/view": scaled.view(-1), "/exp": scaled.view(-1).exp()}
    expected |= {"/updated_1": scaled.exp(), "/mul_1": scaled.exp()}
    assert list(got) == list(expected)
    for name, value in expected.items():
        same(got[name], value)


def test_readers_depend_on_what_was_written_last() -> None:
    module, feed = case("in_place")
    nodes = {node.name: node for node in source(module).outline(feed).nodes}
    reads = {name: node.inputs for name, node in nodes.items()}
    assert reads["act"] == ("fc",)
    assert reads["/add"] == ("act",)
    assert reads["/updated"] == ("/add", "/mul")  # what was there, and what was written over part of it
    assert reads["/neg"] == ("/updated",)
    assert reads["/updated_1"] == ("/exp",)  # all of it was written
    assert (nodes["/updated"].kind, nodes["/updated_1"].kind) == ("scatter", "reshape")


def graph(forward: Any, **feed: np.ndarray) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Node name → kind and inputs, of a function of tensors."""
    outline = TorchSource.from_module(nn.Identity().eval(), name="f", call=lambda _, t: forward(**t)).outline(feed)
    return {node.name: (node.kind, node.inputs) for node in outline.nodes}


def test_writing_a_slice_of_a_buffer_that_was_constant() -> None:
    def forward(x: Tensor) -> Tensor:
        out = x.new_zeros(3, 4)
        out[1:] = x
        return out.exp()

    nodes = graph(forward, x=floats(2, 4))
    assert nodes["/new_zeros"] == ("constant", ())
    assert nodes["/copy"] == ("cast", ("x",))
    assert nodes["/updated"] == ("scatter", ("/copy",))
    assert nodes["/exp"] == ("exp", ("/updated",))


def test_overwriting_with_a_constant_cuts_the_dependence() -> None:
    def forward(x: Tensor) -> Tensor:
        y = x.exp()
        y.fill_(2.0)
        return y.neg()

    assert graph(forward, x=floats(3))["/neg"] == ("constant", ())


def test_views_that_do_not_overlap_stay_as_they_are() -> None:
    def forward(x: Tensor) -> Tensor:
        even, odd = x.exp()[:, ::2], None
        odd = x.exp()
        left, right = odd[:, ::2], odd[:, 1::2]
        left.neg_()
        return even + right

    assert graph(forward, x=floats(2, 4))["/add"] == ("add", ("/slice", "/slice_2"))


def test_a_detached_tensor_is_the_tensor() -> None:
    def forward(x: Tensor) -> Tensor:
        y = x.exp()
        y.data.clamp_(max=1.0)
        return y.neg()

    assert graph(forward, x=floats(3))["/neg"] == ("neg", ("/clamp",))


def test_out_arguments_are_results() -> None:
    def forward(x: Tensor) -> Tensor:
        out = torch.empty(3)
        torch.exp(x, out=out)
        torch._foreach_add_([out], 1.0)
        return out.neg()

    nodes = graph(forward, x=floats(3))
    assert nodes["/exp"] == ("exp", ("x",))
    assert nodes["/_foreach_add"] == ("other", ("/exp",))
    assert nodes["/neg"] == ("neg", ("/_foreach_add",))


def test_an_op_that_reads_and_writes_the_same_tensor() -> None:
    def forward(x: Tensor) -> Tensor:
        y = x.exp()
        y.add_(y)
        return y

    assert graph(forward, x=floats(3))["/add"] == ("add", ("/exp", "/exp"))


def test_reused_addresses_are_no_old_tensors() -> None:
    """Freed tensors give their ids and memory to later ones."""

    def forward(x: Tensor) -> Tensor:
        for _ in range(50):
            x = x + 1
            torch.zeros(x.shape).add_(1)
        return x

    nodes = graph(forward, x=floats(64))
    previous = "x"
    for name, (_, inputs) in nodes.items():
        if nodes[name][0] == "add":
            assert inputs == (previous,)
            previous = name
    assert previous == "/add_98"


# ------------------------------------------------------------------ sinks


def test_one_tensor_under_two_names_is_given_twice() -> None:
    module, feed = case("reused")
    calls: list[str] = []
    source(module).stream(
        feed, lambda name, _: calls.append(name), ["block", "block.1", "block.1/relu", "x", "nowhere"]
    )
    assert sorted(calls) == ["block", "block.1", "block.1/relu", "x"]
    assert calls[0] == "x"


def test_constants_are_given_where_they_are_asked_for() -> None:
    module, feed = case("functional")
    got = streamed(module, feed, ["/t"])
    same(got["/t"], module.weight.detach().t())


def test_values_are_lent_read_only() -> None:
    def sink(_: str, value: np.ndarray) -> None:
        with pytest.raises(ValueError, match="read-only"):
            value[...] = 0

    module, feed = case("reused")
    source(module).stream(feed, sink)


@pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_sink_runs_as_if_it_stood_outside(outside: Any) -> None:
    module, feed = case("reused")
    inner, inner_feed = case("in_place")
    expected = streamed(inner, inner_feed)
    seen: list[str] = []

    def sink(name: str, _: np.ndarray) -> None:
        seen.append(name)
        states.add((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        assert len(torch.zeros(2) + 1) == 2  # not captured
        if torch.is_grad_enabled():
            x = torch.ones(2, requires_grad=True)
            (x * 3).sum().backward()
            assert x.grad is not None
        if name == "/add":
            again = streamed(inner, inner_feed)
            assert all(np.array_equal(again[key], expected[key]) for key in expected)

    states: set[tuple[bool, bool]] = set()
    with outside():
        here = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        source(module).stream(feed, sink, ["block", "/add", "rnn:1.1"])
    assert states == {here}
    assert seen == ["block", "/add", "rnn:1.1"]


@pytest.mark.parametrize("error", [ValueError("from the sink"), KeyboardInterrupt()])
def test_what_a_sink_raises_comes_through(error: BaseException) -> None:
    module, feed = case("reused")
    calls: list[str] = []

    def sink(name: str, _: np.ndarray) -> None:
        calls.append(name)
        if name == "/add":
            raise error

    with pytest.raises(type(error)) as caught:
        source(module).stream(feed, sink)
    assert caught.value is error
    assert calls[-1] == "/add"
    assert all(not child._forward_hooks for child in module.modules())
    assert len(streamed(module, feed)) == 8


def test_streaming_holds_no_tensor() -> None:
    """At no time is more alive than the model itself holds, and the result of the last op."""
    refs: list[weakref.ref[Tensor]] = []
    most = 0

    def forward(x: Tensor) -> Tensor:
        nonlocal most
        for _ in range(20):
            x = x.exp().neg()
            refs.append(weakref.ref(x))
            most = max(most, sum(ref() is not None for ref in refs))
        return x

    watched = TorchSource.from_module(nn.Identity().eval(), name="f", call=lambda _, t: forward(**t))
    watched.stream({"x": floats(8)}, lambda *_: None)
    gc.collect()
    assert most == 1
    assert all(ref() is None for ref in refs)
    refs.clear()
    outline = watched.outline({"x": floats(8)})
    assert len(outline.nodes) == 40
    assert most == 1
    assert all(ref() is None for ref in refs)


def test_repeated_runs_name_the_same_tensors() -> None:
    module = ready(Reused())
    feed = {"x": floats(1, 2, 4)}
    watched = source(module)
    first, second = watched.outline(feed), watched.outline(feed)
    assert [node.name for node in first.nodes] == [node.name for node in second.nodes]


def test_a_sink_may_run_the_very_module_that_is_watched() -> None:
    """A candidate that shares modules with the reference, or is the reference."""
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    x = np.ones((2, 4), np.float32)
    expected = streamed(module, {"input": x})
    found, inner = {}, []

    def sink(name: str, value: np.ndarray) -> None:
        found[name] = value.copy()
        inner.append(list(streamed(module, {"input": x})))

    source(module).stream({"input": x}, sink)
    assert list(found) == list(expected)
    assert inner == [list(expected)] * len(expected)
