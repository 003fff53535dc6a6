"""Compiled models: folders that stand for what Core ML compiles a package into.

    model.mlmodel        the specification; what is loaded, for nothing is lost in it
    weights/weight.bin   the constants, with whatever else lies in folders of the package
    model.mil            the program as text, as Core ML's compiler writes it, for scripts that read that
    metadata.json        names, types and allowed shapes of the interface
    model0/, model1/ …   the members of a pipeline, each with its own model.mil and weights

The portable engine needs no compilation, so a "compiled" model is a copy. `CompiledMLModel` loads such a folder on
this machine; Core ML was not seen to. What Core ML itself compiled has no `model.mlmodel`: its text is what is read.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerdiff.binding.metadata_json import KINDS, metadata_text
from layerdiff.binding.model_mil import program_text
from layerdiff.errors import PackageError
from layerdiff.mil import schema
from layerdiff.mil.compiled import METADATA, PROGRAM, SUFFIX
from layerdiff.mil.package import specification_path

SPECIFICATION = "model.mlmodel"
"""The specification's name in a folder made here."""


@dataclass(frozen=True)
class TextForm:
    """What a compiled model holds beside the files of its package."""

    texts: Mapping[str, str] = field(default_factory=dict)
    """Path in the folder → what stands in that file; empty for models that are no ML Programs."""
    member_weights: Mapping[str, str] = field(default_factory=dict)
    """Path of a weight file of a pipeline's member → path of the file of the package that it is."""


def specification(path: Path) -> Path:
    """What `layerdiff.mil` is to open for a package, a specification, or a compiled model."""
    inner = path / SPECIFICATION
    return inner if path.suffix == SUFFIX and inner.is_file() else path


def fingerprint(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever the specification of a model is written again; None if there is none to be found."""
    try:
        inner = specification(path)
        status = (inner if inner.suffix == SUFFIX else specification_path(inner)).stat()
    except (OSError, PackageError):
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


# ------------------------------------------------------------------ writing


def compile_package(path: Path) -> str:
    """Copies a package into a new folder `NAME-….mlmodelc` and writes its program as text.

    Raises:
        PackageError: `path` is no package, or its program cannot be written as text.
    """
    found = specification_path(path)
    data = found.read_bytes()
    form = text_form(parsed(data, where=str(found)), where=str(found))
    target = _new_folder(path.stem)
    (target / SPECIFICATION).write_bytes(data)
    for folder in _folders(path, found):
        shutil.copytree(folder, target / folder.name)
    write_text_form(form, target)
    return str(target)


def _folders(path: Path, found: Path) -> list[Path]:
    """What holds the weights: every folder of a package; beside a bare specification others may lie, too."""
    beside = found.parent.iterdir() if path.is_dir() else [found.parent / "weights"]
    return [folder for folder in beside if folder.is_dir()]


def write_model(spec_data: bytes, blobs: Mapping[str, bytes]) -> str:
    """Writes a model that is in memory into a new folder `model-….mlmodelc`.

    Args:
        spec_data: the serialized specification.
        blobs: path of a weight file, relative to the specification → its bytes.

    Raises:
        PackageError: a path leads out of the folder, or the program cannot be written as text.
    """
    for name in blobs:
        if not _is_inside(name):
            raise PackageError(f"the weight file '{name}' lies outside of the model.", where="blob_mapping")
    form = text_form(parsed(spec_data, where="spec_data"), where="spec_data")
    target = _new_folder("model")
    (target / SPECIFICATION).write_bytes(spec_data)
    for name, data in blobs.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    write_text_form(form, target)
    return str(target)


def parsed(data: bytes, *, where: str) -> Any:
    """The `Model` message of a serialized specification.

    Raises:
        PackageError: the bytes are no specification.
    """
    spec = schema.model_module().Model()
    try:
        spec.ParseFromString(data)
    except schema.decode_error() as error:
        raise PackageError(
            "the specification cannot be read: it is truncated or not a Core ML model.",
            where=where,
            detail=f"{type(error).__name__}: {error}",
            action="convert the model again, or copy it again as a whole",
        ) from error
    return spec


def text_form(spec: Any, *, where: str, bare: bool | None = None) -> TextForm:
    """The files that describe a model in words.

    Args:
        spec: a `Model` message.
        where: what messages name as its place.
        bare: whether scalars are `int32(1)` or `tensor<int32, []>(1)`; by default as the opset has it.

    Returns:
        Nothing for a model that is neither an ML Program nor a pipeline; such members of a pipeline are left out.

    Raises:
        PackageError: a program contradicts itself, or uses what has no spelling.
    """
    try:
        texts = {METADATA: metadata_text(spec)} if spec.WhichOneof("Type") in KINDS else {}
        programs = {folder: program_text(program, bare=bare) for folder, program in _programs(spec)}
    except (KeyError, ValueError) as error:
        raise PackageError(
            "the program cannot be written as text.",
            where=where,
            detail=f"{type(error).__name__}: {error}",
            action="convert the model again",
        ) from error
    texts |= {folder + PROGRAM: program.text for folder, program in programs.items()}
    weights = {
        folder + name: name
        for folder, program in programs.items()
        for name in program.weight_files
        if folder and _is_inside(name)
    }
    return TextForm(texts, weights)


def _programs(spec: Any, folder: str = "") -> Iterator[tuple[str, Any]]:
    """Folder in the compiled model → the ML Program that belongs there."""
    kind = spec.WhichOneof("Type")
    if kind == "mlProgram":
        yield folder, spec
    elif kind == "pipeline":
        for index, member in enumerate(spec.pipeline.models):
            yield from _programs(member, f"{folder}model{index}/")


def write_text_form(form: TextForm, folder: Path) -> None:
    """Writes the text beside the weights that are in the folder; members of a pipeline share theirs where they can."""
    for name, text in form.texts.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    for name, original in form.member_weights.items():
        if (folder / original).is_file():
            _share(folder / original, folder / name)


def _share(original: Path, place: Path) -> None:
    """A second name for a file, or a copy where the file system gives a file one name only."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(original, place)
    except OSError:
        shutil.copyfile(original, place)


def _is_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _new_folder(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{name}-", suffix=SUFFIX))
