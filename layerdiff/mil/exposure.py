"""Writes a package again with more outputs, so that any runtime shows what is inside of it.

    from layerdiff import mil

    written = mil.expose("Joint.mlpackage", ["linear_0_cast_fp16"], "Joint-exposed.mlpackage")

Only the specification is edited (`outputs`); weights are hard links to those of the original, or copies where the file
system has none. Steps: check the names, cut them into chunks, write beside the target under a temporary name, rename.
A target is a package, or a folder of packages with an `index.json` that says which holds what.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerdiff.errors import FeedError, LayerdiffError, OutputError, PackageError
from layerdiff.mil import schema
from layerdiff.mil.compiled import is_compiled
from layerdiff.mil.outputs import Exposure, Selection, add_outputs, exposed_outputs, select
from layerdiff.mil.package import Package, open_package, specification_path
from layerdiff.mil.plan import Graph

CHUNK = 50
"""Outputs that are added to one package. Core ML keeps the values of all of them at once, and plans around them."""

INDEX, KIND = "index.json", "layerdiff expose"
"""The file that makes a folder an expose result, and what it says it is."""

SUFFIX = ".mlpackage"


@dataclass(frozen=True)
class ExposedPackage:
    """One package that was written."""

    path: Path
    exposures: tuple[Exposure, ...]
    """The outputs that were added to it."""


@dataclass(frozen=True)
class Exposed:
    """Everything that was written."""

    path: Path
    """The package, or the folder of packages."""
    function: str
    packages: tuple[ExposedPackage, ...]
    already: tuple[str, ...]
    """The tensors that were asked for and are outputs of the original."""
    left_out: Mapping[str, str]
    """Tensors that cannot be outputs → why; only where every tensor was asked for."""


def expose(
    path: str | Path,
    tensors: Sequence[str] | None,
    out: str | Path | None = None,
    *,
    function: str | None = None,
    chunk: int = CHUNK,
    force: bool = False,
) -> Exposed:
    """Writes a package with more outputs; its own outputs, inputs, shapes, states and metadata stay.

    Args:
        path: an `.mlpackage` folder with an ML Program.
        tensors: names of tensors; None for every one that can be an output.
        out: `NAME.mlpackage` for one package, any other name for a folder of packages. Without it `PACKAGE-exposed`
            beside the package: a package if one is enough, or else a folder.
        function: which function gets the outputs; the default one if None.
        chunk: most outputs that are added to one package.
        force: whether another package at `out` is replaced; what an earlier call wrote always is.

    Returns:
        What was written. A tensor of a dtype that Core ML does not return has a cast behind it, whose name is that of
        the output: bool and narrow integers as int32, float16 before iOS16 as float32.

    Raises:
        FeedError: there is no tensor of a name, or it cannot be an output.
        PackageError: the package is missing or damaged, or no ML Program that can be edited.
        OutputError: `out` exists, or cannot be written; nothing was changed then.
    """
    package, graph = opened(path, function)
    if chunk < 1:
        raise FeedError(f"a package cannot get '{chunk}' more outputs.", detail="expected a chunk of at least 1")
    chosen = select(graph, tensors)
    parts = [chosen.exposures[i : i + chunk] for i in range(0, len(chosen.exposures), chunk)] or [()]
    target = _target(package, out, parts=len(parts))
    _require_free(target, package.path, force=force)
    with _replacing(target) as temporary:
        if target.suffix == SUFFIX:
            write_exposed(package, graph.function.name, parts[0], temporary)
            written = [target]
        else:
            names = part_names(package.path.stem, len(parts))
            for name, part in zip(names, parts, strict=True):
                write_exposed(package, graph.function.name, part, temporary / name)
            written = [target / name for name in names]
            index = _index(package, graph.function.name, dict(zip(names, parts, strict=True)), chosen)
            (temporary / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    packages = tuple(ExposedPackage(path, part) for path, part in zip(written, parts, strict=True))
    return Exposed(target, graph.function.name, packages, chosen.already, chosen.left_out)


def opened(path: str | Path, function: str | None = None) -> tuple[Package, Graph]:
    """The package and the function of it that get more outputs.

    Raises:
        PackageError: it is a pipeline, compiled, not a folder, missing or damaged, or has no such function.
    """
    package = open_package(path)
    if not isinstance(package, Package):
        raise PackageError(
            f"'{package.name}' is a pipeline, whose members hand on their outputs to each other.",
            where=str(path),
            detail=f"its members: {', '.join(package.members)}",
            action="expose the tensors of the packages that it was made of",
        )
    if is_compiled(package.path) or not package.path.is_dir():
        raise PackageError(
            f"'{package.name}' is no .mlpackage folder, so no outputs can be added to it.",
            where=str(path),
            action="give the .mlpackage that it was made of",
        )
    name = package.function_named(function)
    return package, Graph(package.program.functions[name], package=package.name)


def part_names(stem: str, count: int) -> list[str]:
    """The names of the packages in a folder: `NAME.part01.mlpackage` and so on."""
    digits = max(2, len(str(count)))
    return [f"{stem}.part{number:0{digits}}{SUFFIX}" for number in range(1, count + 1)]


# ------------------------------------------------------------------ one package


def write_exposed(package: Package, function: str, exposures: Sequence[Exposure], target: Path) -> None:
    """Writes one package with more outputs at `target`, which does not exist.

    Raises:
        OSError: it cannot be written.
    """
    specification = specification_path(package.path)
    spec = parsed(specification)
    add_outputs(spec, function, exposures)
    for folder, _, names in os.walk(package.path, followlinks=True):
        inside = target / Path(folder).relative_to(package.path)
        inside.mkdir(parents=True, exist_ok=True)
        for source in (Path(folder) / name for name in names):
            if source == specification:
                (inside / source.name).write_bytes(spec.SerializeToString(deterministic=True))
            elif source.is_relative_to(specification.parent):
                _link(source, inside / source.name)
            else:
                shutil.copyfile(source, inside / source.name)


def parsed(specification: Path) -> Any:
    """The `Model` message of a specification file."""
    spec = schema.model_module().Model()
    spec.ParseFromString(specification.read_bytes())
    return spec


def _link(source: Path, target: Path) -> None:
    """A hard link to what may be gigabytes of weights; a copy where the file system has none, or is another one."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


# ------------------------------------------------------------------ where it is written


def _target(package: Package, out: str | Path | None, *, parts: int) -> Path:
    """The package or folder to write.

    Raises:
        OutputError: one package is asked for, and one is not enough.
    """
    if out is None:
        return package.path.with_name(f"{package.path.stem}-exposed{SUFFIX if parts == 1 else ''}")
    target = Path(out).expanduser()
    if target.suffix == SUFFIX and parts > 1:
        raise OutputError(
            f"'{target}' would be one package, and {parts} are needed.",
            action=f"name a folder, without {SUFFIX}, or raise the number of outputs that one package gets (--chunk)",
        )
    return target


def _require_free(target: Path, source: Path, *, force: bool) -> None:
    """Raises OutputError if something stands at `target` that must not be replaced."""
    there, original = target.resolve(), source.resolve()
    if there == original or there.is_relative_to(original) or original.is_relative_to(there):
        raise OutputError(
            f"'{target}' is the package itself, lies in it, or holds it.",
            where=str(source),
            action="choose another place",
        )
    if not os.path.lexists(target) or is_expose_result(target):
        return
    if force and (target / "Manifest.json").is_file():
        return
    raise OutputError(
        f"'{target}' exists, and is no result of layerdiff expose.",
        action="choose another place"
        + (", or replace it with --force" if (target / "Manifest.json").is_file() else ", or remove it"),
    )


def is_expose_result(path: Path) -> bool:
    """Whether a package or folder was written by `expose`."""
    try:
        if (path / INDEX).is_file():
            index = json.loads((path / INDEX).read_bytes())
            return isinstance(index, dict) and index.get("kind") == KIND
        return path.is_dir() and bool(exposed_outputs(parsed(specification_path(path))))
    except (OSError, ValueError, LayerdiffError, schema.decode_error()):
        return False


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A place beside `target` that takes its name when the block ends well; what stood there goes then.

    Raises:
        OutputError: it cannot be written; what stood there still does.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
        try:
            (workplace / "new").mkdir()
            yield workplace / "new"
            retired = workplace / "old"
            if target.exists():
                os.rename(target, retired)
            try:
                os.rename(workplace / "new", target)
            except BaseException:
                if retired.exists():
                    os.rename(retired, target)
                raise
        finally:
            shutil.rmtree(workplace, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"'{target}' cannot be written: {error.strerror or error}.",
            action="choose another place, or give yourself write permission and free space there",
        ) from error


def _index(
    package: Package, function: str, parts: Mapping[str, Sequence[Exposure]], chosen: Selection
) -> dict[str, Any]:
    return {
        "kind": KIND,
        "schema": 1,
        "package": package.name,
        "function": function,
        "packages": {
            name: {e.tensor: {"output": e.output, "dtype": e.dtype, "returned": e.returned} for e in part}
            for name, part in parts.items()
        },
        "already_outputs": list(chosen.already),
        "left_out": dict(chosen.left_out),
    }
