"""Which test files of coremltools belong to which suite."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SUITES: dict[str, tuple[str, ...]] = {
    "ops": ("converters/mil/mil/ops/tests",),
    "torch": ("converters/mil/frontend/torch/test/test_torch_ops.py",),
    "stateful": ("converters/mil/frontend/torch/test/test_torch_stateful_model.py",),
    "quant": ("converters/mil/frontend/torch/test/test_torch_quantization_ops.py",),
    "coreml": ("test/optimize/coreml",),
    "passes": ("converters/mil/mil/passes/tests", "converters/mil/backend/mil"),
    "api": (
        "converters/mil/frontend/torch/test/test_torch_conversion_api.py",
        "converters/mil/frontend/torch/test/test_passes.py",
        "converters/mil/test_inputs_outputs_shape.py",
        "converters/mil/frontend/milproto",
    ),
    "pkg": (
        "test/modelpackage",
        "test/ml_program/test_utils.py",
        "test/ml_program/test_compression.py",
        "test/api",
        "test/pipeline",
    ),
}
"""Suite → folders and files below the package `coremltools`."""


def coremltools_folder() -> Path:
    """Where coremltools is installed, found without importing it.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec("coremltools")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("coremltools is not installed")
    return Path(spec.origin).parent


def paths(names: list[str]) -> list[Path]:
    """The test files and folders of some suites; those that this version of coremltools does not ship are left out."""
    root = coremltools_folder()
    return [root / path for name in names for path in SUITES[name] if (root / path).exists()]


def suite_of(test: str) -> str:
    """The suite of a test, by its id: `converters/mil/mil/ops/tests/iOS14/…::…` is of `ops`; empty if of none."""
    file = test.partition("::")[0]
    return next(
        (name for name, places in SUITES.items() if any(file == p or file.startswith(p + "/") for p in places)), ""
    )
