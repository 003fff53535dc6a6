"""The protobuf classes of a Core ML model, without importing coremltools.

coremltools ships the generated classes as plain modules in its `proto` folder, but importing them through
`coremltools` runs its whole package: seconds of work and a screen of warnings. They only need each other,
so they are imported from that folder under a package name of our own. The protobuf runtime accepts the
same file descriptors twice, so a later `import coremltools` still works, and so does an earlier one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from layerdiff.errors import EngineError

PACKAGE = "layerdiff_coreml_proto"
"""The name under which the `proto` folder of coremltools is imported."""


def proto_folder() -> Path:
    """The folder with coremltools' generated protobuf modules."""
    spec = importlib.util.find_spec("coremltools")
    if spec is None or spec.origin is None:
        raise EngineError(
            "'coremltools' is not installed, and reading a Core ML package needs its protobuf classes.",
            action="pip install coremltools",
        )
    return Path(spec.origin).parent / "proto"


@cache
def model_module() -> Any:
    """The module `Model_pb2`; its `Model` message is the root of every Core ML specification."""
    return _generated("Model_pb2")


@cache
def mil_module() -> Any:
    """The module `MIL_pb2`: programs, functions, blocks, operations, values."""
    return _generated("MIL_pb2")


def _generated(name: str) -> ModuleType:
    if PACKAGE not in sys.modules:
        package = ModuleType(PACKAGE)
        package.__path__ = [str(proto_folder())]
        sys.modules[PACKAGE] = package
    with warnings.catch_warnings():  # protobuf warns about the version that generated the classes
        warnings.simplefilter("ignore")
        return importlib.import_module(f"{PACKAGE}.{name}")


def decode_error() -> type[Exception]:
    """What protobuf raises when bytes are no message."""
    from google.protobuf.message import DecodeError

    return cast(type[Exception], DecodeError)
