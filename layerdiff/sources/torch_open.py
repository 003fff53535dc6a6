"""Opens the torch model that a specification names, and refuses what would have to execute a pickle.

`package.module:factory` is imported, the working directory included, and called without arguments; a module instance
of that name is taken as it is. A file is TorchScript or an exported program; which, its members tell.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from layerdiff.errors import CheckpointError, ConfigError, known_names

_EXPORTED = ("models/model.json", "serialized_exported_program.json")

FACTORY_HINT = "Name a factory that builds the model and loads them: torch: package.module:factory"


def open_model(spec: str) -> torch.nn.Module:
    """The model that a specification names.

    Raises:
        CheckpointError: a file is missing, damaged, or a pickle.
        ConfigError: a factory can't be imported or makes no module.
    """
    path = Path(spec)
    if path.is_file():
        return _open_file(path)
    module_name, colon, attribute = spec.partition(":")
    if colon and attribute and path.suffix not in (".pt", ".pt2", ".ts", ".pth"):
        return _from_factory(module_name, attribute, spec)
    raise CheckpointError(
        f"there is no torch model '{spec}'.",
        detail="expected a TorchScript file, an exported program (.pt2), or package.module:factory",
        action="Check the path; it is relative to the working directory.",
    )


# ------------------------------------------------------------------ files


def _open_file(path: Path) -> torch.nn.Module:
    members = _members(path)
    if any(name.endswith(_EXPORTED) for name in members):
        return _exported(path)
    if any(name.endswith("constants.pkl") for name in members) and any("/code/" in name for name in members):
        return _script(path)
    raise CheckpointError(
        f"'{path.name}' holds no model that can be run.",
        where=str(path),
        detail="it is a state_dict or a pickled module, and layerdiff executes nothing pickled"
        if members or path.read_bytes()[:1] == b"\x80"
        else "it is neither TorchScript nor an exported program",
        action=FACTORY_HINT,
    )


def _members(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _script(path: Path) -> torch.nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch 2.13 deprecates TorchScript
            loaded: torch.nn.Module = torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise _damaged(path, "TorchScript", error) from error
    return loaded


def _exported(path: Path) -> torch.nn.Module:
    _require_no_pickle(path)
    try:
        return torch.export.load(path).module()
    except Exception as error:  # a damaged archive fails wherever torch first trips over it
        raise _damaged(path, "exported program", error) from error


def _require_no_pickle(path: Path) -> None:
    """`torch.export.load` falls back to executing a pickle where plain loading fails; such files are refused before.

    Raises:
        CheckpointError: the file has a member that plain loading refuses.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name) if name.endswith((".pt", "_config.json")) else b""
            if content and _needs_pickle(name, content):
                raise CheckpointError(
                    f"'{path.name}' holds pickled objects in '{name}'.",
                    where=str(path),
                    detail="layerdiff executes nothing pickled",
                    action="Export the model without custom objects.",
                )


def _needs_pickle(name: str, content: bytes) -> bool:
    if name.endswith(".json"):
        return any(entry.get("use_pickle") for entry in json.loads(content).get("config", {}).values())
    try:
        torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception:  # whatever it is, `torch.export.load` would go on to execute it
        return True
    return False


def _damaged(path: Path, what: str, error: Exception) -> CheckpointError:
    first = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(
        f"'{path.name}' is a damaged {what} file.",
        where=str(path),
        detail=first[0],
        action=f"Save it again, or try the torch version that wrote it; this is {torch.__version__}.",
    )


# ------------------------------------------------------------------ factories


def _from_factory(module_name: str, attribute: str, spec: str) -> torch.nn.Module:
    with _working_directory_importable():
        made = _attribute(_imported(module_name, spec), attribute, spec)
        if not isinstance(made, torch.nn.Module) and callable(made):
            try:
                made = made()
            except Exception as error:  # the user's own code can raise anything
                raise ConfigError(
                    f"the factory '{spec}' failed.",
                    detail=f"{type(error).__name__}: {error}",
                    action="It is called without arguments and returns a torch.nn.Module.",
                ) from error
    if isinstance(made, torch.nn.Module):
        return made
    raise ConfigError(
        f"'{spec}' is no torch.nn.Module and makes none.",
        detail=f"expected a module or a function that returns one, got {type(made).__name__}",
        action="Name a function without arguments that returns the model.",
    )


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path.pop(0)


def _imported(module_name: str, spec: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # the user's own code can raise anything
        raise ConfigError(
            f"'{module_name}' of '{spec}' cannot be imported.",
            detail=f"{type(error).__name__}: {error}",
            action="It must be installed, or lie in the working directory.",
        ) from error


def _attribute(module: Any, attribute: str, spec: str) -> Any:
    try:
        return attrgetter(attribute)(module)
    except AttributeError as error:
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ConfigError(
            f"'{module.__name__}' has no '{attribute}'.",
            where=spec,
            detail=known_names("it has", attribute, public),
            action="Name a function without arguments that returns the model.",
        ) from error
