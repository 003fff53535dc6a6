from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerdiff.errors import CheckpointError, ConfigError, FeedError
from layerdiff.sources.torch_source import TorchSource
from layerdiff.store import sha256_file
from tests.sources.torch_nets import floats, ready


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(3, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x)) + x


class Plain(nn.Module):
    """A reused block, an in-place op, a buffer, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.drop = Block(), nn.Dropout()
        self.act = nn.ReLU(inplace=True)
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        y = self.act(self.block(self.block(x)) * self.scale)
        return self.drop(y), bias + y


class Nested(nn.Module):
    """One of its inputs is a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Plain()

    def forward(self, x: Tensor, more: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.net(x, more["bias"])


FEED = {"x": floats(2, 3), "bias": floats(3, seed=1)}


def example() -> tuple[Tensor, Tensor]:
    return torch.from_numpy(FEED["x"]).clone(), torch.from_numpy(FEED["bias"]).clone()


def plain_values() -> dict[str, Tensor]:
    """What `Plain` computes, written out."""
    net = ready(Plain())
    x, bias = example()
    with torch.inference_mode():
        values = {"x": x, "fc": net.block.fc(x)}
        values["once"] = values["fc"].relu() + x
        values["again"] = net.block.fc(values["once"])
        values["twice"] = values["again"].relu() + values["once"]
        values["act"] = (values["twice"] * net.scale).relu()
        values["sum"] = bias + values["act"]
    return values


def streamed(source: TorchSource, feed: dict[str, np.ndarray], wanted: list[str]) -> dict[str, np.ndarray]:
    got: dict[str, np.ndarray] = {}
    source.stream(feed, lambda name, value: got.update({name: value.copy()}), wanted)
    return got


@pytest.fixture
def scripted(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.script(ready(Plain())), path)
    return path


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(ready(Plain()), example()), path)
    return path


# ------------------------------------------------------------------ files


def test_torchscript(scripted: Path) -> None:
    source = TorchSource.open(str(scripted))
    assert source.signature == ("x", "bias")
    assert source.description["class"] == "Plain"
    assert source.description["sha256"] == sha256_file(scripted)
    outline = source.outline(FEED)
    names = {"fc": "block.fc/linear", "again": "block.fc/linear_1", "act": outline.outputs[0], "sum": "/add_2"}
    assert outline.outputs[1] == "/add_2"
    assert [outline.by_name[names[key]].scope for key in ("fc", "again")] == ["block.fc", "block.fc"]
    assert dict(outline.by_name["block.fc/linear_1"].weights) == {"weight": "block.fc.weight", "bias": "block.fc.bias"}
    values = plain_values()
    got = streamed(source, FEED, list(names.values()))
    for key, name in names.items():
        np.testing.assert_array_equal(got[name], values[key].numpy())
    again = TorchSource.open(str(scripted))  # the profiling executor changes nothing after the first runs
    for _ in range(3):
        assert [node.name for node in again.outline(FEED).nodes] == [node.name for node in outline.nodes]


def test_a_traced_model_is_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "traced.pt"
    torch.jit.save(torch.jit.trace(ready(Plain()), example()), path)
    outline = TorchSource.open(str(path)).outline(FEED)
    assert [node.name for node in outline.nodes if node.weights][:2] == ["block.fc/linear", "block.fc/linear_1"]


def test_scripted_modules_inside_of_plain_ones() -> None:
    net = ready(nn.Sequential(nn.Linear(3, 3), torch.jit.script(ready(Block()))))
    outline = TorchSource.from_module(net, name="mixed").outline({"input": floats(1, 3)})
    assert [node.name for node in outline.nodes] == ["0", "1.fc/linear", "/relu", "/add"]


def test_exported_programs_keep_the_names_of_their_modules(exported: Path) -> None:
    source = TorchSource.open(str(exported))
    assert source.signature == ("x", "bias")
    assert source.description["class"] == "Plain"
    outline = source.outline(FEED)
    eager = TorchSource.from_module(ready(Plain()), name="eager").outline(FEED)
    facts = [(node.name, node.kind, node.inputs, dict(node.weights), node.scope) for node in eager.nodes]
    assert [(n.name, n.kind, n.inputs, dict(n.weights), n.scope) for n in outline.nodes] == facts
    assert outline.outputs == eager.outputs
    names = {"fc": "block.fc", "once": "block", "again": "block.fc#1", "twice": "block#1", "act": "act", "sum": "/add"}
    values = plain_values()
    got = streamed(source, FEED, list(names.values()))
    for key, name in names.items():
        np.testing.assert_array_equal(got[name], values[key].numpy())


def test_exported_programs_with_nested_inputs() -> None:
    program = torch.export.export(ready(Nested()), (example()[0],), {"more": {"bias": example()[1]}})
    source = TorchSource.from_module(program.module(), name="nested")
    assert source.signature == ("x", "more_bias")
    outline = source.outline({"x": FEED["x"], "more_bias": FEED["bias"]})
    assert outline.by_name[outline.outputs[1]].inputs == ("more_bias", "net.act")


def test_an_exported_program_refuses_other_shapes(exported: Path) -> None:
    source = TorchSource.open(str(exported))
    with pytest.raises(FeedError, match="refuses the feed") as caught:
        source.outline({"x": floats(4, 3), "bias": FEED["bias"]})
    assert "x.size()[0] == 2" in str(caught.value)


def test_a_program_exported_in_train_mode_is_refused() -> None:
    program = torch.export.export(ready(Plain()).train(), example())
    with pytest.raises(ConfigError, match="the op 'dropout' is training"):
        TorchSource.from_module(program.module(), name="trained")


@pytest.mark.parametrize("spoil", ["state_dict", "module", "legacy", "text"])
def test_what_cannot_be_run_is_refused(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "model.pth"
    net = ready(Plain())
    if spoil == "text":
        path.write_text("weights")
    else:
        content = net if spoil == "module" else net.state_dict()
        torch.save(content, path, _use_new_zipfile_serialization=spoil != "legacy")
    with pytest.raises(CheckpointError) as caught:
        TorchSource.open(str(path))
    assert ("executes nothing pickled" in str(caught.value)) == (spoil != "text")
    assert "torch: package.module:factory" in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_damaged_files_are_refused(tmp_path: Path, scripted: Path, exported: Path, suffix: str) -> None:
    original = scripted if suffix == ".pt" else exported
    damaged = tmp_path / f"damaged{suffix}"
    with zipfile.ZipFile(original) as old, zipfile.ZipFile(damaged, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"?" if name.endswith(("constants.pkl", "model.json")) else old.read(name))
    with pytest.raises(CheckpointError, match=r"'damaged\.pt2?' is a damaged"):
        TorchSource.open(str(damaged))


class Bomb:
    """Its pickle runs code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


@pytest.mark.parametrize("member", ["sample_inputs/model.pt", "model_weights_config.json"])
def test_an_exported_program_is_never_unpickled(
    tmp_path: Path, exported: Path, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil, bomb = tmp_path / "evil.pt2", tmp_path / "bomb"
    torch.save(Bomb(), bomb)
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(evil, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(member) and member.endswith(".json"):
                config = json.loads(content)
                for entry in config["config"].values():
                    entry["use_pickle"] = True
                content = json.dumps(config).encode()
            elif name.endswith((member, "weight_0")):
                content = bomb.read_bytes()
            new.writestr(name, content)
    with pytest.raises(CheckpointError, match="holds pickled objects"):
        TorchSource.open(str(evil))
    assert not (tmp_path / "exploded").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no torch model"):
        TorchSource.open(str(tmp_path / "absent.pt"))


# ------------------------------------------------------------------ factories


FACTORIES = """
import torch

class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.eval()

def build():
    return Net()

def training():
    return Net().train()

def broken():
    raise LookupError("no weights here")

def number():
    return 3

instance = Net()
"""


@pytest.fixture
def module_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "my_factories.py").write_text(FACTORIES)
    before = list(sys.path)
    yield "my_factories"
    sys.modules.pop("my_factories", None)
    assert sys.path == before


@pytest.mark.parametrize("attribute", ["build", "Net", "instance"])
def test_factories_in_the_working_directory(module_name: str, attribute: str) -> None:
    source = TorchSource.open(f"{module_name}:{attribute}")
    assert source.description["source"] == f"my_factories:{attribute}"
    outline = source.outline({"input": floats(1, 2)})
    assert [node.kind for node in outline.nodes] == ["linear"]
    assert outline.title == f"my_factories:{attribute}"


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("training", "the reference is in train mode"),
        ("broken", "LookupError: no weights here"),
        ("number", "got int"),
        ("biuld", "did you mean 'build'?"),
    ],
)
def test_factories_that_make_no_reference(module_name: str, attribute: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TorchSource.open(f"{module_name}:{attribute}")
    assert message in str(caught.value)


def test_a_module_that_cannot_be_imported(module_name: str) -> None:
    with pytest.raises(ConfigError, match="'my_factory' of 'my_factory:build' cannot be imported") as caught:
        TorchSource.open("my_factory:build")
    assert "ModuleNotFoundError" in str(caught.value)
