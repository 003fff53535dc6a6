"""The weights that a file holds, as an outline, without running anything and with little in memory.

A NeMo archive, a state_dict that torch saved, safetensors, TorchScript, an exported program, the model that an
importable factory makes, and what has a structure of its own: a Core ML package or pipeline, an ONNX file, a recorded
trace. Pickles are read as tensors and plain containers only; files are mapped where their format allows it.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff.errors import CheckpointError
from layerdiff.outline import Outline, Weight

if TYPE_CHECKING:
    import torch

    from layerdiff.records import Array

PACKAGES = (".mlpackage", ".mlmodelc", ".mlmodel")

NESTED = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
"""Keys under which training loops keep the weights, beside the optimiser's."""

_DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError)
"""What torch.load raises for pickled code and for damaged files."""


def outline_of_file(name: str | Path) -> Outline:
    """What a file, or a factory, holds: weights, and ops where its format knows them.

    Args:
        name: a path, the name of a bundled model, or `package.module:factory`.

    Raises:
        LayerdiffError: it does not exist, is damaged, or would have to execute a pickle.
    """
    path = Path(name).expanduser()
    reader = READERS.get(path.suffix.lower())
    if reader is None and not path.exists() and ":" not in str(name):
        reader = _nemo  # a bundled name, or one on the hub, or none at all
    return (reader or _torch)(path if path.exists() else Path(name))


def weights_in(title: str, tensors: Mapping[str, Any]) -> Outline:
    """An outline of weights alone; entries that are no tensors, and complex ones, are left out."""
    import torch

    from layerdiff.sources.torch_outline import weight_of

    real = {n: t for n, t in tensors.items() if isinstance(t, torch.Tensor) and not t.is_complex()}
    return Outline(title, (), (), (), {name: weight_of(name, tensor.detach()) for name, tensor in real.items()})


# ------------------------------------------------------------------ torch


def _nemo(path: Path) -> Outline:
    from layerdiff.sources.nemo_archive import WEIGHTS_NAME, unpacked
    from layerdiff.sources.nemo_locate import locate

    found = locate(path)
    with unpacked(found) as folder:  # what is mapped stays readable after the folder is gone
        return weights_in(found.name, _state(_loaded(folder / WEIGHTS_NAME, found), found))


def _torch(path: Path) -> Outline:
    """A file that torch wrote, or a factory."""
    from layerdiff.sources.torch_open import open_model

    if path.is_file() and not _is_model(path):
        return weights_in(path.name, _state(_loaded(path, path), path))
    model = open_model(str(path))
    return weights_in(path.name, {**dict(model.named_parameters()), **dict(model.named_buffers())})


def _is_model(path: Path) -> bool:
    """Whether a file is TorchScript or an exported program, which hold code beside weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name or name.endswith(_EXPORTED) for name in archive.namelist())


_EXPORTED = ("models/model.json", "serialized_exported_program.json")


def _loaded(file: Path, path: Path) -> Any:
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except _DAMAGE as error:
        raise CheckpointError(
            f"'{path.name}' is damaged, or holds pickled objects instead of tensors.",
            where=str(path),
            detail=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            action="Save its weights with torch.save(model.state_dict(), path); layerdiff executes no pickle.",
        ) from error


def _state(loaded: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state_dict in what was loaded: itself, or under the key that a training loop put it."""
    import torch

    found: dict[Any, Any] = loaded if isinstance(loaded, dict) else {}
    while inner := next((found[key] for key in NESTED if isinstance(found.get(key), Mapping)), None):
        found = dict(inner)
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if tensors:
        return tensors
    raise CheckpointError(
        f"'{path.name}' holds no weights.",
        where=str(path),
        detail=f"expected a dict of tensors, got {', '.join(map(str, list(found)[:8])) or type(loaded).__name__}",
        action="Save them with torch.save(model.state_dict(), path).",
    )


def _safetensors(path: Path) -> Outline:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            kinds = {name: file.get_slice(name) for name in names}
            described = {n: (_DTYPES.get(s.get_dtype(), s.get_dtype()), tuple(s.get_shape())) for n, s in kinds.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"'{path.name}' is missing, damaged, or no safetensors file.",
            where=str(path),
            detail=str(error).splitlines()[0],
            action="Download or save it again.",
        ) from error
    weights = {n: Weight(n, dtype, shape, partial(_tensor, path, n)) for n, (dtype, shape) in described.items()}
    return Outline(path.name, (), (), (), weights)


_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"} | {
    f"{letter}{bits}": f"{kind}{bits}" for letter, kind in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
}


def _tensor(path: Path, name: str) -> Array:
    from safetensors import safe_open

    from layerdiff.sources.torch_tensors import lent_array

    with safe_open(path, framework="pt") as file:
        return lent_array(file.get_tensor(name))


# ------------------------------------------------------------------ with a structure of their own


def _package(path: Path) -> Outline:
    """A package; of a pipeline all members, under their names."""
    from layerdiff.mil import Model, load
    from layerdiff.sources.coreml_outline import outline_of

    model = load(path)
    if isinstance(model, Model):
        return outline_of(model)
    outlines = {name: outline_of(member) for name, member in model.members.items()}
    return joined(path.name, outlines)


def joined(title: str, outlines: Mapping[str, Outline]) -> Outline:
    """Several outlines as one that has their weights and the ops that hold them, under the members' names."""
    weights = {f"{m}.{n}": replace(w, name=f"{m}.{n}") for m, one in outlines.items() for n, w in one.weights.items()}
    nodes = tuple(
        replace(node, name=f"{m}.{node.name}", inputs=(), weights={r: f"{m}.{n}" for r, n in node.weights.items()})
        for m, one in outlines.items()
        for node in one.nodes
    )
    return Outline(title, (), nodes, (), weights)


def _onnx(path: Path) -> Outline:
    from layerdiff.sources.onnx import SLICE_BYTES
    from layerdiff.sources.onnx_graph import read_graph
    from layerdiff.sources.onnx_outline import Structure
    from layerdiff.sources.onnx_slices import Slices

    graph = read_graph(path)
    return Structure(graph, Slices(graph, budget_bytes=SLICE_BYTES)).outline(graph.types({}))


def _trace(path: Path) -> Outline:
    from layerdiff.sources.recorded import RecordedSource

    source = RecordedSource.open(path)
    outlines: Iterator[Outline] = (source.outline(feed) for feed in source.calls.values())
    found = next(outlines, None)
    return found if found is not None else Outline(source.title, (), (), (), {})


READERS: Mapping[str, Callable[[Path], Outline]] = {
    **dict.fromkeys(PACKAGES, _package),
    ".nemo": _nemo,
    ".safetensors": _safetensors,
    ".onnx": _onnx,
    ".trace": _trace,
}
"""File name suffix → what reads it; anything else is torch's."""
