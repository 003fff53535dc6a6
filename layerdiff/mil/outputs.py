"""Which tensors of a function can be outputs of it, and its specification with some of them added.

A tensor becomes an output by its name among the outputs of the function's block, and by a feature description with its
dtype and, where all of it is known, its shape. Nothing else of the specification changes. Core ML hands out fewer
dtypes than a program computes with: where it does not hand out a tensor's own, a cast is appended whose result, under
a name of its own, has the same values. What can never be an output is said with its reason.

Source: what coremltools makes outputs (`adjust_io_to_supported_types`, `CoreMLProtoExporter.get_func_output`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from layerdiff.errors import FeedError
from layerdiff.mil import schema
from layerdiff.mil.plan import Graph
from layerdiff.mil.program import DTYPES, TensorType

LARGEST_RANK = 5
"""coremltools refuses to write a program with a tensor of more axes (`Program.validate`)."""

MARK = "layerdiff.exposed"
"""The key of the user-defined metadata that tells an exposed package: function → output → tensor, as JSON."""

FEATURE_DTYPES = {"float16": "FLOAT16", "float32": "FLOAT32", "float64": "DOUBLE", "int8": "INT8", "int32": "INT32"}
"""The dtypes of array features by the names of `ArrayFeatureType.ArrayDataType`."""

FIRST_OPSET = {"float16": 6, "int8": 9}
"""The first opset (CoreML6 is iOS16, CoreML9 is iOS26) whose functions return a dtype; the others always could."""

CAST_TO = {"float16": "float32"} | dict.fromkeys(("bool", "int8", "uint8", "int16", "uint16"), "int32")
"""dtype → a wider one that is returned instead, with the same values."""

CAST_NAMES = {"float16": "fp16", "float32": "fp32"} | {
    name: name for name in ("bool", "int8", "uint8", "int16", "uint16", "int32")
}
"""dtype → the name that the op `cast` has for it."""


@dataclass(frozen=True)
class Exposure:
    """A tensor that becomes an output."""

    tensor: str
    output: str
    """Name of the output: the tensor's own, or that of the cast behind it."""
    dtype: str
    """As the program declares the tensor."""
    returned: str
    """The dtype of the output."""


@dataclass(frozen=True)
class Selection:
    """What becomes of the tensors that are asked for."""

    exposures: tuple[Exposure, ...]
    """In the order of the program."""
    already: tuple[str, ...] = ()
    """Those that are outputs as it is."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Those that cannot be outputs → why."""


# ------------------------------------------------------------------ what can be an output


def select(graph: Graph, tensors: Sequence[str] | None) -> Selection:
    """Sorts the tensors of a function into those that become outputs, those that are, and those that cannot be.

    Args:
        graph: the function.
        tensors: names, each of which has to be possible; None for every tensor that an op computes, whatever is not
            possible being left out.

    Raises:
        FeedError: there is no tensor of a name, or a named one cannot be an output.
    """
    outputs = set(graph.function.block.outputs)
    asked = list(dict.fromkeys(tensors)) if tensors is not None else [*graph.producers, *graph.nested]
    if tensors is not None:
        graph.require(name for name in asked if name not in graph.nested)
    left_out = {name: reason for name in asked if (reason := refusal(graph, name))}
    if left_out and tensors is not None:
        raise _refused(graph, left_out)
    new = set(asked) - outputs - set(left_out)
    taken = names_of(graph)
    exposures = tuple(_exposure(graph, name, taken) for name in graph.producers if name in new)
    return Selection(exposures, tuple(name for name in asked if name in outputs), left_out)


def refusal(graph: Graph, name: str) -> str:
    """Why a tensor cannot be an output, as the end of a sentence about it; empty if it can, or is one."""
    type_ = graph.types.get(name)
    if name in graph.function.block.outputs:
        return ""
    if type_ is None:
        op = next(op for op in graph.function if op.name == graph.nested[name])
        return f"is inside a block of the op '{op.name}' of type {op.type}, which may run many times, or never"
    if name in graph.inputs:
        return "is an input, and Core ML returns none as an output"
    if name in graph.states:
        return "is a state, which is kept from call to call and not returned"
    if (constant := graph.function.block.constants.get(name)) is not None:
        compressed = "compressed " if constant.decompressed_by is not None else ""
        return f"is a {compressed}constant: it is written in the package, and no op computes it"
    return _refusal_of_type(type_, graph.function.opset)


def _refusal_of_type(type_: TensorType, opset: str) -> str:
    if type_.kind == "list":
        return "is a list of tensors, not a tensor"
    if type_.kind != "tensor" or type_.dtype == "str":
        return "is no tensor of numbers"
    if len(type_.shape or ()) > LARGEST_RANK:
        return f"has {len(type_.shape or ())} axes, and Core ML takes tensors of at most {LARGEST_RANK}"
    if returned_dtype(type_.dtype, opset) is None:
        return f"is of dtype {type_.dtype}, which Core ML neither returns nor casts to one that it does"
    return ""


def returned_dtype(dtype: str, opset: str) -> str | None:
    """The dtype of an output that holds the values of a tensor of `dtype`; None if there is none.

    Args:
        dtype: numpy name, as declared.
        opset: of the function, CoreML5 to CoreML9.
    """
    if dtype in FEATURE_DTYPES and int(opset.removeprefix("CoreML")) >= FIRST_OPSET.get(dtype, 0):
        return dtype
    return CAST_TO.get(dtype)


def _exposure(graph: Graph, name: str, taken: set[str]) -> Exposure:
    dtype = graph.types[name].dtype
    returned = returned_dtype(dtype, graph.function.opset) or dtype
    return Exposure(name, name if returned == dtype else fresh(f"{name}_as_{returned}", taken), dtype, returned)


def fresh(name: str, taken: set[str]) -> str:
    """`name`, or the first of `name_1`, `name_2`, … that is not taken; it is taken then."""
    number, found = 0, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found


def names_of(graph: Graph) -> set[str]:
    """Every name that a new tensor must not have."""
    inner = [block for op in graph.function for block in op.blocks]
    taken = set(graph.types) | set(graph.nested)
    while inner:
        block = inner.pop()
        taken |= set(block.constants) | {named.name for named in block.inputs}
        inner += [nested for op in block.ops for nested in op.blocks]
    return taken


def _refused(graph: Graph, left_out: Mapping[str, str]) -> FeedError:
    (name, reason), *others = left_out.items()
    return FeedError(
        f"the tensor '{name}' cannot be an output: it {reason}.",
        where=graph.where,
        detail="\n".join(f"nor can '{other}': it {why}" for other, why in others),
        action="leave it out" if not others else "leave them out",
    )


# ------------------------------------------------------------------ the specification


def add_outputs(spec: Any, function: str, exposures: Sequence[Exposure]) -> None:
    """Makes tensors outputs of a function, in place, and notes them in the user-defined metadata.

    Args:
        spec: the `Model` message of an ML Program.
        function: name of the function.
        exposures: what `select` says of it.
    """
    message = spec.mlProgram.functions[function]
    block = message.block_specializations[message.opset]
    types = {output.name: output.type for operation in block.operations for output in operation.outputs}
    features = _features(spec.description, function)
    for exposure in exposures:
        type_ = types[exposure.tensor]
        if exposure.output != exposure.tensor:
            casts = list(cast_ops(exposure.tensor, exposure.output, exposure.returned, type_))
            block.operations.extend(casts)
            type_ = casts[-1].outputs[0].type
        block.outputs.append(exposure.output)
        array = features.output.add(name=exposure.output).type.multiArrayType
        array.dataType = array.ArrayDataType.Value(FEATURE_DTYPES[exposure.returned])
        array.shape.extend(_known_shape(type_.tensorType))
    marks = exposed_outputs(spec)
    marks.setdefault(function, {}).update({exposure.output: exposure.tensor for exposure in exposures})
    spec.description.metadata.userDefined[MARK] = json.dumps(marks, sort_keys=True)


def exposed_outputs(spec: Any) -> dict[str, dict[str, str]]:
    """Function → output → tensor, of what was added to a specification; empty if nothing ever was."""
    user_defined = spec.description.metadata.userDefined
    marks: dict[str, dict[str, str]] = json.loads(user_defined[MARK]) if MARK in user_defined else {}
    return marks


def _features(description: Any, function: str) -> Any:
    """Where the inputs and outputs of a function are described."""
    return next((found for found in description.functions if found.name == function), description)


def _known_shape(tensor: Any) -> list[int]:
    """The lengths of a `TensorType` message; none where one is known only at run time, as coremltools writes it."""
    dims = tensor.dimensions
    return [d.constant.size for d in dims] if all(d.WhichOneof("dimension") == "constant" for d in dims) else []


def cast_ops(tensor: str, result: str, dtype: str, type_: Any) -> Iterator[Any]:
    """The ops that cast a tensor, as coremltools writes them: the name of the dtype as a constant, and the cast.

    Args:
        tensor: what is cast.
        result: the name of what comes out.
        dtype: its dtype, by its numpy name.
        type_: the type of either of them, which have one shape.
    """
    mil = schema.mil_module()
    name = f"{result}_dtype_0"
    text = mil.ValueType(tensorType=mil.TensorType(dataType=dtype_code("str"), rank=0))
    constant = {"name": _string(name), "val": _string(CAST_NAMES[dtype])}
    yield mil.Operation(type="const", outputs=[mil.NamedValueType(name=name, type=text)], attributes=constant)
    output = mil.NamedValueType(name=result, type=type_)
    output.type.tensorType.dataType = dtype_code(dtype)
    inputs = {key: _bound(bound) for key, bound in {"x": tensor, "dtype": name}.items()}
    yield mil.Operation(type="cast", inputs=inputs, outputs=[output], attributes={"name": _string(result)})


def _bound(name: str) -> Any:
    mil = schema.mil_module()
    return mil.Argument(arguments=[mil.Argument.Binding(name=name)])


def _string(text: str) -> Any:
    mil = schema.mil_module()
    value = mil.Value(type=mil.ValueType(tensorType=mil.TensorType(dataType=dtype_code("str"), rank=0)))
    value.immediateValue.tensor.strings.values.append(text)
    return value


def dtype_code(dtype: str) -> int:
    """The code of a dtype in a program."""
    return next(code for code, name in DTYPES.items() if name == dtype)
