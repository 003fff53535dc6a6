"""What a package depends on besides its recipe: the module that is converted and the tools that convert it.

Two restores of one checkpoint have the same identity, on every machine; a changed weight or setting has another.
"""

from __future__ import annotations

import math
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff import store

if TYPE_CHECKING:
    import torch

VERSIONED = ("torch", "coremltools", "numpy", "nemo_toolkit")
"""The packages whose version may change what comes out."""

VOLATILE = ("training", "inplace", "model_guid", "max_audio_length", "log_softmax")
"""Set by the export, drawn at random when a model is restored, grown by long input, or set by the recipe."""


def identity(module: torch.nn.Module) -> dict[str, str]:
    """Hashes of what a component is: the class and plain attributes of all its modules, and its weights."""
    parts = {path: settings for path, part in module.named_modules() if (settings := _settings(part))}
    weights = {path: _sha256(tensor) for path, tensor in sorted(module.state_dict().items())}
    return {"settings": store.sha256_json(parts), "weights": store.sha256_json(weights)}


def _settings(part: Any) -> dict[str, Any]:
    """The class and the public plain attributes of one module; a restored model has the same each time."""
    plain = {name: value for name, value in vars(part).items() if not name.startswith("_") and _is_plain(value)}
    return {"class": type(part).__qualname__, **{name: plain[name] for name in plain if name not in VOLATILE}}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str)


def _sha256(tensor: torch.Tensor) -> str:
    """The hash of a tensor's dtype, shape and bytes, also of dtypes that numpy does not have."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{tensor.dtype}{list(tensor.shape)}:{store.sha256_array(flat.numpy())}"


@cache
def tools() -> dict[str, str]:
    """What converts: the versions of the libraries, and the hash of the code of `layerdiff.convert`."""
    versions = {name: _version(name) for name in VERSIONED}
    sources = {path.name: store.sha256_file(path) for path in sorted(Path(__file__).parent.glob("*.py"))}
    python = ".".join(platform.python_version_tuple()[:2])
    return {**versions, "python": python, "recipes": store.sha256_json(sources)}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"
