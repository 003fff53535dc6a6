"""What coremltools' tests read before they are imported, so that all that can run do, and predict.

Everything here changes the process for good, so it belongs into one that does nothing else.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import types
from typing import Any

ENVIRONMENT = {
    "PYMIL_TEST_TARGETS": "mlprogram",
    "INCLUDE_MIL_FP32_UNIT_TESTS": "1",  # otherwise almost everything is compared as float16 alone
    "RUN_BACKWARD_COMPATIBILITY": "0",  # each test at its own opset, not again at every later one
    "TORCH_FRONTENDS": "TORCHSCRIPT",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
}
"""One thread for each process, and nothing from the network."""

FOR_FEW_TESTS = ("torchvision", "peft")


def prepare() -> None:
    """Makes this process one in which coremltools' tests predict with the portable engine."""
    os.environ.update(ENVIRONMENT)
    platform.machine = lambda: "arm64"  # some tests expect to fail on Intel Macs
    import torch

    import layerdiff

    torch.set_num_threads(1)
    layerdiff.enable_predict()
    import coremltools  # noqa: F401

    _stand_in_for_absent_packages()


def _stand_in_for_absent_packages() -> None:
    """Some files import packages for a few of their tests; without them those tests skip, instead of the whole file."""
    import pytest

    class Absent(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return Absent(f"{self.__name__}.{name}")

        def __call__(self, *args: Any, **options: Any) -> Any:
            pytest.skip(f"'{self.__name__}' is not installed")

    for name in FOR_FEW_TESTS:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = Absent(name)
