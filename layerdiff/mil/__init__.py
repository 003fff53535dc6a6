"""A portable engine for Core ML's ML Programs: loads a package and executes it on any operating system.

    from layerdiff import mil

    model = mil.load("RNNTJoint.mlpackage")
    outputs = model.predict({"encoder": encoder, "decoder": decoder})
    inner = model.run(feed, fetch=["linear_0_cast_fp16"])
    for tensor in model.trace(feed): ...

package → program → plan → engine: `package` opens and checks, `program` holds records, `plan` decides what
has to run, `engine` runs it, `ops` computes, `precision` rounds. `images` stands between pictures and tensors,
`pipeline` runs the programs of a package that holds several, `exposure` writes a package again with more outputs,
`extraction` a part of one.
Nothing of torch or coremltools is imported before a model is loaded, and coremltools itself never is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerdiff.mil.exposure import Exposed, expose
    from layerdiff.mil.extraction import Part, extract
    from layerdiff.mil.features import TensorSpec
    from layerdiff.mil.model import Model, TensorInfo, TracedTensor, load
    from layerdiff.mil.package import Package, PipelinePackage, open_package
    from layerdiff.mil.pipeline import Pipeline

__all__ = [
    "Exposed",
    "Model",
    "Package",
    "Part",
    "Pipeline",
    "PipelinePackage",
    "TensorInfo",
    "TensorSpec",
    "TracedTensor",
    "expose",
    "extract",
    "load",
    "open_package",
]

_HOMES = {
    "Part": "extraction",
    "extract": "extraction",
    "Exposed": "exposure",
    "expose": "exposure",
    "Model": "model",
    "TensorInfo": "model",
    "TracedTensor": "model",
    "load": "model",
    "TensorSpec": "features",
    "Package": "package",
    "PipelinePackage": "package",
    "Pipeline": "pipeline",
    "open_package": "package",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
