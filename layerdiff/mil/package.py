"""Opens a Core ML package: finds its specification, parses it, and checks every constant it refers to.

An `.mlpackage` is a folder with a `Manifest.json` that names the specification among its items; a bare
`.mlmodel` is the specification itself; of an `.mlmodelc`, `compiled` makes one. It holds an ML Program, with
one or several functions, or a pipeline of such programs. Nothing is copied and no weight is read: a damaged or
incomplete package is refused here, before anything runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerdiff.errors import PackageError, UnsupportedOpError, known_names
from layerdiff.mil import schema
from layerdiff.mil.compiled import PROGRAM, is_compiled
from layerdiff.mil.compiled import specification as compiled_specification
from layerdiff.mil.features import Interface, interfaces
from layerdiff.mil.literal import MODEL_PATH
from layerdiff.mil.program import Program, parse
from layerdiff.mil.weights import WeightFile

PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")
"""The kinds of specification that hold other models."""

COPY_AGAIN = "copy the whole package again, or convert the model again"


@dataclass(frozen=True, eq=False)
class Package:
    """An opened ML Program."""

    path: Path
    program: Program
    interfaces: Mapping[str, Interface]
    """Function name → what it takes and returns."""
    default_function: str
    specification_version: int
    member: str = ""
    """Its name in the pipeline that it belongs to, if it does."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What its maker wrote into it, by keys of his own."""

    @property
    def name(self) -> str:
        return f"{self.path.name}, model '{self.member}'" if self.member else self.path.name

    def function_named(self, function: str | None) -> str:
        """The name of the requested function, or of the default one.

        Raises:
            PackageError: there is none of that name.
        """
        name = function or self.default_function
        if name not in self.program.functions:
            raise PackageError(
                f"'{self.name}' has no function '{name}'.",
                where=str(self.path),
                detail=known_names("its functions", name, sorted(self.program.functions)),
            )
        return name


@dataclass(frozen=True, eq=False)
class PipelinePackage:
    """An opened pipeline: ML Programs that run one after the other."""

    path: Path
    members: Mapping[str, Package]
    """Name → program, in the order in which they run."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    specification_version: int

    @property
    def name(self) -> str:
        return self.path.name


def open_package(path: str | Path) -> Package | PipelinePackage:
    """Opens an `.mlpackage`, an `.mlmodelc` or a bare specification.

    Args:
        path: the `.mlpackage` or `.mlmodelc` folder, or an `.mlmodel` file.

    Returns:
        The parsed program or programs with their interfaces; the weights are mapped, not read.

    Raises:
        PackageError: it is missing, damaged, or no ML Program.
    """
    path = Path(path).expanduser()
    spec_path = specification_path(path)
    spec = _read(spec_path, path)
    files = _WeightFiles(spec_path.parent, path if path.is_dir() else spec_path.parent)
    if spec.WhichOneof("Type") in PIPELINES:
        return _pipeline(spec, path, files)
    return _program(spec, path, files, where=str(spec_path))


def _program(spec: Any, path: Path, files: _WeightFiles, *, where: str, member: str = "") -> Package:
    _require_ml_program(spec, path, member)
    try:
        program = parse(spec.mlProgram, files)
        described = interfaces(spec.description, program)
    except (PackageError, UnsupportedOpError) as error:
        where = error.where or where
        raise type(error)(error.what, where=where, detail=error.detail, action=error.action) from error
    if not program.functions:
        raise PackageError(f"'{path.name}' holds no function.", where=where, action=COPY_AGAIN)
    default = spec.description.defaultFunctionName or ("main" if "main" in program.functions else "")
    default = default or min(program.functions)
    written = dict(spec.description.metadata.userDefined)
    return Package(path, program, described, default, spec.specificationVersion, member, written)


def _pipeline(spec: Any, path: Path, files: _WeightFiles) -> PipelinePackage:
    kind = spec.WhichOneof("Type")
    pipeline = spec.pipeline if kind == "pipeline" else getattr(spec, kind).pipeline
    given = list(pipeline.names)
    if len(set(given)) != len(pipeline.models):
        given = [f"model{index}" for index in range(len(pipeline.models))]  # as Core ML names them
    if not given:
        raise PackageError(f"the pipeline '{path.name}' holds no model.", where=str(path), action=COPY_AGAIN)
    members = {
        name: _program(model, path, files, where=f"{path}, model '{name}'", member=name)
        for name, model in zip(given, pipeline.models, strict=True)
    }
    inputs, outputs = (
        tuple(f.name for f in features) for features in (spec.description.input, spec.description.output)
    )
    return PipelinePackage(path, members, inputs, outputs, spec.specificationVersion)


def specification_path(path: Path) -> Path:
    """The specification file of a package.

    Raises:
        PackageError: `path` is not a package, or its manifest is missing or broken.
    """
    if is_compiled(path):
        return path / PROGRAM
    if path.is_file():
        return path
    if not path.exists():
        raise PackageError(f"'{path.name}' does not exist.", where=str(path), action="check the path")
    manifest = path / "Manifest.json"
    if not manifest.is_file():
        raise PackageError(
            f"'{path.name}' has no Manifest.json, so it is not a Core ML package.", where=str(path), action=COPY_AGAIN
        )
    return _root_model(manifest)


def _root_model(manifest: Path) -> Path:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        entry = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
        found = manifest.parent / "Data" / str(entry)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PackageError(
            "the manifest of the package is broken.",
            where=str(manifest),
            detail=f"expected a JSON object whose rootModelIdentifier names an item; {type(error).__name__}: {error}",
            action=COPY_AGAIN,
        ) from error
    _require_inside(found, manifest.parent)
    if not found.is_file():
        raise PackageError(
            f"the manifest names the model '{entry}', which does not exist.", where=str(manifest), action=COPY_AGAIN
        )
    return found


def _require_inside(path: Path, folder: Path) -> None:
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
        inside = False
    if not inside:
        raise PackageError(f"the package refers to '{path}', outside of itself.", where=str(folder))


def _read(spec_path: Path, path: Path) -> Any:
    if is_compiled(path):
        return compiled_specification(path)
    spec = schema.model_module().Model()
    try:
        data = spec_path.read_bytes()
        spec.ParseFromString(data)
    except (OSError, schema.decode_error()) as error:
        raise PackageError(
            f"the specification of '{path.name}' cannot be read: it is truncated or not a Core ML model.",
            where=str(spec_path),
            detail=f"expected an .mlpackage or .mlmodelc folder, or an .mlmodel file; {type(error).__name__}: {error}",
            action=COPY_AGAIN,
        ) from error
    return spec


def _require_ml_program(spec: Any, path: Path, member: str) -> None:
    kind = spec.WhichOneof("Type")
    if kind == "mlProgram":
        return
    what = f"the model '{member}' of the pipeline '{path.name}'" if member else f"'{path.name}'"
    if kind is None:
        raise PackageError(f"the specification of {what} holds no model.", where=str(path), action=COPY_AGAIN)
    raise PackageError(
        f"{what} is a '{kind}', not an ML Program.",
        where=str(path),
        detail="expected mlProgram" if member else "expected mlProgram, or a pipeline of such models",
        action='convert the original model with coremltools.convert(model, convert_to="mlprogram")',
    )


class _WeightFiles:
    """Opens the weight files that a program names, each once."""

    def __init__(self, model_folder: Path, package: Path) -> None:
        self.model_folder, self.package = model_folder, package
        self.opened: dict[str, WeightFile] = {}

    def __getitem__(self, name: str) -> WeightFile:
        if name not in self.opened:
            if not name.startswith(MODEL_PATH):
                raise UnsupportedOpError(
                    f"the program refers to the weight file '{name}'.", detail=f"expected a path below {MODEL_PATH}"
                )
            path = self.model_folder / name.removeprefix(MODEL_PATH)
            _require_inside(path, self.package)
            self.opened[name] = WeightFile(path)
        return self.opened[name]
