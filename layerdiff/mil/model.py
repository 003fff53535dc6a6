"""The public face of the engine: a loaded model that predicts, and shows any of its tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from torch import Tensor

from layerdiff.errors import EngineError, FeedError, PackageError
from layerdiff.mil.census import Anomaly, anomalies
from layerdiff.mil.constants import BUDGET_BYTES, Constants, exchanged
from layerdiff.mil.engine import Engine, every_op
from layerdiff.mil.features import TensorSpec
from layerdiff.mil.feed import checked, checked_injection, checked_state, filled, require_mapping
from layerdiff.mil.images import picture
from layerdiff.mil.ops import EXACT, KERNELS
from layerdiff.mil.ops.control_flow import TensorList
from layerdiff.mil.ops.signature import Census
from layerdiff.mil.package import Package, open_package
from layerdiff.mil.plan import Graph
from layerdiff.mil.precision import FLOATS, Precision, array_of, tensor_of
from layerdiff.mil.program import TensorType

if TYPE_CHECKING:
    from layerdiff.mil.pipeline import Pipeline

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
    anomalies: tuple[Anomaly, ...] = ()
    """What is wrong with its values, if the trace takes a census."""


def load(
    path: str | Path,
    precision: str = "declared",
    function: str | None = None,
    *,
    dither_seed: int | None = None,
    constants_budget_bytes: int = BUDGET_BYTES,
) -> Model | Pipeline:
    """Loads a Core ML package for execution on any operating system.

    Args:
        path: an `.mlpackage` or `.mlmodelc` folder, or an `.mlmodel` file, with an ML Program or a pipeline of them.
        precision: `declared`, `float32`, `float64` or `float16_unbounded`; see `layerdiff.mil.precision`.
        function: which function; the default one if None.
        dither_seed: if given, float16 constants are shifted by a random half unit in the last place.
        constants_budget_bytes: how much decoded constants may take; what does not fit is decoded at each use.

    Returns:
        The model, or the pipeline. Weights are memory-mapped, and decoded when they are first used.

    Raises:
        PackageError: the package is missing, damaged, or no ML Program.
        UnsupportedOpError: it holds something that the engine does not execute.
    """
    package, policy = open_package(path), Precision(precision, dither_seed)
    if isinstance(package, Package):
        return _model(package, function, policy, Constants(constants_budget_bytes))
    from layerdiff.mil.pipeline import Pipeline  # it is made of models

    if function is not None:
        raise PackageError(f"'{package.name}' is a pipeline, so it has no function '{function}'.", where=str(path))
    constants = Constants(constants_budget_bytes)
    return Pipeline(package, {n: _model(member, None, policy, constants) for n, member in package.members.items()})


def _model(package: Package, function: str | None, precision: Precision, constants: Constants) -> Model:
    graph = Graph(package.program.functions[package.function_named(function)], package=package.name)
    return Model(package, graph, precision, constants)


class Model:
    """One function of a package under one precision; made by `load`.

    Calls keep no state but caches, and the census of the last call.
    """

    def __init__(self, package: Package, graph: Graph, precision: Precision, constants: Constants) -> None:
        self.package, self.graph, self.precision = package, graph, precision
        self._constants = constants
        self._engine = Engine(graph, package=package.name, precision=precision, constants=constants)
        self._last_census = Census()
        self._last_anomalies: dict[str, Anomaly] = {}
        interface = package.interfaces[graph.function.name]
        self.inputs: dict[str, TensorSpec] = dict(interface.inputs)
        """Input name → what may be fed."""
        self.outputs: dict[str, TensorSpec] = dict(interface.outputs)
        """Output name → what comes back."""
        self.states: dict[str, TensorSpec] = dict(interface.states)
        """State name → what is kept from call to call."""
        for spec in (*self.inputs.values(), *self.states.values()):
            precision.held(spec.dtype)
        self._given_inputs, self._given_states = (  # with the dtypes that callers give
            {n: replace(s, dtype=precision.given(s.dtype)) for n, s in specs.items()}
            for specs in (self.inputs, self.states)
        )

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

    def make_state(self) -> dict[str, Array]:
        """A new state, all zeros: state name → array of the dtype and shape of `states`.

        It belongs to the caller: `predict`, `run` and `trace` update the arrays in place.
        """
        return {name: filled(spec, 0, where=self.graph.where) for name, spec in self._given_states.items()}

    def predict(self, feed: Mapping[str, Any], state: Mapping[str, Array] | None = None) -> dict[str, Any]:
        """Every output, from every input.

        Args:
            feed: input name → array, or image (`layerdiff.mil.images`); an optional input may be left out.
            state: of a model with states, what `make_state` gave; updated in place when the call succeeds.

        Returns:
            Output name → array of the declared dtype and shape; under a policy that widens floats, of the
            widened dtype. An image comes back as one of pillow, what a classifier says as its label (str or int)
            and a dictionary label → probability.

        Raises:
            FeedError: the feed does not match `inputs`, or the state `states`.
            EngineError: an op failed.
        """
        values = self.run(feed, list(self.outputs), state=state)
        images = {n: picture(values[n], spec) for n, spec in self.outputs.items() if spec.kind == "image"}
        return values | images

    def run(
        self,
        feed: Mapping[str, Any],
        fetch: Sequence[str],
        inject: Mapping[str, Any] | None = None,
        *,
        state: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """The requested tensors; only what they are computed from is run, and every write of a state.

        Args:
            feed: input name → array; inputs that are not needed may be absent.
            fetch: names of outputs, inner tensors or inputs.
            inject: tensor name → its value, which is then not computed; an input may be given here too.
            state: as for `predict`.

        Raises:
            FeedError: a name is unknown, an input is missing, or a value does not fit.
            EngineError: an op failed.
        """
        if isinstance(fetch, str):
            raise FeedError(f"'{fetch}' is one name, not a list of names.", action=f"write fetch=['{fetch}']")
        fetch, inject = list(fetch), {} if inject is None else inject
        require_mapping(inject, "what is injected", where=self.graph.where)
        compiled = self._engine.compiled(fetch, list(inject), update_states=state is not None)
        census, states = Census(), self._states(state, compiled.plan.states)
        feeds, injected = compiled.plan.feeds, compiled.plan.injected
        before = dict(states)
        results = self._engine.run(
            compiled, self._tensors(feed, feeds), self._injected(inject, injected), states, census
        )
        self._last_census = census
        types, new = self.graph.types, {name for name in fetch if name not in inject and self._is_new(name)}
        values = {name: self._value(results[name], types[name], owned=name in new) for name in fetch}
        self._keep(before, states, state)
        return values

    def trace(
        self,
        feed: Mapping[str, Any],
        *,
        state: Mapping[str, Array] | None = None,
        census: bool = False,
        wanted: Collection[str] | None = None,
        overrides: MutableMapping[str, Array] | None = None,
        lend: bool = False,
    ) -> Iterator[TracedTensor]:
        """Every tensor that the program computes, in execution order; each is freed after its last use.

        What is inside of a loop comes as often as it is computed.

        Args:
            feed: input name → array.
            state: as for `predict`; updated after the last tensor.
            census: whether to look for NaN, infinities, values beyond float16 and logarithms of zero in each of them;
                `first_anomalies` then tells where each kind came first.
            wanted: only these tensors, and only what they are computed from is run; all of them if None.
            overrides: what the caller puts into it under the name of the tensor that was just yielded takes its
                place: the program goes on with that value, rounded to the declared dtype. The entry is taken out.
            lend: whether values are only lent: read-only, in the program's memory, and good until the next one is
                computed. Else each is a copy.

        Raises:
            FeedError: the feed does not match `inputs`, or there is no tensor of a wanted name.
            EngineError: an op failed; what comes before it has been yielded.
        """
        compiled = self._engine.compiled(
            list(self.graph.producers if wanted is None else wanted), traced=True, update_states=wanted is None
        )
        counted, states = Census(), self._states(state, compiled.plan.states)
        before = dict(states)
        values = self._tensors(feed, list(self.inputs if wanted is None else compiled.plan.feeds))
        first = [a for name, value in values.items() for a in anomalies(value, tensor=name, op="input") if census]
        by_kind = self._last_anomalies = {anomaly.kind: anomaly for anomaly in reversed(first)}
        for name in set(values) - set(compiled.plan.feeds):
            del values[name]
        given: dict[str, Tensor] = {}
        asked = None if wanted is None else frozenset(wanted)
        for op, output, value, operand in self._engine.trace(compiled, values, states, counted, given):
            if asked is not None and output.name not in asked:
                del value, operand
                continue
            found = anomalies(value, tensor=output.name, op=op.type, operand=operand) if census else ()
            for anomaly in found:
                by_kind.setdefault(anomaly.kind, anomaly)
            yield TracedTensor(output.name, op.type, self._value(value, output.type, lent=lend), found)
            del value, operand
            if overrides and output.name in overrides:
                given |= self._injected({output.name: overrides.pop(output.name)}, [output.name])
        self._last_census = counted
        self._keep(before, states, state)

    def with_precision(self, precision: str, *, dither_seed: int | None = None) -> Model:
        """The same model under another policy; program, weights and decoded constants are shared."""
        return Model(self.package, self.graph, Precision(precision, dither_seed), self._constants)

    def with_constants(self, values: Mapping[str, Array]) -> Model:
        """The same model with other values for some constants, by their names; see `constants.exchanged`."""
        changed = exchanged(self.graph.function.block.constants, values, where=self.package.name)
        return Model(self.package, self.graph, self.precision, changed)

    @property
    def last_integer_overflows(self) -> dict[str, int]:
        """Of the last call: tensor → how many values did not fit its declared integer dtype and wrapped."""
        return dict(self._last_census.integer_overflows)

    @property
    def first_anomalies(self) -> dict[str, Anomaly]:
        """Of the last trace with a census: kind → where it came first; an input counts as its own producer."""
        return dict(self._last_anomalies)

    def generated_source(self, fetch: Sequence[str] | None = None, inject: Sequence[str] = ()) -> str:
        """The Python function that runs for a request; by default that of `predict`."""
        fetch = list(self.outputs) if fetch is None else fetch
        return self._engine.compiled(fetch, inject, update_states=bool(self.states)).source.text

    # -------------------------------------------------------------- structure

    @cached_property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every tensor that an op computes, in program order, those inside of nested blocks before the op around them.

        Constants, decompressed ones too, and inputs are not among them.
        """
        return tuple(
            TensorInfo(output.name, op.type, output.type.dtype, output.type.shape)
            for op in every_op(self.graph.function.block)
            for output in op.outputs
        )

    def feeds_of(self, fetch: Sequence[str], inject: Sequence[str] = ()) -> tuple[str, ...]:
        """The inputs that a request reads."""
        return self._engine.compiled(fetch, inject).plan.feeds

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

    def _value(self, value: Any, type_: TensorType, *, owned: bool = False, lent: bool = False) -> Any:
        """What a caller gets: an array; of a classifier's results a label or a dictionary."""
        if isinstance(value, TensorList):
            value = self._stacked(value)
        if not isinstance(value, Tensor):
            return value
        return array_of(value, type_.dtype, self.precision, owned=owned, lent=lent)

    def _stacked(self, value: TensorList) -> Tensor:
        try:
            return value.stacked()
        except RuntimeError as error:
            raise EngineError(
                "a list holds tensors of different shapes, so no array shows it.",
                where=self.graph.where,
                detail=", ".join(str(list(e.shape)) for e in value.elements if e is not None),
            ) from error

    def _is_new(self, name: str) -> bool:
        """Whether a tensor is in memory that its op allocated, so that no other result of a call can share it."""
        op = self.graph.producers.get(name)
        return op is not None and op.type in KERNELS and op.type not in EXACT

    def _states(self, state: Mapping[str, Array] | None, needed: Sequence[str]) -> dict[str, Tensor]:
        """The values of the states that a plan touches."""
        if not needed and not state:
            return {}
        if state is None:
            raise FeedError(
                f"the model keeps a state, '{needed[0]}', and none is given.",
                where=self.graph.where,
                action="make one with make_state() and give it to each call as state=…",
            )
        arrays = checked_state(state, self._given_states, where=self.graph.where)
        return {n: tensor_of(arrays[n], self.states[n].dtype, self.precision) for n in needed}

    def _keep(
        self, before: Mapping[str, Tensor], after: Mapping[str, Tensor], state: Mapping[str, Array] | None
    ) -> None:
        """Writes the new values of states into the caller's arrays: all of them, or none if one does not fit."""
        if state is None:
            return
        written = {name: value for name, value in after.items() if value is not before[name]}
        for name, value in written.items():
            if tuple(value.shape) != state[name].shape:
                raise EngineError(
                    f"the value written to the state '{name}' is of another shape.",
                    where=self.graph.where,
                    detail=f"expected {self.states[name]}, got {list(value.shape)}",
                )
        # All are copied before one is written: the value of one state may be in the memory of another.
        arrays = {n: array_of(value, self.states[n].dtype, self.precision) for n, value in written.items()}
        for name, array in arrays.items():
            state[name][...] = array

    def _tensors(self, feed: Mapping[str, Any], needed: Sequence[str]) -> dict[str, Any]:
        arrays = checked(feed, self._given_inputs, needed, where=self.graph.where)
        return {name: tensor_of(array, self.inputs[name].dtype, self.precision) for name, array in arrays.items()}

    def _injected(self, inject: Mapping[str, Any], needed: Sequence[str]) -> dict[str, Any]:
        types = self.graph.types
        arrays = {n: checked_injection(n, v, types[n], where=self.graph.where) for n, v in inject.items()}
        return {name: tensor_of(arrays[name], types[name].dtype, self.precision) for name in needed}
