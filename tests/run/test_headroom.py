"""What float16 would do to the reference, told from its own tensors alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save_file

from layerdiff import config
from layerdiff.float16 import Extent, Headroom
from layerdiff.progress import SILENT
from layerdiff.report import headroom as view
from layerdiff.report import terminal
from layerdiff.run.headroom import headroom


@settings(deadline=None, derandomize=True)
@given(
    st.lists(
        arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
        min_size=1,
        max_size=4,
    )
)
def test_an_extent_is_that_of_all_values_together(parts: list[np.ndarray]) -> None:
    extent = Extent()
    for part in parts:
        extent.update(part)
    values = np.concatenate(parts).astype(np.float64)
    finite = values[np.isfinite(values)]
    sizes = np.abs(finite[finite != 0])
    assert extent.not_finite == len(values) - len(finite)
    assert extent.largest == (np.abs(finite).max() if len(finite) else 0)
    assert (extent.nonzero, extent.small) == (len(sizes), int((sizes < 2.0**-14).sum()))
    with np.errstate(over="ignore", under="ignore"):
        assert extent.vanishing == int((sizes.astype(np.float16) == 0).sum())


class Net(torch.nn.Module):
    """Overflows in its first layer, and takes the logarithm of what float16 does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.large = torch.nn.Linear(8, 8)
        self.large.weight.data *= 1e6
        self.last = torch.nn.Linear(8, 8)
        self.soft = torch.nn.Softplus()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loud = torch.tanh(self.large(x) + 0 * self.soft(20 * x))
        return torch.log(torch.softmax(40 * self.last(loud), dim=-1) + 1e-9)


def make() -> torch.nn.Module:
    """A factory, as a configuration names it."""
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def measured(tmp_path: Path) -> list[Headroom]:
    x = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    save_file({"x": x}, str(tmp_path / "x.safetensors"))
    values: dict[str, Any] = {
        "reference": {"torch": f"{__name__}:make"},
        "candidates": {"later": {"coreml": "not-there-yet.mlpackage"}},
        "inputs": {"tensors": str(tmp_path / "x.safetensors")},
    }
    return headroom(config.from_mapping(values), progress=SILENT)


def test_risks_are_predicted_without_any_conversion(measured: list[Headroom]) -> None:
    found = {entry.tensor: entry for entry in measured}
    large = found["large"]
    assert large.overflows
    assert large.headroom < 1
    assert "infinite in float16" in large.risks[0]
    assert not found["last"].risks
    softplus = next(entry for entry in measured if entry.kind == "softplus")
    assert softplus.risks[-1] == "exp(x) of its operand overflows, unless its kernel subtracts the maximum first"
    soft = next(entry for entry in measured if entry.kind == "softmax")
    assert "of the probabilities become 0" in soft.risks[0]
    log = next(entry for entry in measured if entry.kind == "log")
    assert "logarithms of what float16 hardly holds" in log.risks[0]
    assert view.keep_in_float32(measured) == [entry.tensor for entry in measured if entry.risks]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_list_fits_and_shows_what_is_at_risk_alone(measured: list[Headroom], width: int) -> None:
    stream = io.StringIO()
    view.render(measured, terminal.console_for(stream, color=False, width=width), show_all=False)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "large (linear)" in text
    assert "last (linear)" not in text
    assert "2 overflow float16" in " ".join(text.split())
    everything = io.StringIO()
    view.render(measured, terminal.console_for(everything, color=False, width=width), show_all=True)
    assert "last (linear)" in everything.getvalue()


def test_the_document_has_every_tensor(measured: list[Headroom]) -> None:
    document = view.document(measured)
    assert [entry["tensor"] for entry in document["tensors"]] == [entry.tensor for entry in measured]
    assert document["keep_in_float32"][0] == "large"
    assert view.verdict([]) == "no float tensor was seen"
