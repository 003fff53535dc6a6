"""What a function takes and returns: names, dtypes, and the shapes that are allowed.

The dtype comes from the program (it is what runs); the allowed shapes come from the description of the
model, where flexible ranges and enumerated shapes stand. Shapes are written `float32[1, 80, 17..4000]`.
The description also says which tensors are images to the outside, and what an optional input is filled with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from layerdiff.errors import PackageError
from layerdiff.mil.program import Function, Program, TensorType

Dim = int | tuple[int, int | None]
"""A fixed length, or the range (smallest, largest); largest None is unbounded."""

UNBOUNDED: Dim = (0, None)

COLOR_LAYOUTS = {10: "GRAYSCALE", 20: "RGB", 30: "BGR", 40: "GRAYSCALE_FLOAT16"}
"""The colour spaces of an image feature by the names of `coremltools.colorlayout`."""


@dataclass(frozen=True)
class TensorSpec:
    """One input, output or state of a model."""

    name: str
    dtype: str
    """numpy name; of the keys, if it is a dictionary."""
    shape: tuple[Dim, ...]
    """Per dimension a length or a range of lengths, both ends included."""
    optional: bool = False
    enumerated: tuple[tuple[int, ...], ...] = ()
    """The only shapes allowed, if there are such; `shape` then spans them."""
    default: float | None = None
    """The value an optional input is filled with when it is not given."""
    kind: str = "tensor"
    """`tensor`, `image`, `state`, or what a classifier returns: `label` (str or int) and `dictionary`."""
    color: str = ""
    """Of an image its layout: RGB, BGR, GRAYSCALE or GRAYSCALE_FLOAT16."""
    described: tuple[int, ...] = ()
    """The shape that the description gives, if it gives one."""

    def __str__(self) -> str:
        if self.kind == "dictionary":
            return f"dictionary<{self.dtype}>"
        text = f"{self.dtype}[{', '.join(_dim_text(dim) for dim in self.shape)}]"
        return f"{self.color} image {text}" if self.kind == "image" else text

    def accepts(self, shape: Iterable[int]) -> bool:
        """Whether a tensor of this shape may be fed."""
        given = tuple(shape)
        if self.enumerated:
            return given in self.enumerated
        return len(given) == len(self.shape) and all(map(_dim_accepts, self.shape, given))

    def misfit(self, shape: Iterable[int]) -> str:
        """Of a shape that a flexible input does not accept, why, in the words that Core ML has for it.

        Source: the tests of coremltools' torch frontend, which run on Core ML. Empty where they show none.
        """
        given = tuple(shape)
        if self.accepts(given):
            return ""
        if self.enumerated:
            return f"MultiArray Shape ({' x '.join(map(str, given))}) was not in enumerated set of allowed shapes"
        if len(given) != len(self.shape) or all(isinstance(dim, int) for dim in self.shape):
            return ""
        axis, dim = next((i, d) for i, d in enumerate(self.shape) if not _dim_accepts(d, given[i]))
        allowed = f"{dim}..{dim}" if isinstance(dim, int) else _dim_text(dim)
        return f"Size ({given[axis]}) of dimension ({axis}) is not in allowed range ({allowed})"

    @property
    def smallest(self) -> tuple[int, ...]:
        """The smallest allowed shape."""
        return tuple(dim if isinstance(dim, int) else dim[0] for dim in self.shape)

    @property
    def default_shape(self) -> tuple[int, ...]:
        """The shape that is assumed where none is given: the described one, or else the first or smallest allowed.

        Source: `ArrayFeatureType` in Core ML's FeatureTypes.proto.
        """
        candidates = (self.described, *self.enumerated)
        return next((shape for shape in candidates if self.accepts(shape)), self.smallest)


@dataclass(frozen=True)
class Interface:
    """Inputs, outputs and states of one function."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    states: Mapping[str, TensorSpec] = field(default_factory=dict)
    """What is kept from call to call; of the kind `state`."""


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
    features = {f.name: f.type for f in [*description.input, *description.state]}
    results = {f.name: f.type for f in description.output}
    types = _result_types(function)
    taken = {i.name: _input(i.name, i.type, features.get(i.name)) for i in function.inputs}
    outputs = {n: _output(n, types[n], results.get(n)) for n in function.block.outputs if n in types}
    return Interface(
        inputs=MappingProxyType({name: spec for name, spec in taken.items() if spec.kind != "state"}),
        outputs=MappingProxyType(outputs),
        states=MappingProxyType({name: spec for name, spec in taken.items() if spec.kind == "state"}),
    )


def _result_types(function: Function) -> dict[str, TensorType]:
    types = {name: constant.type for name, constant in function.block.constants.items()}
    types |= {i.name: i.type for i in function.inputs}
    return types | {output.name: output.type for op in function for output in op.outputs}


def _input(name: str, type_: TensorType, feature: Any) -> TensorSpec:
    which = feature.WhichOneof("Type") if feature is not None else None
    if type_.kind == "state":
        return TensorSpec(name, type_.dtype, _declared(type_), kind="state")
    if which == "imageType":
        return _image(name, type_, feature.imageType)
    if which != "multiArrayType":
        return TensorSpec(name, type_.dtype, _declared(type_))
    array = feature.multiArrayType
    described, enumerated = tuple(map(int, array.shape)), _enumerated(array, type_)
    spans = _span(enumerated) or [_range(r) for r in array.shapeRange.sizeRanges] or list(described)
    return TensorSpec(
        name,
        type_.dtype,
        _flexible(_declared(type_, len(spans)), spans),
        optional=feature.isOptional,
        enumerated=enumerated,
        default=_default(array) if feature.isOptional else None,
        described=described,
    )


def _output(name: str, type_: TensorType, feature: Any) -> TensorSpec:
    """An output has the shapes that the program says: those that a description gives for it need not hold."""
    which = feature.WhichOneof("Type") if feature is not None else None
    if which == "imageType":
        return _image(name, type_, feature.imageType)
    if type_.kind == "dictionary":
        keys = feature.dictionaryType.WhichOneof("KeyType") if which == "dictionaryType" else None
        return TensorSpec(name, "int64" if keys == "int64KeyType" else "str", (), kind="dictionary")
    label = which in ("stringType", "int64Type") or type_.dtype == "str"
    return TensorSpec(name, type_.dtype, _declared(type_), kind="label" if label else "tensor")


def _image(name: str, type_: TensorType, image: Any) -> TensorSpec:
    leading = _image_axes(name, type_, image.colorSpace)
    size = (int(image.height), int(image.width))
    enumerated = tuple((*leading, int(s.height), int(s.width)) for s in image.enumeratedSizes.sizes)
    lengths: list[Dim] = [length or UNBOUNDED for length in size]
    if image.HasField("imageSizeRange"):
        lengths = [_range(image.imageSizeRange.heightRange), _range(image.imageSizeRange.widthRange)]
    spans = _span(enumerated) or [*leading, *lengths]
    return TensorSpec(
        name,
        type_.dtype,
        _flexible(_declared(type_, len(spans)), spans),
        enumerated=enumerated,
        kind="image",
        color=COLOR_LAYOUTS[image.colorSpace],
        described=(*leading, *size) if all(size) else (),
    )


def _image_axes(name: str, type_: TensorType, color_space: int) -> list[int]:
    """The lengths before those of the height and width of an image: 1 and the number of channels, or only this."""
    color = COLOR_LAYOUTS.get(color_space, "")
    channels = 1 if color.startswith("GRAYSCALE") else 3
    rank = 4 if type_.shape is None else len(type_.shape)
    leading = [1, channels] if rank == 4 else [channels]
    fits = type_.shape is None or all(d in (None, n) for d, n in zip(type_.shape, leading, strict=False))
    if color and rank in (3, 4) and fits:
        return leading
    raise PackageError(
        f"'{name}' is described as an image, and it is a tensor of another form in the program.",
        detail=f"expected [{', '.join(map(str, leading))}, H, W] of the colour layout '{color or 'RGB'}', got {type_}",
        action="convert the model again",
    )


def _declared(type_: TensorType, rank: int = 0) -> tuple[Dim, ...]:
    """The shape in the program; if not even the rank is known there, `rank` dimensions of any length."""
    shape = (None,) * rank if type_.shape is None else type_.shape
    return tuple(UNBOUNDED if length is None else length for length in shape)


def _enumerated(array: Any, type_: TensorType) -> tuple[tuple[int, ...], ...]:
    """The enumerated shapes of the rank that the program takes; all of them if it takes any rank."""
    shapes = [tuple(int(d) for d in shape.shape) for shape in array.enumeratedShapes.shapes]
    return tuple(shape for shape in shapes if type_.shape is None or len(shape) == len(type_.shape))


def _span(shapes: tuple[tuple[int, ...], ...]) -> list[Dim]:
    """Per dimension from the smallest to the largest length, of the shapes that have as many axes as the first."""
    alike = [shape for shape in shapes if len(shape) == len(shapes[0])]
    return [(min(lengths), max(lengths)) for lengths in zip(*alike, strict=True)]


def _range(message: Any) -> Dim:
    return int(message.lowerBound), None if message.upperBound < 0 else int(message.upperBound)


def _flexible(declared: tuple[Dim, ...], described: list[Dim]) -> tuple[Dim, ...]:
    """The declared shape with the described length or range in place of every length unknown to the program."""
    if len(described) != len(declared):
        return declared
    return tuple(dim if isinstance(dim, int) else _fixed(to) for dim, to in zip(declared, described, strict=True))


def _fixed(dim: Dim) -> Dim:
    """A range of one length as that length."""
    return dim[0] if isinstance(dim, tuple) and dim[0] == dim[1] else dim


def _default(array: Any) -> float:
    """The value of an optional input that is not given; zero unless the description says another.

    Source: coremltools asks for a newer deployment target only if a default is not zero.
    """
    which = array.WhichOneof("defaultOptionalValue")
    return 0.0 if which is None else float(getattr(array, which))
