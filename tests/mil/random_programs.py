"""Random MIL programs: small graphs grown from a seed, each op with its meaning in numpy.

A graph grows op by op. A rule of `random_rules` picks operands among the values so far, and parameters, and
gives a `Step`: a call of coremltools' builder and the same as a formula in numpy. The values are computed
in float64 while the graph grows, so that a step that leaves the domain of its op, or whose values become too
large for float16 or too many, is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray
FLEXIBLE = 7
"""Length of a flexible axis while a graph grows; no other length is a multiple of it."""
LARGEST, MOST_VALUES, MOST_AXES = 60.0, 600, 5


def fixed(length: int) -> bool:
    """Whether the length of an axis may be a parameter of an op."""
    return length % FLEXIBLE != 0


@dataclass(frozen=True)
class Step:
    """One op of a graph."""

    text: str
    operands: tuple[int, ...]
    """Which of the values so far it reads: first the inputs of the graph, then the results of its steps."""
    build: Callable[..., Any]
    """(builder, *variables) → variable."""
    formula: Callable[..., Any]
    """(*arrays) → array, in the dtype of the arrays."""


@dataclass
class Graph:
    """Inputs and steps."""

    inputs: list[Array]
    steps: list[Step] = field(default_factory=list)

    def values(self, inputs: Sequence[Array], dtype: str) -> list[Array]:
        """Every value in float64, rounded to `dtype` after each step: what a program of that dtype must cost."""
        found = [np.asarray(array, np.float64) for array in inputs]
        for step in self.steps:
            with np.errstate(all="ignore"):
                result = step.formula(*(found[i] for i in step.operands))
                found.append(np.asarray(result).astype(dtype).astype(np.float64))
        return found

    def variables(self, builder: Any, inputs: Sequence[Any]) -> list[Any]:
        """The same graph written with coremltools' builder."""
        found = list(inputs)
        for step in self.steps:
            found.append(step.build(builder, *(found[i] for i in step.operands)))
        return found

    @property
    def outputs(self) -> list[int]:
        """The results that no step reads."""
        read = {i for step in self.steps for i in step.operands}
        return [i for i in range(len(self.inputs), len(self.inputs) + len(self.steps)) if i not in read]

    def __str__(self) -> str:
        lines = [f"v{i} = input{array.shape}" for i, array in enumerate(self.inputs)]
        lines += [f"v{i} = {step.text}" for i, step in enumerate(self.steps, len(self.inputs))]
        return "\n".join(lines)


@dataclass
class Pick:
    """What a rule chooses from."""

    rng: np.random.Generator
    values: list[Array]
    inputs: int
    """How many of the values are inputs: exact in every dtype, so comparisons of them have one answer."""

    def value(self, where: Callable[[Array], Any] = lambda value: True, *, inputs_only: bool = False) -> int:
        """The index of a value that qualifies, recent ones first.

        Raises:
            LookupError: there is none.
        """
        found = [i for i, v in enumerate(self.values[: self.inputs] if inputs_only else self.values) if where(v)]
        if not found:
            raise LookupError
        weights = np.arange(1.0, len(found) + 1) ** 2
        return int(self.rng.choice(found, p=weights / weights.sum()))

    def constant(self, shape: Sequence[int]) -> Array:
        """Multiples of 1/8 in [-2, 2], exact in float16."""
        return (self.rng.integers(-16, 17, tuple(shape)) / 8).astype(np.float32)

    def one(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def axis(self, value: Array, where: Callable[[int], bool] = lambda length: True) -> int:
        """An axis of a length that qualifies, counted from either end."""
        found = [axis for axis, length in enumerate(value.shape) if where(length)]
        if not found:
            raise LookupError
        return self.one(*found) - self.one(0, value.ndim)

    def axes(self, value: Array) -> list[int]:
        """Some axes, at least one."""
        chosen = self.rng.permutation(value.ndim)[: self.rng.integers(1, value.ndim + 1)]
        return [int(axis) - self.one(0, value.ndim) for axis in sorted(chosen)]


def tame(values: Array) -> bool:
    """Whether they are inside the domain of every op and far from the largest float16."""
    return bool(np.isfinite(values).all() and np.abs(values).max(initial=0) <= LARGEST)


def step(
    op: str,
    formula: Callable[..., Any],
    parameters: dict[str, Any] | None = None,
    *,
    part: int | None = None,
    **operands: Any,
) -> Step:
    """A call of `op` with operands by name, each an index of a value or a list of them."""
    parameters = parameters or {}
    flat = tuple(i for given in operands.values() for i in (given if isinstance(given, list) else [given]))

    def build(builder: Any, *variables: Any) -> Any:
        left = iter(variables)
        bound = {n: [next(left) for _ in g] if isinstance(g, list) else next(left) for n, g in operands.items()}
        result = getattr(builder, op)(**bound, **parameters)
        return result if part is None else result[part]

    shown = [f"{name}={given}" for name, given in operands.items()]
    shown += [
        f"{k}={v.tolist() if isinstance(v, Array) and v.size < 5 else getattr(v, 'shape', v)}"
        for k, v in parameters.items()
    ]
    return Step(f"{op}({', '.join(shown)})", flat, build, formula)


Rule = Callable[[Pick], Step]


def grown(rng: np.random.Generator, rules: Sequence[Rule], *, steps: int, shapes: Sequence[Sequence[int]]) -> Graph:
    """A graph of that many steps over inputs of the given shapes."""
    graph = Graph([(rng.integers(-24, 25, tuple(shape)) / 8).astype(np.float32) for shape in shapes])
    values = [array.astype(np.float64) for array in graph.inputs]
    for _ in range(100 * steps):
        try:
            new = rules[int(rng.integers(len(rules)))](Pick(rng, values, len(graph.inputs)))
        except LookupError:
            continue
        with np.errstate(all="ignore"):
            result = np.asarray(new.formula(*(values[i] for i in new.operands)), np.float64)
        if 0 < result.size <= MOST_VALUES and result.ndim <= MOST_AXES and tame(result):
            graph.steps.append(new)
            values.append(result)
        if len(graph.steps) == steps:
            break
    return graph
