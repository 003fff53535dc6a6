"""What a package, a checkpoint, an ONNX file or a recorded trace holds, found without running it.

Of a package more is known than of the others, because its program says in which dtype every op computes: its declared
precision beside what its metadata claims, islands of another precision, casts that may overflow, and constants and ops
that float16 is known to ruin.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.mil.program import Block, Constant, Op
from layerdiff.mil.weights import BITS
from layerdiff.outline import MOVEMENT, WEIGHTED, Node, Outline

if TYPE_CHECKING:
    from layerdiff.mil import Model, Package

FLOATS = ("float16", "float32", "float64")
SMALL_INTEGERS = ("int8", "uint8", "int16", "uint16")
FLOAT16_MAX = 65504.0
FLOAT16_MIN = 2.0**-24
"""Smallest positive float16."""

LARGEST_READ = 2**20
"""Elements of a constant up to which its values are looked at."""

FRAGILE: Mapping[str, str] = {
    "softplus": "softplus overflows float16 beyond 10.4 in Core ML (coremltools #2687)",
    "reduce_log_sum_exp": "log-sum-exp overflows float16 beyond 11 (coremltools #2690)",
    "reduce_sum_square": "a sum of squares passes 65504 early in float16",
    "reduce_l2_norm": "a sum of squares passes 65504 early in float16",
}
"""MIL ops that are known to fail in float16."""


@dataclass(frozen=True)
class Port:
    """An input, an output or a state."""

    name: str
    type: str
    """`float32[1, 80, 17..4000]`."""
    note: str = ""


@dataclass(frozen=True)
class OpCount:
    """Ops of one type with one dtype of result."""

    op: str
    dtype: str
    count: int


@dataclass(frozen=True)
class Storage:
    """Weights that are stored in one way."""

    stored: str
    """`float16`, `affine, int8`."""
    constants: int
    values: int
    size_bytes: int
    """As stored, scales and tables included."""

    @property
    def bits_per_value(self) -> float:
        return 8 * self.size_bytes / self.values if self.values else 0.0


@dataclass(frozen=True)
class Island:
    """Consecutive ops that compute in another precision than most of the program."""

    dtype: str
    first: str
    """The first tensor that they make."""
    last: str
    ops: tuple[str, ...]
    """Their types, in order."""


@dataclass(frozen=True)
class Hazard:
    """Something that is known to go wrong."""

    kind: str
    """Stable identifier: `integer_cast`, `beyond_float16`, `epsilon_is_zero`, `log_of_softmax`, `fragile_op`."""
    tensor: str
    detail: str


@dataclass(frozen=True)
class Tensor:
    """A tensor that a stage can name."""

    name: str
    op: str
    dtype: str
    shape: tuple[int | None, ...] | None
    is_landmark: bool
    """Whether it is an output, or an op with weights makes it."""


@dataclass(frozen=True)
class Part:
    """A function of a package, a model of a pipeline, or a file as a whole."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: tuple[Port, ...]
    ops: tuple[OpCount, ...]
    """The most frequent first."""
    storage: tuple[Storage, ...]
    tensors: tuple[Tensor, ...]
    """In order of execution."""
    precision: str = ""
    """`float16`, `float32` or `mixed`, by the ops; empty where ops have no dtype."""
    opset: str = ""
    islands: tuple[Island, ...] = ()
    hazards: tuple[Hazard, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """What one file holds."""

    name: str
    kind: str
    """`Core ML package`, `pipeline`, `ONNX model`, `recorded trace`, `checkpoint`."""
    path: str
    facts: Mapping[str, Any]
    """What there is to say of the whole, e.g. the version of the specification."""
    parts: tuple[Part, ...]
    claims: tuple[str, ...] = ()
    """What its metadata says about its precision."""
    notes: tuple[str, ...] = ()
    """What contradicts itself."""


# ------------------------------------------------------------------ packages


def inspect_package(models: Mapping[str, Model], outlines: Mapping[str, Outline], *, kind: str) -> Inspection:
    """What a Core ML package holds.

    Args:
        models: name of a function, or of a model of a pipeline → the loaded model.
        outlines: the same names → its outline.
        kind: `Core ML package` or `pipeline`.
    """
    parts = tuple(_program_part(name, model, outlines[name]) for name, model in models.items())
    package = next(iter(models.values())).package
    claims = tuple(metadata_claims(package.path))
    return Inspection(
        name=package.path.name,
        kind=kind,
        path=str(package.path),
        facts=_package_facts(package, parts),
        parts=parts,
        claims=claims,
        notes=tuple(_contradictions(claims, {part.precision for part in parts})),
    )


def _package_facts(package: Package, parts: Sequence[Part]) -> dict[str, Any]:
    facts: dict[str, Any] = {"specification": package.specification_version}
    opsets = list(dict.fromkeys(part.opset for part in parts))
    return facts | {"opset": ", ".join(opsets), "functions": [part.name for part in parts]}


def _program_part(name: str, model: Model, outline: Outline) -> Part:
    ops = list(model.graph.function)
    weighted = {tensor.name for tensor in outline.nodes if tensor.weights and tensor.kind in WEIGHTED}
    return Part(
        name=name,
        inputs=tuple(_port(n, spec) for n, spec in model.inputs.items()),
        outputs=tuple(Port(n, str(spec)) for n, spec in model.outputs.items()),
        states=tuple(Port(n, str(spec)) for n, spec in model.states.items()),
        ops=_op_counts((tensor.op, tensor.dtype) for tensor in model.tensors),
        storage=_storage(_constants(model.graph.function.block)),
        tensors=tuple(
            Tensor(t.name, t.op, t.dtype, t.shape, t.name in weighted or t.name in model.outputs) for t in model.tensors
        ),
        precision=model.declared_precision,
        opset=model.opset,
        islands=tuple(islands(ops)),
        hazards=tuple(hazards(ops, model.graph.function.block.constants)),
    )


def _port(name: str, spec: Any) -> Port:
    notes = ["optional"] if spec.optional else []
    notes += [f"only {', '.join(str(list(s)) for s in spec.enumerated)}"] if spec.enumerated else []
    return Port(name, str(spec), "; ".join(notes))


def _op_counts(pairs: Iterable[tuple[str, str]]) -> tuple[OpCount, ...]:
    counted = sorted(Counter(pairs).items(), key=lambda item: (-item[1], item[0]))
    return tuple(OpCount(op, dtype, count) for (op, dtype), count in counted)


def _constants(block: Block) -> Iterator[Constant]:
    """The constants of a block, and of the blocks inside of its ops."""
    yield from block.constants.values()
    for op in block.ops:
        for inner in op.blocks:
            yield from _constants(inner)


def _storage(constants: Iterable[Constant]) -> tuple[Storage, ...]:
    """Float constants of more than one element by how they are stored; what they are decompressed from is counted."""
    found: dict[str, list[tuple[int, int]]] = {}
    for constant in constants:
        if constant.type.dtype in FLOATS and prod(constant.shape) > 1:
            found.setdefault(_stored(constant), []).append((prod(constant.shape), _bytes(constant)))
    return tuple(
        Storage(stored, len(sizes), sum(n for n, _ in sizes), sum(size for _, size in sizes))
        for stored, sizes in sorted(found.items(), key=lambda item: -sum(size for _, size in item[1]))
    )


def _stored(constant: Constant) -> str:
    op = constant.decompressed_by
    if op is None:
        return constant.type.dtype
    largest = max(_sources(op), key=lambda source: source.size_bytes)
    return f"{op.type.removeprefix('constexpr_').replace('_', ' ')}, {_stored(largest)}"


def _bytes(constant: Constant) -> int:
    op = constant.decompressed_by
    return constant.size_bytes if op is None else sum(_bytes(source) for source in _sources(op))


def _sources(op: Op) -> list[Constant]:
    return [bound for arguments in op.inputs.values() for bound in arguments if isinstance(bound, Constant)]


# ------------------------------------------------------------------ precision


def islands(ops: Sequence[Op]) -> Iterator[Island]:
    """Runs of ops that compute in float32 in a program that computes mostly in float16; casts belong to neither."""
    computing = [op for op in ops if op.type != "cast" and _float_of(op)]
    counts = Counter(_float_of(op) for op in computing)
    if counts["float16"] <= counts["float32"]:
        return
    run: list[Op] = []
    for op in [*computing, None]:
        if op is not None and _float_of(op) == "float32":
            run.append(op)
        elif run:
            yield Island("float32", run[0].outputs[0].name, run[-1].outputs[-1].name, tuple(o.type for o in run))
            run = []


def _float_of(op: Op) -> str:
    """The float dtype of an op's results; empty if it has none."""
    return next((output.type.dtype for output in op.outputs if output.type.dtype in FLOATS), "")


def hazards(ops: Sequence[Op], constants: Mapping[str, Constant]) -> Iterator[Hazard]:
    """What is known to go wrong in a program."""
    makers = {output.name: op for op in ops for output in op.outputs}
    for op in ops:
        yield from _cast_hazards(op)
        yield from _constant_hazards(op, constants)
        if _float_of(op) == "float16":
            yield from _float16_hazards(op, makers)


def _cast_hazards(op: Op) -> Iterator[Hazard]:
    dtype = op.outputs[0].type.dtype if op.outputs else ""
    if op.type == "cast" and dtype in SMALL_INTEGERS:
        limit = int(np.iinfo(dtype).max)
        yield Hazard("integer_cast", op.outputs[0].name, f"a cast to {dtype} overflows beyond {limit}")


def _float16_hazards(op: Op, makers: Mapping[str, Op]) -> Iterator[Hazard]:
    name = op.outputs[0].name
    if op.type in FRAGILE:
        yield Hazard("fragile_op", name, FRAGILE[op.type])
    operand = makers.get(str(op.inputs["x"][0])) if op.type == "log" else None
    if operand is not None and operand.type == "softmax":
        detail = "a log of a softmax in float16: probabilities below 6e-8 become 0, whose log is -45440 (#2728)"
        yield Hazard("log_of_softmax", name, detail)


def _constant_hazards(op: Op, constants: Mapping[str, Constant]) -> Iterator[Hazard]:
    """Constants that float16 does not hold: masks beyond 65504, and an epsilon that became zero."""
    for role, bound in op.inputs.items():
        for argument in bound:
            constant = constants.get(argument) if isinstance(argument, str) else argument
            if constant is None or not _is_looked_at(op, constant):
                continue
            values = np.asarray(constant.array(), np.float64)
            size = float(np.abs(values).max(initial=0))
            makes = _float_of(op) or "no float"
            if size > FLOAT16_MAX and not (op.type == "clip" or op.type == "const"):
                shown = f"{values.flat[int(np.abs(values).argmax())]:.4g}"
                fits = "" if isfinite(size) and makes != "float16" else ", which is infinite in float16"
                yield Hazard(
                    "beyond_float16", op.outputs[0].name, f"the {role} of {op.type} is {shown} in {makes}{fits}"
                )
            if role == "epsilon" and (size == 0 or (makes == "float16" and size < FLOAT16_MIN)):
                yield Hazard("epsilon_is_zero", op.outputs[0].name, f"the epsilon of {op.type} is 0 in {makes}")


def _is_looked_at(op: Op, constant: Constant) -> bool:
    """Whether the values of a constant are worth reading: small ones, and those that are no plain weights."""
    is_plain = constant.decompressed_by is None and constant.type.dtype in FLOATS
    heavy = op.type in ("conv", "linear", "lstm", "gru", "rnn", "matmul", "gather", "conv_transpose")
    return is_plain and prod(constant.shape) <= LARGEST_READ and not (heavy and prod(constant.shape) > 1)


# ------------------------------------------------------------------ metadata


def metadata_claims(path: Path) -> Iterator[str]:
    """What metadata.json, in a package or beside it, says about precision: `compute_precision: FLOAT32`."""
    for file in (path / "metadata.json", path.parent / "metadata.json"):
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # somebody else's file, which need not be JSON
        yield from dict.fromkeys(_claims(content))


def _claims(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _claims(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _claims(item, key)
    elif "precision" in key.lower() and value:
        yield f"{key}: {value}"


def _contradictions(claims: Iterable[str], precisions: set[str]) -> Iterator[str]:
    """Claims of one precision only, by a program that declares another."""
    for claim in claims:
        named = {f"float{bits}" for bits in re.findall(r"(?:float|fp)[ _]?(16|32)", claim.lower())}
        if len(named) == 1 and precisions and not named & precisions:
            yield f"the metadata claims '{claim}', the ops declare {', '.join(sorted(precisions))}"


# ------------------------------------------------------------------ everything else


def inspect_outline(outline: Outline, *, kind: str, path: str, facts: Mapping[str, Any] | None = None) -> Inspection:
    """What a checkpoint, an ONNX file or a trace holds, by its outline, and what else is known of it."""
    numbers = [weight for weight in outline.weights.values() if prod(weight.shape) > 1]
    floats = Counter(node.dtype for node in outline.nodes if node.dtype in FLOATS and node.kind not in MOVEMENT)
    part = Part(
        name="",
        inputs=tuple(Port(node.name, _type(node)) for node in outline.inputs),
        outputs=tuple(Port(name, _type(outline.by_name[name])) for name in outline.outputs if name in outline.by_name),
        states=(),
        ops=_op_counts((node.op, node.dtype) for node in outline.nodes if node.result == 0),
        storage=_outline_storage(outline),
        tensors=tuple(
            Tensor(n.name, n.op, n.dtype, n.shape, bool(n.weights) or n.name in outline.outputs) for n in outline.nodes
        ),
        precision="" if not floats else next(iter(floats)) if len(floats) == 1 else "mixed",
    )
    holds = {"weights": len(outline.weights), "values": sum(prod(weight.shape) for weight in numbers)}
    return Inspection(outline.title, kind, path, {**(facts or {}), **holds}, (part,))


def _type(node: Node) -> str:
    shape = "" if node.shape is None else f"[{', '.join('?' if n is None else str(n) for n in node.shape)}]"
    return f"{node.dtype}{shape}"


def _outline_storage(outline: Outline) -> tuple[Storage, ...]:
    found: dict[str, list[tuple[int, int]]] = {}
    for weight in outline.weights.values():
        count = prod(weight.shape)
        stored = weight.compression or weight.dtype
        found.setdefault(stored, []).append((count, -(-count * BITS.get(weight.dtype, 8) // 8)))
    return tuple(
        Storage(stored, len(sizes), sum(n for n, _ in sizes), sum(size for _, size in sizes))
        for stored, sizes in sorted(found.items(), key=lambda item: -sum(size for _, size in item[1]))
    )
