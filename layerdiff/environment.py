"""What a result depends on besides its inputs: versions and platform."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("torch", "coremltools", "nemo_toolkit", "numpy", "pandas")
"""The distributions whose version can change a number."""


def environment() -> dict[str, Any]:
    """Versions of layerdiff, Python and every package in `PACKAGES`; operating system and processor."""
    return {
        "layerdiff": _version("layerdiff"),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
