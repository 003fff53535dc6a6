"""Takes the meaning out of every name of a package: what an alignment by names could hold on to is gone.

Ops, tensors, constants, nested blocks and, if asked for, inputs and outputs get random names; descriptions and metadata
are removed. Program order, types, values and `weight.bin` stay as they are, so the outputs stay the same to the bit.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from layerdiff.mil import schema

SPECIFICATION = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")


def specification(package: Path) -> Any:
    """The `Model` message of a package."""
    spec = schema.model_module().Model()
    spec.ParseFromString((package / SPECIFICATION).read_bytes())
    return spec


def edited(package: Path, out: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a package, at `out`, whose specification went through `change`."""
    shutil.copytree(package, out)
    spec = specification(package)
    change(spec)
    (out / SPECIFICATION).write_bytes(spec.SerializeToString())
    return out


def scramble(package: Path, out: Path, *, rename_interface: bool = False, seed: int = 0) -> dict[str, str]:
    """Writes the package with meaningless names.

    Args:
        package: an `.mlpackage` folder.
        out: where the new one goes.
        rename_interface: whether inputs and outputs get new names too.
        seed: the same seed gives the same names.

    Returns:
        Old name → new name of every tensor, constant, and, where they are renamed, input and output.
    """
    names: dict[str, str] = {}

    def change(spec: Any) -> None:
        features = [f for d in _descriptions(spec) for side in (d.input, d.output, d.state) for f in side]
        kept = set() if rename_interface else {feature.name for feature in features}
        names.update(_new_names(_tensor_names(spec), kept, random.Random(seed)))
        for feature in features:
            feature.name = names.get(feature.name, feature.name)
            feature.shortDescription = ""
        for function in spec.mlProgram.functions.values():
            _rename_values(function.inputs, names)
            for block in function.block_specializations.values():
                _rename_block(block, names)
        spec.description.metadata.Clear()
        spec.mlProgram.docString = ""
        spec.mlProgram.attributes.clear()

    edited(package, out, change)
    return names


def _descriptions(spec: Any) -> list[Any]:
    """The interface of the default function, and, where there are several, of each."""
    return [spec.description, *spec.description.functions]


def _tensor_names(spec: Any) -> Iterator[str]:
    for function in spec.mlProgram.functions.values():
        yield from (value.name for value in function.inputs)
        for block in function.block_specializations.values():
            for inner in blocks(block):
                yield from (value.name for value in inner.inputs)
                yield from (value.name for op in inner.operations for value in op.outputs)


def blocks(block: Any) -> Iterator[Any]:
    """A block and those nested in it."""
    yield block
    for op in block.operations:
        for inner in op.blocks:
            yield from blocks(inner)


def _new_names(old: Iterator[str], kept: set[str], rng: random.Random) -> dict[str, str]:
    """A random name for each that is not kept; their order tells nothing about the old order."""
    found = [name for name in dict.fromkeys(old) if name not in kept]
    numbers = rng.sample(range(16**6), len(found))
    return {name: f"v{number:06x}" for name, number in zip(found, numbers, strict=True)}


def _rename_values(values: Any, names: dict[str, str]) -> None:
    for value in values:
        value.name = names.get(value.name, value.name)


def _rename_block(block: Any, names: dict[str, str]) -> None:
    _rename_values(block.inputs, names)
    block.outputs[:] = [names.get(name, name) for name in block.outputs]
    for op in block.operations:
        _rename_values(op.outputs, names)
        if "name" in op.attributes:
            first = op.outputs[0].name if op.outputs else "nothing"
            op.attributes["name"].immediateValue.tensor.strings.values[:] = [f"op_{first}"]
        for argument in op.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name":
                    binding.name = names.get(binding.name, binding.name)
        for inner in op.blocks:
            _rename_block(inner, names)
