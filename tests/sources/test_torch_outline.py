from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerdiff.outline import Node, Outline
from layerdiff.sources.torch_source import TorchSource
from tests.sources.torch_nets import CASES, case, floats, ready

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def outline_of(name: str) -> tuple[nn.Module, Outline]:
    module, feed = case(name)
    return module, TorchSource.from_module(module, name=name).outline(feed)


def drawn(forward: Any, **parts: Any) -> Outline:
    """The outline of a function of a module, which holds `parts`, and a tensor x, float32[2, 3]."""
    module = nn.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    call = lambda m, tensors: forward(m, tensors["x"])  # noqa: E731
    return TorchSource.from_module(module.eval(), name="f", call=call).outline({"x": floats(2, 3)})


def computed(outline: Outline) -> list[Node]:
    return [node for node in outline.nodes if node.kind != "constant"]


@pytest.mark.parametrize("name", CASES)
def test_names_are_unique_and_every_reference_is_resolved(name: str) -> None:
    _, outline = outline_of(name)
    names = [node.name for node in (*outline.inputs, *outline.nodes)]
    assert len(names) == len(set(names))
    seen = {node.name for node in outline.inputs}
    for node in outline.nodes:
        assert set(node.inputs) <= seen  # read after it was made
        assert set(node.weights.values()) <= set(outline.weights)
        seen.add(node.name)
    assert set(outline.outputs) <= seen


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_that_is_used_has_its_own_name_dtype_and_values(name: str) -> None:
    module, outline = outline_of(name)
    for key, value in {**dict(module.named_parameters()), **dict(module.named_buffers())}.items():
        weight = outline.weights[key]
        assert (weight.dtype, weight.shape) == (str(value.dtype).removeprefix("torch."), tuple(value.shape))
        assert weight.read is not None
        np.testing.assert_array_equal(weight.read(), value.detach().numpy())


def test_weights_have_roles() -> None:
    _, outline = outline_of("convolutions")
    roles = {node.name: (node.kind, dict(node.weights)) for node in computed(outline) if node.weights}
    two = lambda path: {"weight": f"{path}.weight", "bias": f"{path}.bias"}  # noqa: E731
    assert roles == {
        "net.0": ("conv", two("net.0")),
        "net.1": (
            "batch_norm",
            {**two("net.1"), "running_mean": "net.1.running_mean", "running_var": "net.1.running_var"},
        ),
        "net.3": ("conv", two("net.3")),
        "net.4": ("group_norm", two("net.4")),
        "net.5": ("prelu", {"weight": "net.5.weight"}),
        "net.6": ("conv_transpose", two("net.6")),
        "net.7": ("group_norm", two("net.7")),
        "norms.0": ("layer_norm", two("norms.0")),
        "norms.1": ("rms_norm", {"weight": "norms.1.weight"}),
    }
    others = [node.kind for node in computed(outline) if not node.weights]
    assert others == ["silu", "pool", "resize", "pad", "transpose", "gelu"]


def test_recurrent_weights_have_the_names_of_torch() -> None:
    module, outline = outline_of("cells")
    nodes = outline.by_name
    assert nodes["gru"].kind == "gru"
    assert dict(nodes["gru"].weights) == {name: f"gru.{name}" for name in module.gru._flat_weights_names}
    assert dict(nodes["rnn"].weights) == {"weight_ih_l0": "rnn.weight_ih_l0", "weight_hh_l0": "rnn.weight_hh_l0"}
    assert nodes["projected"].weights["weight_hr_l0"] == "projected.weight_hr_l0"
    cell = {role: f"cell.{role}" for role in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    assert (nodes["cell"].kind, dict(nodes["cell"].weights)) == ("lstm", cell)
    assert nodes["gru"].inputs == ("x",)


def test_functional_models_keep_their_weights() -> None:
    module, outline = outline_of("functional")
    assert [(node.name, node.kind, dict(node.weights)) for node in computed(outline)] == [
        ("/embedding", "embedding", {"weight": "table"}),
        ("/add", "add", {"other": "shift"}),
        ("/mul", "mul", {"other": "scale"}),
        ("/matmul", "linear", {"weight": "/t"}),
        ("/softmax", "softmax", {}),
    ]
    assert outline.by_name["/t"].kind == "constant"
    np.testing.assert_array_equal(outline.weights["/t"].read(), module.weight.detach().t().numpy())
    assert outline.inputs[0].dtype == "int64"


def test_tied_weights_have_the_first_name() -> None:
    _, outline = outline_of("tied")
    assert outline.by_name["embed"].weights == {"weight": "embed.weight"}
    assert outline.by_name["out"].weights == {"weight": "embed.weight"}
    assert "out.weight" not in outline.weights


def test_a_parametrised_weight_is_what_the_parametrisation_makes() -> None:
    module, outline = outline_of("tied")
    name = outline.by_name["mix"].weights["weight"]
    assert name == "mix.parametrizations.weight.0"
    g, v = module.mix.parametrizations.weight.original0, module.mix.parametrizations.weight.original1
    expected = (g * v / v.norm(dim=1, keepdim=True)).detach().double().numpy()
    np.testing.assert_allclose(outline.weights[name].read(), expected, rtol=1e-6)
    assert outline.by_name[name].kind == "constant"


def test_the_old_weight_norm_keeps_its_values_too() -> None:
    with pytest.warns(FutureWarning):
        fc = torch.nn.utils.weight_norm(nn.Linear(3, 2))
    outline = drawn(lambda m, x: m.fc(x), fc=fc)
    weight = outline.weights[outline.by_name["fc"].weights["weight"]]
    expected = (fc.weight_g * fc.weight_v / fc.weight_v.norm(dim=1, keepdim=True)).detach().numpy()
    np.testing.assert_allclose(weight.read(), expected, rtol=1e-6)


def test_joined_and_computed_weights() -> None:
    q, k = nn.Linear(3, 2), nn.Linear(3, 2)
    outline = drawn(lambda m, x: F.linear(x, torch.cat([m.q.weight, m.k.weight])), q=q, k=k)
    assert [(node.kind, dict(node.weights)) for node in computed(outline)] == [("linear", {"weight": "/cat"})]
    expected = np.concatenate([q.weight.detach().numpy(), k.weight.detach().numpy()])
    np.testing.assert_array_equal(outline.weights["/cat"].read(), expected)


def test_a_product_of_computed_tensors_is_a_matmul() -> None:
    outline = drawn(lambda m, x: F.linear(x, x) @ torch.einsum("ij,kj->ik", x, m.w), w=nn.Parameter(torch.ones(2, 3)))
    assert [(node.op, node.kind) for node in computed(outline)] == [
        ("aten.linear", "matmul"),
        ("aten.einsum", "linear"),
        ("aten.matmul", "matmul"),
    ]


def test_a_weight_that_is_made_anew_in_every_call_is_one_weight() -> None:
    fc = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    outline = drawn(lambda m, x: m.fc(m.fc(x)), fc=fc)
    assert [node.weights["weight"] for node in computed(outline)] == ["fc.parametrizations.weight.0"] * 2
    assert [node.name for node in computed(outline)] == ["fc", "fc#1"]


def test_a_weight_that_differs_between_calls_is_two() -> None:
    class Drifting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.count = nn.Parameter(torch.ones(3)), 0

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x * (self.weight * self.count)

    outline = drawn(lambda m, x: m.drift(m.drift(x)), drift=Drifting())
    first, second = (outline.weights[node.weights["other"]] for node in computed(outline))
    assert first.read().tolist() == [1, 1, 1]
    assert second.read().tolist() == [2, 2, 2]


def test_a_derived_weight_keeps_the_values_that_were_read() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        scale = m.w.exp()
        x = x * scale
        scale.zero_()
        return x + scale

    outline = drawn(forward, w=nn.Parameter(torch.zeros(3)))
    assert outline.weights[outline.by_name["/mul"].weights["other"]].read().tolist() == [1, 1, 1]


def test_constants_that_come_from_no_weight_are_neither_inputs_nor_weights() -> None:
    outline = drawn(lambda m, x: x * torch.arange(3) + torch.zeros_like(x))
    assert [(node.name, node.inputs, dict(node.weights)) for node in computed(outline)] == [
        ("/mul", ("x",), {}),
        ("/add", ("/mul",), {}),
    ]
    assert [node.kind for node in outline.nodes if node.kind == "constant"] == ["constant"] * 2


def test_a_buffer_that_the_model_writes_becomes_computed() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.cache[:, :3] = x
        return m.cache + 1

    module_cache = nn.Module()
    module_cache.register_buffer("cache", torch.zeros(2, 5))
    outline = drawn(lambda m, x: forward(m.inner, x), inner=module_cache)
    assert [(node.name, node.inputs) for node in computed(outline)] == [
        ("/copy", ("x",)),
        ("/updated", ("/copy",)),
        ("/add", ("/updated",)),
    ]


def test_a_weight_that_is_returned_is_a_constant() -> None:
    outline = drawn(lambda m, x: (x, m.w), w=nn.Parameter(torch.ones(2)))
    assert outline.outputs == ("x", "w")
    assert outline.by_name["w"].kind == "constant"


def test_several_results() -> None:
    outline = drawn(lambda m, x: x.max(dim=1))
    assert [(node.name, node.result, node.dtype, node.shape) for node in outline.nodes] == [
        ("/max", 0, "float32", (2,)),
        ("/max:1", 1, "int64", (2,)),
    ]
    assert outline.outputs == ("/max", "/max:1")


def test_half_precision_is_declared_and_widened() -> None:
    module = ready(nn.Sequential(nn.Linear(3, 2))).bfloat16()
    source = TorchSource.from_module(module, name="half")
    outline = source.outline({"input": floats(1, 3)})
    assert [(node.name, node.dtype) for node in (*outline.inputs, *outline.nodes)] == [
        ("input", "bfloat16"),
        ("0", "bfloat16"),
    ]
    weight = outline.weights["0.weight"]
    assert (weight.dtype, weight.read().dtype) == ("bfloat16", np.float32)
    np.testing.assert_array_equal(weight.read(), module[0].weight.detach().float().numpy())
    dtypes: list[Any] = []
    source.stream({"input": floats(1, 3)}, lambda _, value: dtypes.append(value.dtype))
    assert dtypes == [np.float32]
