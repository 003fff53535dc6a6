"""Compares a NeMo speech model with its Core ML conversion, tensor by tensor, on any machine.

The names of the public interface are imported when they are first used, so that `import layerdiff` costs
nothing:

    import layerdiff as ld
    model = ld.load("RNNTJoint.mlpackage")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerdiff.binding import enable_predict
    from layerdiff.errors import EngineError, FeedError, LayerdiffError, PackageError, UnsupportedOpError
    from layerdiff.mil import Model, load
    from layerdiff.records import CandidateResult, Coverage, DurationAnalysis, Finding, Report, StageResult
    from layerdiff.run.diff import diff

__version__ = "0.1.0"

_HOMES = {
    "enable_predict": "layerdiff.binding",
    "diff": "layerdiff.run.diff",
    "load": "layerdiff.mil",
    "Model": "layerdiff.mil",
    "CandidateResult": "layerdiff.records",
    "Coverage": "layerdiff.records",
    "DurationAnalysis": "layerdiff.records",
    "Finding": "layerdiff.records",
    "Report": "layerdiff.records",
    "StageResult": "layerdiff.records",
    "EngineError": "layerdiff.errors",
    "FeedError": "layerdiff.errors",
    "LayerdiffError": "layerdiff.errors",
    "PackageError": "layerdiff.errors",
    "UnsupportedOpError": "layerdiff.errors",
}
"""Public name → the module that holds it."""

__all__ = [
    "CandidateResult",
    "Coverage",
    "DurationAnalysis",
    "EngineError",
    "FeedError",
    "Finding",
    "LayerdiffError",
    "Model",
    "PackageError",
    "Report",
    "StageResult",
    "UnsupportedOpError",
    "__version__",
    "diff",
    "enable_predict",
    "load",
]


def __getattr__(name: str) -> Any:
    """Imports a public name; it is then an ordinary attribute."""
    if name not in _HOMES:
        raise AttributeError(f"module 'layerdiff' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
