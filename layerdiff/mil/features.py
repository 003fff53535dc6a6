"""What a function takes and returns: names, dtypes, and the shapes that are allowed.

The dtype comes from the program (it is what runs); the allowed shapes come from the description of the
model, where flexible ranges and enumerated shapes stand. Shapes are written `float32[1, 80, 17..4000]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from layerdiff.errors import PackageError
from layerdiff.mil.program import Function, Program, TensorType

Dim = int | tuple[int, int | None]
"""A fixed length, or the range (smallest, largest); largest None is unbounded."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model."""

    name: str
    dtype: str
    """numpy name."""
    shape: tuple[Dim, ...]
    """Per dimension a length or a range of lengths, both ends included."""
    optional: bool = False
    enumerated: tuple[tuple[int, ...], ...] = ()
    """The only shapes allowed, if there are such; `shape` then spans them."""
    default: float | None = None
    """The value an optional input is filled with when it is not given."""
    kind: str = "tensor"
    """`tensor`, or `image`, `state`, `dictionary` for features of another kind."""

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(_dim_text(dim) for dim in self.shape)}]"

    def accepts(self, shape: Iterable[int]) -> bool:
        """Whether a tensor of this shape may be fed."""
        given = tuple(shape)
        if self.enumerated:
            return given in self.enumerated
        return len(given) == len(self.shape) and all(map(_dim_accepts, self.shape, given))

    @property
    def smallest(self) -> tuple[int, ...]:
        """The smallest allowed shape."""
        return tuple(dim if isinstance(dim, int) else dim[0] for dim in self.shape)


@dataclass(frozen=True)
class Interface:
    """Inputs, outputs and states of one function."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


def _dim_text(dim: Dim) -> str:
    if isinstance(dim, int):
        return str(dim)
    smallest, largest = dim
    return f"{smallest}..{'' if largest is None else largest}"


def _dim_accepts(dim: Dim, length: int) -> bool:
    if isinstance(dim, int):
        return length == dim
    smallest, largest = dim
    return smallest <= length and (largest is None or length <= largest)


# ------------------------------------------------------------------ from protobuf


def interfaces(description: Any, program: Program) -> dict[str, Interface]:
    """Function name → its interface.

    Args:
        description: the `ModelDescription` message; it may or may not list functions.
        program: the parsed program, which decides names and dtypes.
    """
    described = {f.name: f for f in description.functions}
    return {
        name: _interface(described.get(name, description), function) for name, function in program.functions.items()
    }


def _interface(description: Any, function: Function) -> Interface:
    features = {f.name: f for f in [*description.input, *description.state]}
    results = {f.name: f for f in description.output}
    types = _result_types(function)
    return Interface(
        inputs=MappingProxyType({i.name: _spec(i.name, i.type, features.get(i.name)) for i in function.inputs}),
        outputs=MappingProxyType(
            {name: _spec(name, types[name], results.get(name)) for name in function.block.outputs if name in types}
        ),
    )


def _result_types(function: Function) -> dict[str, TensorType]:
    types = {name: constant.type for name, constant in function.block.constants.items()}
    types |= {i.name: i.type for i in function.inputs}
    return types | {output.name: output.type for op in function for output in op.outputs}


def _spec(name: str, type_: TensorType, feature: Any) -> TensorSpec:
    declared: tuple[Dim, ...] = tuple((0, None) if d is None else d for d in type_.shape or ())
    kind = {"state": "state", "dictionary": "dictionary"}.get(type_.kind, "tensor")
    if feature is None or feature.type.WhichOneof("Type") != "multiArrayType":
        which = feature.type.WhichOneof("Type") if feature is not None else None
        return TensorSpec(name, type_.dtype, declared, kind="image" if which == "imageType" else kind)
    array = feature.type.multiArrayType
    enumerated = tuple(tuple(int(d) for d in shape.shape) for shape in array.enumeratedShapes.shapes)
    return TensorSpec(
        name,
        type_.dtype,
        _flexible(declared, _ranges(array, enumerated)),
        optional=feature.type.isOptional,
        enumerated=enumerated,
        default=_default(array),
        kind=kind,
    )


def _ranges(array: Any, enumerated: tuple[tuple[int, ...], ...]) -> list[tuple[int, int | None]]:
    if enumerated:
        if len({len(shape) for shape in enumerated}) > 1:
            raise PackageError(
                "the shapes that an input allows differ in their number of axes.",
                detail=f"got {', '.join(str(list(shape)) for shape in enumerated)}",
                action="convert the model again",
            )
        return [(min(lengths), max(lengths)) for lengths in zip(*enumerated, strict=True)]
    ranges = array.shapeRange.sizeRanges
    return [(int(r.lowerBound), None if r.upperBound < 0 else int(r.upperBound)) for r in ranges]


def _flexible(declared: tuple[Dim, ...], ranges: list[tuple[int, int | None]]) -> tuple[Dim, ...]:
    """The declared shape with the described range in place of every length unknown to the program."""
    if len(ranges) != len(declared):
        return declared
    return tuple(
        dim if isinstance(dim, int) else low if low == high else (low, high)
        for dim, (low, high) in zip(declared, ranges, strict=True)
    )


def _default(array: Any) -> float | None:
    which = array.WhichOneof("defaultOptionalValue")
    return None if which is None else float(getattr(array, which))
