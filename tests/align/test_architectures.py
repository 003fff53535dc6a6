"""Ten architectures align completely with no map, with the names of coremltools and with meaningless ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerdiff import mil
from layerdiff.records import CandidateResult
from tests.align.agreement import candidate_values, missing_outputs, reference_values, relative_error, wrong_pairs
from tests.align.conftest import Prepared, compared
from tests.align.networks import COMPRESSED, FLOAT16, NETWORKS, Pair, Projections, convert
from tests.align.scramble import WEIGHTS, blocks, scramble, specification

TOLERANCE = {"float32": 2e-6, "float16": 4e-3}
"""Relative L2 error of an output against torch: what rounding costs in so few layers."""


# ------------------------------------------------------------------ the proving ground itself


CONVERSIONS = [*((name, "float32") for name in NETWORKS), *((name, "float16") for name in FLOAT16)]


@pytest.mark.parametrize(("name", "precision"), CONVERSIONS)
def test_a_conversion_computes_what_its_module_does(name: str, precision: str, prepared: Prepared) -> None:
    pair = prepared(name, precision=precision)
    outputs = mil.load(pair.package).predict(pair.feed)
    for expected, got in zip(pair.reference(), outputs.values(), strict=True):
        assert got.shape == expected.shape
        error = np.linalg.norm(got.astype(np.float64) - expected) / np.linalg.norm(expected)
        assert error < TOLERANCE[precision]


def values_in(package: Path, feed: dict[str, Any]) -> list[np.ndarray]:
    return [tensor.value for tensor in mil.load(package).trace(feed)]


@pytest.mark.parametrize(("name", "rename_interface"), [*((name, True) for name in NETWORKS), ("conv", False)])
def test_scrambled_names_change_no_tensor(
    name: str, rename_interface: bool, prepared: Prepared, tmp_path: Path
) -> None:
    pair = prepared(name)
    out = tmp_path / "scrambled.mlpackage"
    names = scramble(pair.package, out, rename_interface=rename_interface)
    feed = {names.get(key, key): value for key, value in pair.feed.items()}
    assert set(mil.load(out).inputs) == set(feed)
    assert (set(feed) != set(pair.feed)) == rename_interface
    expected, got = values_in(pair.package, dict(pair.feed)), values_in(out, feed)
    assert len(expected) == len(got)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(expected, got, strict=True))


def strings_in(package: Path) -> Iterator[str]:
    """Every name that a package gives away."""
    spec = specification(package)
    for function in spec.mlProgram.functions.values():
        yield from (value.name for value in function.inputs)
        for outermost in function.block_specializations.values():
            for block in blocks(outermost):
                yield from (value.name for op in block.operations for value in op.outputs)
                yield from (
                    op.attributes["name"].immediateValue.tensor.strings.values[0]
                    for op in block.operations
                    if "name" in op.attributes
                )


@pytest.mark.parametrize("name", ["conv", "recurrent"])
def test_nothing_readable_is_left(name: str, prepared: Prepared, tmp_path: Path) -> None:
    """The recurrent one has loops, whose blocks are nested."""
    package, out = prepared(name).package, tmp_path / "scrambled.mlpackage"
    scramble(package, out, rename_interface=True)
    assert {re.sub(r"^(op_)?v[0-9a-f]{6}$", "meaningless", text) for text in strings_in(out)} == {"meaningless"}
    spec = specification(out)
    assert not spec.description.metadata.ByteSize()
    assert not spec.mlProgram.attributes
    assert (out / WEIGHTS).read_bytes() == (package / WEIGHTS).read_bytes()
    left = set(strings_in(package)) - set(strings_in(out))
    assert left == set(strings_in(package))


def test_the_same_seed_gives_the_same_names(prepared: Prepared, tmp_path: Path) -> None:
    package = prepared("tied").package
    first, second, other = (
        scramble(package, tmp_path / f"{index}.mlpackage", seed=seed) for index, seed in enumerate((3, 3, 4))
    )
    assert first == second != other


@pytest.mark.parametrize("compression", COMPRESSED)
def test_compressed_weights_are_close_and_not_equal(compression: str, prepared: Prepared) -> None:
    pair = prepared(COMPRESSED[compression], compression=compression)
    types = {op.type for block in blocks(_main(pair.package)) for op in block.operations}
    assert any(kind.startswith("constexpr_") for kind in types)
    (expected,), (got,) = pair.reference(), mil.load(pair.package).predict(pair.feed).values()
    assert 1e-4 < np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.05


def _main(package: Path) -> Any:
    function = specification(package).mlProgram.functions["main"]
    return function.block_specializations[function.opset]


@pytest.mark.parametrize("length", [5, 22, 64])
def test_the_flexible_network_takes_any_length(length: int, prepared: Prepared) -> None:
    pair = prepared("flexible")
    feed = {"x": np.random.default_rng(length).standard_normal((1, length, 6)).astype(np.float32)}
    outputs = mil.load(pair.package).predict(feed)
    with torch.no_grad():
        expected = pair.module(torch.from_numpy(feed["x"].copy()))
    for one, got in zip(expected, outputs.values(), strict=True):
        np.testing.assert_allclose(got, one.numpy(), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ the alignment

FOLDED = "a batch norm is folded into the convolution"
UNUSED = "its values are used by nothing"
FUSED = "fused into another op"

EXPLAINED: dict[str, dict[str, str]] = {
    "conv": {"stem": FOLDED, "body": FOLDED, "image.0": FOLDED},
    "recurrent": {"gru:1": UNUSED},
    "depthwise": {"layers.0.depthwise": FOLDED, "layers.1.depthwise": FOLDED},
    "functional": {"/sigmoid": FUSED},
}
"""Network → the tensors of its module that its package does not have, and why; every other one has to be paired."""

WITHIN = {"float32": 5e-6, "float16": 1e-2, "int8": 0.05, "palettized": 0.1}
"""Relative L2 error of every pair, floats widened: float16 and compressed packages keep their weights' loss."""


def assert_complete(name: str, pair: Pair, package: Path, *, within: float, renamed: dict[str, str]) -> CandidateResult:
    """Everything that can be paired is paired, and each pair is right by its values."""
    result = compared(pair, package)
    assert result.alignment is not None
    left = {entry.tensor: entry.reason for entry in result.alignment.unpaired if entry.side == "reference"}
    assert set(left) == set(EXPLAINED.get(name, ()))
    assert all(entry.reason for entry in result.alignment.unpaired)
    assert not result.coverage.missing
    reference = reference_values(pair)
    feed = {renamed.get(key, key): value for key, value in pair.feed.items()}
    assert not wrong_pairs(result, reference, candidate_values(package, feed), within=within)
    assert not missing_outputs(pair.reference(), result, reference)
    return result


@pytest.mark.parametrize(("name", "precision"), CONVERSIONS)
def test_an_architecture_aligns_completely(name: str, precision: str, prepared: Prepared) -> None:
    pair = prepared(name, precision=precision)
    result = assert_complete(name, pair, pair.package, within=WITHIN[precision], renamed={})
    assert result.status == "pass", [(stage.name, stage.reason) for stage in result.stages if stage.reason]
    assert all(stage.alignment_confidence for stage in result.stages)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_does_with_meaningless_names(name: str, prepared: Prepared, tmp_path: Path) -> None:
    pair, package = prepared(name), tmp_path / "scrambled.mlpackage"
    renamed = scramble(pair.package, package, rename_interface=True)
    if len(pair.feed) > 1:  # what is fed where is told by names where shapes don't tell
        renamed = scramble(pair.package, tmp_path / "inner.mlpackage")
        package = tmp_path / "inner.mlpackage"
    result = assert_complete(name, pair, package, within=WITHIN["float32"], renamed=renamed)
    assert result.status == "pass", [(stage.name, stage.reason) for stage in result.stages if stage.reason]


@pytest.mark.parametrize("compression", COMPRESSED)
def test_it_does_with_compressed_weights(compression: str, prepared: Prepared) -> None:
    name = COMPRESSED[compression]
    pair = prepared(name, compression=compression)
    assert_complete(name, pair, pair.package, within=WITHIN[compression], renamed={})


@pytest.mark.parametrize("length", [5, 64])
def test_it_does_at_any_length(length: int, prepared: Prepared) -> None:
    noise = np.random.default_rng(length).standard_normal((1, length, 6)).astype(np.float32)
    pair = replace(prepared("flexible"), feed={"x": noise})
    assert assert_complete("flexible", pair, pair.package, within=WITHIN["float32"], renamed={}).status == "pass"


def attentions(fused_side: str, folder: Path) -> Pair:
    """Attention whose query, key and value come of one matrix on one side and of three on the other; no names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        separate = Projections().eval()
    modules = [separate, separate.fused()] if fused_side == "candidate" else [separate.fused(), separate]
    feed = {"x": np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)}
    convert(modules[1], feed, folder / "attention.mlpackage")
    scramble(folder / "attention.mlpackage", folder / "scrambled.mlpackage")
    return Pair(modules[0], folder / "scrambled.mlpackage", feed)


def test_three_projections_are_found_in_one(tmp_path: Path) -> None:
    pair = attentions("candidate", tmp_path)
    result = assert_complete("separate", pair, pair.package, within=WITHIN["float32"], renamed={})
    assert result.status == "pass"
    assert {"query", "key", "value"} <= {stage.name for stage in result.stages}


def test_one_projection_is_found_in_three(tmp_path: Path) -> None:
    """The parts of the reference's tensor are compared with the tensors that hold them."""
    pair = attentions("reference", tmp_path)
    result = compared(pair)
    assert result.status == "pass", [(stage.name, stage.reason) for stage in result.stages if stage.reason]
    expected, got = reference_values(pair)["qkv"], candidate_values(pair.package, pair.feed)
    parts = [stage for stage in result.stages if stage.name.startswith("qkv[")]
    for first, stage in zip((0, 16, 32), parts, strict=True):
        assert stage.candidate is not None
        assert relative_error(expected[..., first : first + 16], got[stage.candidate.tensor]) < WITHIN["float32"]
