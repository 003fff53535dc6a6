"""Plants one fault in a converted package, and says at which tensor its effect appears first.

Each function copies the package to `out`, changes one op, which is named by its result, and returns a `Planted`. The
tensors before it stay the same to the bit; a constant that several ops share is refused, because then the fault would
not be at one place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layerdiff import mil
from layerdiff.mil.program import value_type
from layerdiff.mil.weights import WeightFile
from tests.align.scramble import WEIGHTS, blocks, edited, specification

Array = np.ndarray


@dataclass(frozen=True)
class Planted:
    """A package with a fault."""

    package: Path
    tensor: str
    """The first tensor whose value the fault changes: the result of the op that is wrong."""


# ------------------------------------------------------------------ constants


def changed_constant(package: Path, out: Path, *, tensor: str, role: str, change: Callable[[Array], Array]) -> Planted:
    """The constant that an op reads becomes `change(constant)`, of the same dtype and shape.

    Args:
        package: an `.mlpackage` folder.
        out: where the faulty one goes.
        tensor: the result of the op.
        role: the input of the op that the constant is bound to: `weight`, `bias`, `gamma`, …
        change: float*[…] → the same dtype and shape.

    Raises:
        ValueError: that input is no plain constant of this op alone.
    """
    value, dtype, shape = _constant(specification(package), tensor, role)
    if value.WhichOneof("value") == "immediateValue":
        return Planted(edited(package, out, lambda spec: _change_inline(spec, tensor, role, change)), tensor)
    edited(package, out, lambda spec: None)
    stored = WeightFile(package / WEIGHTS)
    record = stored.check(value.blobFileValue.offset, dtype, shape)
    values = stored.array(record.offset, dtype, shape)
    changed = np.ascontiguousarray(change(values.copy()), dtype=values.dtype)
    if changed.shape != shape:
        raise ValueError(f"the change makes {changed.shape} of {shape}")
    with (out / WEIGHTS).open("r+b") as file:
        file.seek(record.data_offset)
        file.write(changed.tobytes())
    return Planted(out, tensor)


def scaled(package: Path, out: Path, *, tensor: str, role: str = "weight", factor: float = 1.05) -> Planted:
    """A constant times a factor."""
    return changed_constant(package, out, tensor=tensor, role=role, change=lambda values: values * factor)


def zeroed_row(package: Path, out: Path, *, tensor: str, role: str = "weight", row: int = 0) -> Planted:
    """One row of a weight is zero, as after a damaged copy."""

    def change(values: Array) -> Array:
        values[row] = 0
        return values

    return changed_constant(package, out, tensor=tensor, role=role, change=change)


def shifted_bias(package: Path, out: Path, *, tensor: str, role: str = "bias", by: float = 0.1) -> Planted:
    """A bias plus a number."""
    return changed_constant(package, out, tensor=tensor, role=role, change=lambda values: values + by)


def transposed(package: Path, out: Path, *, tensor: str, role: str = "weight") -> Planted:
    """A square weight the other way round, which no shape gives away."""
    return changed_constant(package, out, tensor=tensor, role=role, change=lambda values: values.swapaxes(0, 1))


def epsilon(package: Path, out: Path, *, tensor: str, value: float = 0.3) -> Planted:
    """Another epsilon in a norm; constants that norms share are written out for this one."""

    def change(spec: Any) -> None:
        op = _op(spec, tensor)
        found, _, _ = _bound(spec, op, "epsilon")
        new = type(found)()
        new.CopyFrom(found)
        _set_inline(new, np.full((), value))
        argument = op.inputs["epsilon"].arguments[0]
        argument.Clear()
        argument.value.CopyFrom(new)

    return Planted(edited(package, out, change), tensor)


# ------------------------------------------------------------------ ops


def swapped_activation(package: Path, out: Path, *, tensor: str, type_: str = "silu") -> Planted:
    """An activation of one operand becomes another one, without parameters: `relu`, `silu`, `tanh`, `sigmoid`."""

    def change(spec: Any) -> None:
        op = _op(spec, tensor)
        op.type = type_
        for extra in set(op.inputs) - {"x"}:
            del op.inputs[extra]

    return Planted(edited(package, out, change), tensor)


def inserted_scaling(package: Path, out: Path, *, tensor: str, factor: float = 1.01) -> Planted:
    """Whatever read the tensor now reads it times a factor, as a forgotten or doubled scaling would have it."""
    new = f"{tensor}_times"

    def change(spec: Any) -> None:
        block = _block(spec, tensor)
        at = next(i for i, op in enumerate(block.operations) if any(o.name == tensor for o in op.outputs))
        type_ = next(o.type for o in block.operations[at].outputs if o.name == tensor)
        for op in block.operations:
            for argument in op.inputs.values():
                for binding in argument.arguments:
                    if binding.name == tensor:
                        binding.name = new
        block.outputs[:] = [new if name == tensor else name for name in block.outputs]
        _insert_product(block, at + 1, operand=tensor, result=new, type_=type_, factor=factor)

    if tensor in mil.load(package).outputs:
        raise ValueError(f"'{tensor}' is an output, whose name has to stay")
    return Planted(edited(package, out, change), new)


def _insert_product(block: Any, at: int, *, operand: str, result: str, type_: Any, factor: float) -> None:
    product = type(block.operations[0])(type="mul")
    product.attributes["name"].CopyFrom(block.operations[at - 1].attributes["name"])
    product.attributes["name"].immediateValue.tensor.strings.values[:] = [result]
    product.inputs["x"].arguments.add().name = operand
    value = product.inputs["y"].arguments.add().value
    value.type.tensorType.dataType = type_.tensorType.dataType
    _set_inline(value, np.full((), factor))
    product.outputs.add(name=result).type.CopyFrom(type_)
    block.operations.insert(at, product)


# ------------------------------------------------------------------ where and whether


def first_difference(package: Path, other: Path, feed: Mapping[str, Array]) -> str | None:
    """The first tensor, in the order of the second program, that the two compute differently or that is new in it.

    This is the independent check of a `Planted`: it runs both and compares every tensor to the bit.
    """
    values: dict[str, list[Array]] = {}
    for tensor in mil.load(package).trace(feed):
        values.setdefault(tensor.name, []).append(tensor.value)  # of a loop's body as often as it runs
    for tensor in mil.load(other).trace(feed):
        left = values.get(tensor.name)
        if not left or not np.array_equal(tensor.value, left.pop(0), equal_nan=True):
            return tensor.name
    return None


def results(package: Path, op: str) -> list[str]:
    """The first result of every op of a type, in program order."""
    functions = mil.open_package(package).program.functions
    return [found.outputs[0].name for found in next(iter(functions.values())) if found.type == op]


# ------------------------------------------------------------------ the specification


def _main(spec: Any) -> Any:
    function = next(iter(spec.mlProgram.functions.values()))
    return function.block_specializations[function.opset]


def _block(spec: Any, tensor: str) -> Any:
    for block in blocks(_main(spec)):
        if any(output.name == tensor for op in block.operations for output in op.outputs):
            return block
    raise ValueError(f"there is no tensor '{tensor}'")


def _op(spec: Any, tensor: str) -> Any:
    return next(op for op in _block(spec, tensor).operations if any(o.name == tensor for o in op.outputs))


def _bound(spec: Any, op: Any, role: str) -> tuple[Any, str, tuple[int, ...]]:
    """The value bound to an input of an op, its dtype and its shape."""
    binding = op.inputs[role].arguments[0]
    value = binding.value
    if binding.WhichOneof("binding") == "name":
        const = _op(spec, binding.name)
        if const.type != "const":
            raise ValueError(f"'{binding.name}' is the result of {const.type}, no plain constant")
        value = const.attributes["val"]
    type_ = value_type(value.type)
    return value, type_.dtype, tuple(type_.shape or ())


def _constant(spec: Any, tensor: str, role: str) -> tuple[Any, str, tuple[int, ...]]:
    """The same, of a constant that this op alone reads."""
    op = _op(spec, tensor)
    binding = op.inputs[role].arguments[0]
    if binding.WhichOneof("binding") == "name":
        every = [op for block in blocks(_main(spec)) for op in block.operations]
        names = [b.name for op in every for argument in op.inputs.values() for b in argument.arguments]
        if names.count(binding.name) != 1:
            raise ValueError(f"the constant '{binding.name}' is read by {names.count(binding.name)} ops")
    return _bound(spec, op, role)


def _change_inline(spec: Any, tensor: str, role: str, change: Callable[[Array], Array]) -> None:
    value, dtype, shape = _constant(spec, tensor, role)
    _set_inline(value, change(_inline(value, dtype, shape)))


def _inline(value: Any, dtype: str, shape: tuple[int, ...]) -> Array:
    tensor = value.immediateValue.tensor
    if tensor.WhichOneof("value") == "bytes":
        return np.frombuffer(tensor.bytes.values, dtype).reshape(shape).copy()
    return np.array(tensor.floats.values, dtype).reshape(shape)


def _set_inline(value: Any, values: Array) -> None:
    """Writes values as coremltools does: float16 as bytes, float32 as floats."""
    tensor = value.immediateValue.tensor
    if value_type(value.type).dtype == "float16":
        tensor.bytes.values = values.astype(np.float16).tobytes()
    else:
        tensor.floats.values[:] = [float(v) for v in np.ravel(values)]
