"""The public face of the engine: a loaded model that predicts, and shows any of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from layerdiff.errors import UnsupportedOpError
from layerdiff.mil.engine import Engine
from layerdiff.mil.features import TensorSpec
from layerdiff.mil.feed import checked, checked_injection
from layerdiff.mil.ops.signature import Census
from layerdiff.mil.package import Package, open_package
from layerdiff.mil.plan import Graph
from layerdiff.mil.precision import BUDGET_BYTES, FLOATS, Constants, Precision, array_of, tensor_of

Array = NDArray[Any]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that an op of the program computes."""

    name: str
    op: str
    """MIL type of the op that makes it."""
    dtype: str
    """As declared, by its numpy name."""
    shape: tuple[int | None, ...] | None
    """As declared: None for a length known only at run time, or for the whole if the rank is not known."""


@dataclass(frozen=True, eq=False)
class TracedTensor:
    """A tensor with its value, in the course of one execution."""

    name: str
    op: str
    value: Array


def load(
    path: str | Path,
    precision: str = "declared",
    function: str | None = None,
    *,
    dither_seed: int | None = None,
    constants_budget_bytes: int = BUDGET_BYTES,
) -> Model:
    """Loads a Core ML package for execution on any operating system.

    Args:
        path: an `.mlpackage` folder, or a bare `.mlmodel` file with an ML Program.
        precision: `declared`, `float32`, `float64` or `float16_unbounded`; see `layerdiff.mil.precision`.
        function: which function; the default one if None.
        dither_seed: if given, float16 constants are shifted by a random half unit in the last place.
        constants_budget_bytes: how much decoded constants may take; what does not fit is decoded at each use.

    Returns:
        The model. Weights are memory-mapped, and decoded when they are first used.

    Raises:
        PackageError: the package is missing, damaged, or no ML Program.
        UnsupportedOpError: it holds something that the engine does not execute.
    """
    package = open_package(path)
    graph = Graph(package.program.functions[package.function_named(function)], package=package.name)
    return Model(package, graph, Precision(precision, dither_seed), Constants(constants_budget_bytes))


class Model:
    """One function of a package under one precision; made by `load`.

    Calls keep no state but caches, and the census of the last call.
    """

    def __init__(self, package: Package, graph: Graph, precision: Precision, constants: Constants) -> None:
        self.package, self.graph, self.precision = package, graph, precision
        self._constants = constants
        self._engine = Engine(graph, package=package.name, precision=precision, constants=constants)
        self._last_census = Census()
        interface = package.interfaces[graph.function.name]
        self.inputs: dict[str, TensorSpec] = dict(interface.inputs)
        """Input name → what may be fed."""
        self.outputs: dict[str, TensorSpec] = dict(interface.outputs)
        """Output name → what comes back."""
        for spec in (*self.inputs.values(), *self.outputs.values()):
            if spec.kind != "tensor":
                raise UnsupportedOpError(
                    f"'{spec.name}' is of the kind '{spec.kind}', which the portable engine does not take.",
                    where=self.graph.where,
                )
            precision.held(spec.dtype)

    def __repr__(self) -> str:
        takes = ", ".join(f"{spec.name}: {spec}" for spec in self.inputs.values())
        returns = ", ".join(f"{spec.name}: {spec}" for spec in self.outputs.values())
        return f"Model({self.package.name}, {self.function}({takes}) -> {returns}, {self.precision.policy})"

    @property
    def path(self) -> Path:
        return self.package.path

    @property
    def function(self) -> str:
        """Name of the function that it runs."""
        return self.graph.function.name

    @property
    def opset(self) -> str:
        """CoreML5 (iOS15) … CoreML8 (iOS18)."""
        return self.graph.function.opset

    # -------------------------------------------------------------- execution

    def predict(self, feed: Mapping[str, Any]) -> dict[str, Array]:
        """Every output, from every input.

        Args:
            feed: input name → array.

        Returns:
            Output name → array of the declared dtype and shape; under a policy that widens floats, of the
            widened dtype.

        Raises:
            FeedError: the feed does not match `inputs`.
            EngineError: an op failed.
        """
        return self.run(feed, list(self.outputs))

    def run(
        self, feed: Mapping[str, Any], fetch: Sequence[str], inject: Mapping[str, Any] | None = None
    ) -> dict[str, Array]:
        """The requested tensors; only what they are computed from is run.

        Args:
            feed: input name → array; inputs that are not needed may be absent.
            fetch: names of outputs, inner tensors or inputs.
            inject: tensor name → its value, which is then not computed; an input may be given here too.

        Raises:
            FeedError: a name is unknown, an input is missing, or a value does not fit.
            EngineError: an op failed.
        """
        inject = dict(inject or {})
        compiled = self._engine.compiled(fetch, list(inject), traced=False)
        census = Census()
        results = self._engine.run(
            compiled, self._tensors(feed, compiled.plan.feeds), self._injected(inject, compiled.plan.injected), census
        )
        self._last_census = census
        return {name: array_of(results[name], self._dtype(name), self.precision) for name in fetch}

    def trace(self, feed: Mapping[str, Any]) -> Iterator[TracedTensor]:
        """Every tensor that the program computes, in execution order; each is freed after its last use.

        Raises:
            FeedError: the feed does not match `inputs`.
            EngineError: an op failed; what comes before it has been yielded.
        """
        names = [tensor.name for tensor in self.tensors]
        compiled = self._engine.compiled(names, [], traced=True)
        census = Census()
        values = self._tensors(feed, list(self.inputs))
        for name in set(values) - set(compiled.plan.feeds):
            del values[name]
        for name, op, tensor in self._engine.trace(compiled, values, census):
            yield TracedTensor(name, op.type, array_of(tensor, self._dtype(name), self.precision))
            del tensor
        self._last_census = census

    def with_precision(self, precision: str, *, dither_seed: int | None = None) -> Model:
        """The same model under another policy; program, weights and decoded constants are shared."""
        return Model(self.package, self.graph, Precision(precision, dither_seed), self._constants)

    @property
    def last_integer_overflows(self) -> dict[str, int]:
        """Of the last call: tensor → how many values did not fit its declared integer dtype and wrapped."""
        return dict(self._last_census.integer_overflows)

    def generated_source(self, fetch: Sequence[str] | None = None, inject: Sequence[str] = ()) -> str:
        """The Python function that runs for a request; by default that of `predict`."""
        return self._engine.compiled(list(self.outputs) if fetch is None else fetch, list(inject), traced=False).source

    # -------------------------------------------------------------- structure

    @cached_property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every tensor that an op computes, in program order; constants and inputs are not among them."""
        return tuple(
            TensorInfo(output.name, op.type, output.type.dtype, output.type.shape)
            for op in self.graph.function
            for output in op.outputs
        )

    def ancestors(self, name: str) -> frozenset[str]:
        """The tensors, inputs included, that a tensor is computed from.

        Raises:
            FeedError: there is no such tensor.
        """
        self.graph.require([name])
        return self.graph.ancestors(name)

    def depth(self, name: str) -> int:
        """Number of ops on the longest path from an input to a tensor; 0 for an input.

        Raises:
            FeedError: there is no such tensor.
        """
        self.graph.require([name])
        return self.graph.depths.get(name, 0)

    @cached_property
    def declared_precision(self) -> str:
        """`float16`, `float32` or `mixed`: the float dtypes of what the ops compute, conversions left out.

        Read from the program: the metadata of a package may claim another one.
        """
        results = [t.dtype for t in self.tensors if t.dtype in FLOATS and t.op != "cast"]
        declared = set(results or [t.dtype for t in self.tensors if t.dtype in FLOATS] or ["float32"])
        return declared.pop() if len(declared) == 1 else "mixed"

    # -------------------------------------------------------------- values

    def _dtype(self, name: str) -> str:
        return self.graph.types[name].dtype

    def _tensors(self, feed: Mapping[str, Any], needed: Sequence[str]) -> dict[str, Any]:
        specs = {n: replace(s, dtype=self.precision.given(s.dtype)) for n, s in self.inputs.items()}
        arrays = checked(feed, specs, needed, where=self.graph.where)
        return {name: tensor_of(array, self._dtype(name), self.precision) for name, array in arrays.items()}

    def _injected(self, inject: Mapping[str, Any], needed: Sequence[str]) -> dict[str, Any]:
        types = self.graph.types
        arrays = {n: checked_injection(n, v, types[n], where=self.graph.where) for n, v in inject.items()}
        return {name: tensor_of(arrays[name], self._dtype(name), self.precision) for name in needed}
