"""Compiles packages into `.mlmodelc` folders in the form of shipped ones: text, metadata and weights.

They hold no `model.mlmodel`, so the text is what is loaded.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from layerdiff.binding.compiled import parsed, text_form, write_text_form

MODEL_FOLDER = "Data/com.apple.CoreML"


def specification(package: Path) -> Any:
    return parsed((package / MODEL_FOLDER / "model.mlmodel").read_bytes(), where=str(package))


def compiled(package: Path, folder: Path, *, bare: bool | None = None, metadata: bool = True) -> Path:
    """The compiled form of a package.

    Args:
        package: an `.mlpackage`.
        folder: where the `.mlmodelc` goes; it must not exist.
        bare: whether scalars are `int32(1)` or `tensor<int32, []>(1)`; by default as its opset has it.
        metadata: whether `metadata.json` is written.
    """
    form = text_form(specification(package), where=str(package), bare=bare)
    folder.mkdir(parents=True)
    weights = package / MODEL_FOLDER / "weights"
    if weights.is_dir():
        shutil.copytree(weights, folder / "weights")
    write_text_form(form, folder)
    if not metadata:
        (folder / "metadata.json").unlink()
    (folder / "coremldata.bin").write_bytes(b"\xf6\x01\0\0")
    return folder
