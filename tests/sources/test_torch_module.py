from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from layerdiff.errors import ConfigError
from layerdiff.sources.torch_module import TensorName, leaves_of, module_paths, recording


class Net(torch.nn.Module):
    """Works in place, calls a module twice, returns nested outputs, takes keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.act = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Linear(4, 4))
        self.rnn = torch.nn.LSTM(4, 3, num_layers=2)
        self.named = Named()
        self.layers = torch.nn.ModuleList([torch.nn.Identity()])
        self._hidden = torch.nn.Identity()

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        hidden = self.first(x)
        once = self.act(hidden)
        hidden += 1.0  # the caller writes into what the first module put out
        twice = self.act(once.clone())
        steps, states = self.rnn(twice)
        return {"steps": steps, "states": states, "named": self.named(scale=2.0, value=twice)}


class Named(torch.nn.Module):
    def forward(self, *, scale: float, value: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"zeta": value * scale, "alpha": value - scale}


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


ALL = (
    "first", "first:input", "act.0", "act.0:input", "act#1", "act.1", "rnn", "rnn:1.0", "rnn:1.1", "named:alpha",
    "named:input",
)  # fmt: skip


def flat(output: Any) -> list[np.ndarray]:
    return [leaf.detach().numpy().copy() for _, leaf in leaves_of(output)]


def test_hooks_do_not_change_a_bit(net: Net, x: torch.Tensor) -> None:
    plain = flat(net(x.clone()))
    with recording(net, ALL):
        hooked = flat(net(x.clone()))
    after = flat(net(x.clone()))
    assert len(plain) == 5
    for one, two, three in zip(plain, hooked, after, strict=True):
        assert one.tobytes() == two.tobytes() == three.tobytes()


def test_hooks_do_not_change_gradients(net: Net, x: torch.Tensor) -> None:
    def gradients() -> list[bytes]:
        net.zero_grad()
        net.act(net.first(x)).sum().backward()
        return [p.grad.numpy().tobytes() for p in net.parameters() if p.grad is not None]

    plain = gradients()
    with recording(net, ALL):
        hooked = gradients()
    assert plain == hooked
    assert len(plain) == 4


def test_an_input_is_what_the_module_saw_before_it_worked_in_place(net: Net, x: torch.Tensor) -> None:
    expected = torch.nn.functional.linear(x, net.first.weight, net.first.bias)
    assert expected.min() < 0
    with recording(net, ["act.0:input", "act.0", "first"]) as record:
        net(x)
    got = record.arrays()
    np.testing.assert_array_equal(got["act.0:input"], expected.detach().numpy())
    np.testing.assert_array_equal(got["act.0"], expected.clamp(min=0).detach().numpy())
    # neither the in-place ReLU nor the caller's `+= 1` reached the clone
    np.testing.assert_array_equal(got["first"], expected.detach().numpy())


def test_repeated_calls_are_kept_in_order(net: Net, x: torch.Tensor) -> None:
    with recording(net, ["act", "act#1", "act#2", "act:input", "act#1:input"]) as record:
        net(x)
    got = record.arrays()
    assert set(got) == {"act", "act#1", "act:input", "act#1:input"}
    np.testing.assert_array_equal(got["act#1:input"], got["act"])
    with torch.no_grad():
        np.testing.assert_array_equal(got["act#1"], net.act(torch.tensor(got["act"])).numpy())
    assert record.call_count("act") == 2


def test_parts_of_nested_values(net: Net, x: torch.Tensor) -> None:
    names = [
        "rnn",
        "rnn:0",
        "rnn:1",
        "rnn:1.0",
        "rnn:1.1",
        "rnn:2",
        "named",
        "named:zeta",
        "named:alpha",
        "named:input",
    ]
    with recording(net, names) as record:
        output = net(x)
    got = record.arrays()
    steps, (h, c) = output["steps"], output["states"]
    expected = {"rnn": steps, "rnn:0": steps, "rnn:1": h, "rnn:1.0": h, "rnn:1.1": c}
    expected |= {"named": output["named"]["zeta"], "named:zeta": output["named"]["zeta"]}
    expected |= {"named:alpha": output["named"]["alpha"]}
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value.detach().numpy(), err_msg=name)
    assert "rnn:2" not in got
    np.testing.assert_array_equal(got["named:input"] * 2, got["named:zeta"])  # the first tensor, not `scale`


def test_captured_arrays_are_independent_float32_copies() -> None:
    module = torch.nn.Sequential(torch.nn.Identity()).double()
    value = torch.arange(6, dtype=torch.float64).reshape(2, 3).T
    with recording(module, ["0"]) as record:
        module(value)
    first, second = record.arrays()["0"], record.arrays()["0"]
    assert first.dtype == np.float32
    assert first.flags.c_contiguous
    first[:] = -1
    value.zero_()
    np.testing.assert_array_equal(second, np.arange(6, dtype=np.float32).reshape(2, 3).T)


def hook_count(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_hooks_are_removed_even_on_error(net: Net, x: torch.Tensor) -> None:
    def fail() -> None:
        with recording(net, ALL):
            assert hook_count(net) > 0
            net(x[:, :3])

    with pytest.raises(RuntimeError, match="shapes"):
        fail()
    assert hook_count(net) == 0


def test_no_hook_is_left_when_a_name_is_unknown(net: Net) -> None:
    with pytest.raises(ConfigError) as caught, recording(net, ["first", "frist:input"]):
        pass
    assert hook_count(net) == 0
    lines = str(caught.value).splitlines()
    assert lines[0] == "the reference has no tensor 'frist:input'."
    assert "did you mean 'first'?" in str(caught.value)


@pytest.mark.parametrize("name", ["", ":input", "first#x", "first.weight"])
def test_names_that_are_no_module(net: Net, name: str) -> None:
    with pytest.raises(ConfigError), recording(net, [name]):
        pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("joint.enc", TensorName("joint.enc")),
        ("joint.joint_net.0:input", TensorName("joint.joint_net.0", is_input=True)),
        ("a.b:1.0", TensorName("a.b", part=("1", "0"))),
        ("a#2:input.1", TensorName("a", call=2, part=("1",), is_input=True)),
        ("a:inputs", TensorName("a", part=("inputs",))),
    ],
)
def test_parsing(text: str, expected: TensorName) -> None:
    assert TensorName.parse(text) == expected


def test_module_paths_leave_out_what_never_runs(net: Net) -> None:
    model = torch.nn.Module()
    model.net = net
    model.network = torch.nn.Identity()
    paths = module_paths(model, "net")
    assert paths[:4] == ("net", "net.first", "net.act", "net.act.0")
    assert "net.layers.0" in paths
    assert not {"net.layers", "net._hidden", "network"} & set(paths)
