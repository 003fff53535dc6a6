"""Compiled models: folders that stand for what Core ML compiles a package into.

The portable engine needs no compilation, so a "compiled" model is a copy: a folder with the specification as
`model.mlmodel` and the weight files below it. `CompiledMLModel` loads such a folder on this machine; Core ML cannot,
and what Core ML compiled is opened by `layerdiff.mil` as far as it can be.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from layerdiff.errors import PackageError
from layerdiff.mil.package import specification_path

SPECIFICATION = "model.mlmodel"
"""The specification's name in a folder made here."""


def specification(path: Path) -> Path:
    """What `layerdiff.mil` is to open for a package, a specification, or a folder made here."""
    inner = path / SPECIFICATION
    return inner if path.suffix == ".mlmodelc" and inner.is_file() else path


def fingerprint(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever the specification of a model is written again; None if there is none to be found."""
    try:
        inner = specification(path)
        status = (inner if inner.suffix == ".mlmodelc" else specification_path(inner)).stat()
    except (OSError, PackageError):
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def compile_package(path: Path) -> str:
    """Copies a package into a new folder `NAME-….mlmodelc`.

    Raises:
        PackageError: `path` is no package.
    """
    found = specification_path(path)
    target = _new_folder(path.stem)
    shutil.copyfile(found, target / SPECIFICATION)
    for folder in found.parent.iterdir():
        if folder.is_dir():
            shutil.copytree(folder, target / folder.name)
    return str(target)


def write_model(spec_data: bytes, blobs: Mapping[str, bytes]) -> str:
    """Writes a model that is in memory into a new folder `model-….mlmodelc`.

    Args:
        spec_data: the serialized specification.
        blobs: path of a weight file, relative to the specification → its bytes.

    Raises:
        PackageError: a path leads out of the folder.
    """
    for name in blobs:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise PackageError(f"the weight file '{name}' lies outside of the model.", where="blob_mapping")
    target = _new_folder("model")
    (target / SPECIFICATION).write_bytes(spec_data)
    for name, data in blobs.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return str(target)


def _new_folder(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{name}-", suffix=".mlmodelc"))
