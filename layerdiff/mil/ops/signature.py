"""What a kernel takes, read from its annotations: the one place that tells parameters from tensors.

A kernel is a function whose keywords are named exactly as the inputs of its MIL op. The annotation of a
keyword decides what it receives:

- `Tensor`: a tensor, computed or constant; `Tensors`: a list of them (a tuple input).
- `int float bool str Ints Bools Strs Dims Labels`: a parameter as a plain Python value. A constant is converted once,
  when the plan is compiled; a computed one at run time, so shape-like inputs may come from either.
- `Out`: not an input of the op: the declared dtype of its first result and the dtype that it is held in.
- `Census`: not an input of the op: counts what the caller should be told, such as integer overflow.

A keyword without a default is required.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

Tensors = list[Tensor]
Ints = tuple[int, ...]
Bools = tuple[bool, ...]
Strs = tuple[str, ...]
Dims = tuple[int | None, ...]
Labels = tuple[int | str, ...]


@dataclass(frozen=True)
class Out:
    """The first result of an op, as its kernel needs to know it."""

    name: str
    dtype: str
    """Declared dtype, by its numpy name."""
    held: torch.dtype
    """What such a tensor is held in."""


@dataclass
class Census:
    """What one execution of a program counts."""

    integer_overflows: dict[str, int] = field(default_factory=dict)
    """Tensor name → how many values did not fit the integer dtype that it declares."""

    def overflow(self, name: str, count: int) -> None:
        if count:
            self.integer_overflows[name] = self.integer_overflows.get(name, 0) + count


INJECTED = {Out: "out", Census: "census"}
"""Annotations of keywords that are no inputs of the op."""


def _flat(value: Any) -> list[Any]:
    """The elements of an array, a tensor, or a tuple of such; a plain value is its own element."""
    if isinstance(value, tuple):
        return [element for part in value for element in _flat(part)]
    return value.reshape(-1).tolist() if hasattr(value, "reshape") else [value]


AS_PARAMETER: Mapping[Any, Callable[[Any], Any]] = {
    int: lambda value: int(_flat(value)[0]),
    float: lambda value: float(_flat(value)[0]),
    bool: lambda value: bool(_flat(value)[0]),
    str: lambda value: str(_flat(value)[0]),
    Ints: lambda value: tuple(int(v) for v in _flat(value)),
    Bools: lambda value: tuple(bool(v) for v in _flat(value)),
    Strs: lambda value: tuple(str(v) for v in _flat(value)),
    Dims: lambda value: tuple(None if isinstance(v, str) or v < 0 else int(v) for v in _flat(value)),
    Labels: lambda value: tuple(v if isinstance(v, str) else int(v) for v in _flat(value)),
}
"""Annotation → the plain Python value of an array, a tensor or a string."""


@dataclass(frozen=True)
class Parameter:
    """One keyword of a kernel."""

    name: str
    annotation: Any
    required: bool

    @property
    def is_static(self) -> bool:
        """Whether it takes a plain Python value."""
        return self.annotation in AS_PARAMETER


@dataclass(frozen=True)
class Kernel:
    """A function that computes one op."""

    function: Callable[..., Any]
    parameters: Mapping[str, Parameter]
    exact: bool
    """Its results need no rounding: they are values of its inputs, integers or truth values."""
    widened: bool
    """Where an integer is declared, its result may have another dtype."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The input names of the op that it knows."""
        return tuple(p.name for p in self.parameters.values() if p.annotation not in INJECTED)


@cache
def parameters_of(function: Callable[..., Any]) -> Mapping[str, Parameter]:
    """The keywords of a kernel."""
    hints = get_type_hints(function)
    return {
        name: Parameter(name, _without_none(hints[name]), parameter.default is inspect.Parameter.empty)
        for name, parameter in inspect.signature(function).parameters.items()
    }


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, UnionType):
        return next(member for member in get_args(annotation) if member is not type(None))
    return annotation
