"""One and the same weights, out of every kind of file; what is no checkpoint is refused, and no pickle is executed."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from layerdiff import quiet
from layerdiff.errors import CheckpointError, LayerdiffError
from layerdiff.outline import Outline, Weight
from layerdiff.sources.checkpoint import joined, outline_of_file
from layerdiff.sources.recorded_writer import record
from layerdiff.sources.torch_source import TorchSource
from tests.align.networks import convert
from tests.align.outlines import node

X = np.zeros((1, 4, 6), np.float32)


def net() -> torch.nn.Module:
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3)).eval()


def state() -> dict[str, torch.Tensor]:
    return net().state_dict()


def _torch(path: Path) -> None:
    torch.save(state(), path)


def _lightning(path: Path) -> None:
    torch.save({"epoch": 3, "optimizer_states": [{"lr": 0.1}], "state_dict": state()}, path)


def _nested(path: Path) -> None:
    torch.save({"model": {"state_dict": state()}}, path)


def _legacy(path: Path) -> None:
    torch.save(state(), path, _use_new_zipfile_serialization=False)


def _safetensors(path: Path) -> None:
    save_file(state(), path)


def _script(path: Path) -> None:
    with quiet.third_party():
        torch.jit.trace(net(), torch.from_numpy(X)).save(str(path))


def _exported(path: Path) -> None:
    with quiet.third_party():
        torch.export.save(torch.export.export(net(), (torch.from_numpy(X),)), path)


def _trace(path: Path) -> None:
    with quiet.third_party():
        record(TorchSource.from_module(net(), name="net"), [("feed", {"input": X})], path)


def _package(path: Path) -> None:
    convert(net(), {"x": X}, path)


def _onnx(path: Path) -> None:
    with quiet.third_party():
        torch.onnx.export(net(), (torch.from_numpy(X),), str(path), dynamo=False)


FILES: dict[str, Callable[[Path], None]] = {
    "net.pt": _torch,
    "lightning.ckpt": _lightning,
    "nested.pth": _nested,
    "legacy.pt": _legacy,
    "net.safetensors": _safetensors,
    "script.pt": _script,
    "exported.pt2": _exported,
    "net.trace": _trace,
    "net.mlpackage": _package,
    "net.onnx": _onnx,
}
"""File name → what writes it."""


def values(outline: Outline) -> list[np.ndarray]:
    """The weights of more than one axis, the smallest first."""
    read = [w.read() for w in outline.weights.values() if w.read is not None and len(w.shape) > 1]
    return sorted(read, key=lambda value: value.size)


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_holds_the_same_weights(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path / name)
    outline = outline_of_file(tmp_path / name)
    expected = [state()[key].numpy() for key in ("2.weight", "0.weight")]
    if name == "net.trace":  # which holds their fingerprints, and nothing to read
        assert {weight.shape for weight in outline.weights.values()} >= {(7, 6), (3, 7)}
        assert all(weight.fingerprint.norm > 0 for weight in outline.weights.values())
        return
    found = [value if value.shape == e.shape else value.T for value, e in zip(values(outline), expected, strict=True)]
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_bundled_model_by_its_name() -> None:
    outline = outline_of_file("parakeet-tdt-mini")
    assert "joint.enc.weight" in outline.weights
    weight = outline.weights["joint.enc.weight"]
    assert weight.read is not None
    assert weight.read().shape == weight.shape


def test_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint_factory.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Linear(2, 3).eval()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert {name: w.shape for name, w in outline_of_file("checkpoint_factory:make").weights.items()} == {
        "weight": (3, 2),
        "bias": (3,),
    }


class Trap:
    """Says so when a pickle is executed."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_no_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state(), "extra": Trap()}, tmp_path / "trap.pt")
    Path("trap.ckpt").write_bytes(pickle.dumps(Trap(), protocol=2))
    for name in ("trap.pt", "trap.ckpt"):
        with pytest.raises(CheckpointError, match="is damaged, or holds pickled objects instead of tensors"):
            outline_of_file(tmp_path / name)
    assert not Path("executed").exists()


DAMAGED: dict[str, Callable[[Path], Any]] = {
    "cut.pt": lambda path: (_torch(path), path.write_bytes(path.read_bytes()[:-200])),
    "empty.pt": lambda path: path.write_bytes(b""),
    "text.pt": lambda path: path.write_text("weights: none"),
    "numbers.pt": lambda path: torch.save({"lr": 0.1}, path),
    "list.pt": lambda path: torch.save([1, 2], path),
    "cut.safetensors": lambda path: (_safetensors(path), path.write_bytes(path.read_bytes()[:-9])),
    "text.safetensors": lambda path: path.write_text("weights: none"),
    "text.onnx": lambda path: path.write_text("weights: none"),
    "empty.trace": lambda path: path.mkdir(),
    "empty.mlpackage": lambda path: path.mkdir(),
    "text.nemo": lambda path: path.write_text("weights: none"),
    "empty.nemo": lambda path: tarfile.open(path, "w").close(),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_or_holds_no_weights_is_refused_by_name(name: str, tmp_path: Path) -> None:
    DAMAGED[name](tmp_path / name)
    with pytest.raises(LayerdiffError) as caught:
        outline_of_file(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["no.pt", "no.safetensors", "no.nemo", "no.onnx", "no.trace", "no.mlpackage", "no"])
def test_what_is_not_there_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(LayerdiffError) as caught:
        outline_of_file(tmp_path / name)
    assert name in str(caught.value)


def test_the_members_of_a_pipeline_keep_their_weights_apart() -> None:
    def member(value: float) -> Outline:
        weight = Weight("w", "float32", (2,), lambda: np.full(2, value, np.float32))
        return Outline("m", (), (node("y", "linear", "x", weights={"weight": "w"}),), ("y",), {"w": weight})

    whole = joined("pipe", {"first": member(1), "second": member(2)})
    assert list(whole.weights) == ["first.w", "second.w"]
    assert [n.weights["weight"] for n in whole.nodes] == ["first.w", "second.w"]
    second = whole.weights["second.w"].read
    assert second is not None
    assert second()[0] == 2
