"""`layerdiff inspect`: what a model holds, and whether it holds a checkpoint's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerdiff.cli import main
from tests.align.networks import convert

X = np.zeros((1, 4, 6), np.float32)


def net() -> torch.nn.Module:
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package, its checkpoint, one with a changed row, and one of another model."""
    folder = tmp_path_factory.mktemp("inspect")
    convert(net(), {"x": X}, folder / "net.mlpackage", precision="float16")
    torch.save(net().state_dict(), folder / "same.pt")
    changed = net().state_dict()
    changed["2.weight"][1] *= 1.5
    torch.save(changed, folder / "changed.pt")
    torch.save(torch.nn.Linear(50, 60).state_dict(), folder / "other.pt")
    return folder


def run(capsys: Any, *arguments: Any) -> tuple[int, str]:
    code = main(["inspect", *map(str, arguments)])
    shown = capsys.readouterr()
    assert shown.err == ""
    return code, shown.out


def test_the_terminal_shows_what_the_json_holds(folder: Path, capsys: Any) -> None:
    code, text = run(capsys, folder / "net.mlpackage", "--no-color")
    assert code == 0
    code, printed = run(capsys, folder / "net.mlpackage", "--json")
    assert code == 0
    found = json.loads(printed)
    (part,) = found["parts"]
    assert part["precision"] == "float16"
    assert found["audit"] is None
    for name in (*(p["name"] for p in part["inputs"]), *(p["name"] for p in part["outputs"])):
        assert name in text
    for tensor in part["tensors"]:
        assert (tensor["name"] in text) or not tensor["is_landmark"]
    assert "\x1b" not in text


def test_all_lists_every_tensor(folder: Path, capsys: Any) -> None:
    _, text = run(capsys, folder / "net.mlpackage", "--all")
    _, printed = run(capsys, folder / "net.mlpackage", "--json")
    for tensor in json.loads(printed)["parts"][0]["tensors"]:
        assert tensor["name"] in text


@pytest.mark.parametrize(
    ("checkpoint", "code", "counts"),
    [
        ("same.pt", 0, {"matched": 4}),
        ("changed.pt", 1, {"changed": 1, "matched": 3}),
        ("other.pt", 1, {"missing": 2}),
    ],
)
def test_an_audit_ends_with_its_exit_code(
    checkpoint: str, code: int, counts: dict[str, int], folder: Path, capsys: Any
) -> None:
    ended, printed = run(capsys, folder / "net.mlpackage", "--weights", folder / checkpoint, "--json")
    audit = json.loads(printed)["audit"]
    assert (ended, audit["exit_code"], audit["counts"]) == (code, code, counts)


def test_a_changed_row_is_named_with_its_factor(folder: Path, capsys: Any) -> None:
    """The package holds the row without the 1.5: two thirds of what the checkpoint has."""
    _, text = run(capsys, folder / "net.mlpackage", "--weights", folder / "changed.pt", "--no-color")
    _, printed = run(capsys, folder / "net.mlpackage", "--weights", folder / "changed.pt", "--json")
    (changed,) = [w for w in json.loads(printed)["audit"]["weights"] if w["verdict"] == "changed"]
    assert changed["name"] == "2.weight"
    assert "2.weight" in text
    assert "1" in changed["reason"]
    assert changed["difference"]["relative_l2_error"] == pytest.approx(_relative(), rel=1e-2)


def _relative() -> float:
    before, after = net().state_dict()["2.weight"].double(), net().state_dict()["2.weight"].double()
    after[1] *= 1.5
    return float((before - after).norm() / after.norm())


def test_what_cannot_be_inspected_is_refused(tmp_path: Path, capsys: Any) -> None:
    assert main(["inspect", str(tmp_path / "no.mlpackage")]) == 2
    shown = capsys.readouterr()
    assert "no.mlpackage" in shown.err
    assert shown.out == ""
