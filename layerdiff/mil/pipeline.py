"""A pipeline: ML Programs in one package, each of which gets what those before it returned.

A feature is handed on by its name: a model takes the input `x` from the last model before it that returns an
`x`, and from the caller if there is none. The tensors of a model are named `model/tensor`, as in
`model0/linear_0`, by the names that the package gives to its models (`model0`, `model1` … if it gives none);
features, which have one name in the whole pipeline, go by their own name too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from layerdiff.errors import FeedError, PackageError, known_names
from layerdiff.mil.census import Anomaly
from layerdiff.mil.features import TensorSpec
from layerdiff.mil.feed import KINDS, check_names, checked_state
from layerdiff.mil.images import picture
from layerdiff.mil.model import Array, Model, TensorInfo, TracedTensor
from layerdiff.mil.package import COPY_AGAIN, PipelinePackage

Where = tuple[str, str]
"""The name of a member, and of a tensor in it."""


class Pipeline:
    """The models of a package that run one after the other, under one precision; made by `load`.

    Raises:
        PackageError: a model needs an input that nobody gives, or an output is returned by none.
    """

    def __init__(self, package: PipelinePackage, members: Mapping[str, Model]) -> None:
        self.package = package
        self.members: dict[str, Model] = dict(members)
        """Name → model, in the order in which they run."""
        self.inputs: dict[str, TensorSpec] = {}
        """Input name → what may be fed."""
        for member, model in self.members.items():
            for name, spec in model.inputs.items():
                if self._producer(name, before=member) is None:
                    self._require_given(name, spec, member)
                    self.inputs.setdefault(name, spec)
        self.outputs: dict[str, TensorSpec] = {name: self._returned(name) for name in package.outputs}
        """Output name → what comes back."""
        self.states: dict[str, TensorSpec] = {n: s for m in self.members.values() for n, s in m.states.items()}
        """State name → what is kept from call to call; models that name the same state share it."""

    def __repr__(self) -> str:
        return f"Pipeline({self.package.name}, {' -> '.join(self.members)})"

    @property
    def path(self) -> Path:
        return self.package.path

    @property
    def declared_precision(self) -> str:
        """`float16`, `float32` or `mixed`: what the models compute in."""
        declared = {model.declared_precision for model in self.members.values()}
        return declared.pop() if len(declared) == 1 else "mixed"

    @cached_property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every tensor that an op computes, as `model/tensor`, in the order in which they are computed."""
        return tuple(
            replace(tensor, name=f"{member}/{tensor.name}")
            for member, model in self.members.items()
            for tensor in model.tensors
        )

    def make_state(self) -> dict[str, Array]:
        """The states of all models as they are before the first call."""
        return {name: array for model in self.members.values() for name, array in model.make_state().items()}

    def with_precision(self, precision: str, *, dither_seed: int | None = None) -> Pipeline:
        """The same models under another policy; programs, weights and decoded constants are shared."""
        return Pipeline(
            self.package,
            {n: model.with_precision(precision, dither_seed=dither_seed) for n, model in self.members.items()},
        )

    # -------------------------------------------------------------- execution

    def predict(self, feed: Mapping[str, Any], state: Mapping[str, Array] | None = None) -> dict[str, Any]:
        """Every output, from every input.

        Args:
            feed: input name → array or image.
            state: of a pipeline with states, what `make_state` gave; updated in place.

        Returns:
            Output name → array, or what else `Model.predict` returns.

        Raises:
            FeedError: the feed does not match `inputs`, or the state `states`.
            EngineError: an op failed.
        """
        values = self._begun(feed, state)
        with _updated(state) as states:
            for model in self.members.values():
                values |= model.predict(self._handed_on(model, values), _own(states, model))
        return {name: values[name] for name in self.outputs}

    def run(
        self,
        feed: Mapping[str, Any],
        fetch: Sequence[str],
        inject: Mapping[str, Any] | None = None,
        *,
        state: Mapping[str, Array] | None = None,
    ) -> dict[str, Any]:
        """The requested tensors; only the models that they are computed from are run.

        Args:
            feed: input name → array or image; inputs that are not needed may be absent.
            fetch: names of features, or of inner tensors as `model/tensor`.
            inject: name → value, which is then not computed.
            state: as for `predict`; the models that are run do all their writes.

        Raises:
            FeedError: a name is unknown, an input is missing, or a value does not fit.
            EngineError: an op failed.
        """
        values, results = self._begun(feed, state), dict[Where, Any]()
        given = {self._found(name): value for name, value in (inject or {}).items()}
        asked = {name: self._found(name) for name in fetch}
        wanted = self._wanted(asked.values(), given)
        with _updated(state) as states:
            for member, model in self.members.items():
                if not wanted[member]:
                    continue
                injected = {name: value for (owner, name), value in given.items() if owner == member}
                found = model.run(self._handed_on(model, values), wanted[member], injected, state=_own(states, model))
                results |= {(member, name): value for name, value in found.items()}
                values |= {n: _feature(value, model.outputs[n]) for n, value in found.items() if n in model.outputs}
        return {name: results[place] for name, place in asked.items()}

    def trace(
        self, feed: Mapping[str, Any], *, state: Mapping[str, Array] | None = None, census: bool = False
    ) -> Iterator[TracedTensor]:
        """Every tensor that the models compute, as `model/tensor`, in execution order.

        Args:
            feed: input name → array or image.
            state: as for `predict`.
            census: as for `Model.trace`.

        Raises:
            FeedError: the feed does not match `inputs`.
            EngineError: an op failed; what comes before it has been yielded.
        """
        values = self._begun(feed, state)
        with _updated(state) as states:
            for member, model in self.members.items():
                returned = dict[str, Any]()
                for tensor in model.trace(self._handed_on(model, values), state=_own(states, model), census=census):
                    if tensor.name in model.outputs:
                        returned[tensor.name] = _feature(tensor.value, model.outputs[tensor.name])
                    yield replace(tensor, name=f"{member}/{tensor.name}")
                values |= returned

    @property
    def last_integer_overflows(self) -> dict[str, int]:
        """Of the last call: tensor → how many values did not fit its declared integer dtype and wrapped."""
        return {
            f"{m}/{n}": count for m, model in self.members.items() for n, count in model.last_integer_overflows.items()
        }

    @property
    def first_anomalies(self) -> dict[str, Anomaly]:
        """Of the last trace with a census: kind → where it came first."""
        found: dict[str, Anomaly] = {}
        for member, model in self.members.items():
            for kind, anomaly in model.first_anomalies.items():
                found.setdefault(kind, replace(anomaly, tensor=f"{member}/{anomaly.tensor}"))
        return found

    # -------------------------------------------------------------- features

    def _begun(self, feed: Mapping[str, Any], state: Mapping[str, Array] | None) -> dict[str, Any]:
        """The features before the first model: those that are given."""
        check_names(feed, self.inputs, where=self.package.name)
        if state is not None:
            checked_state(state, self.states, where=self.package.name)
        return dict(feed)

    def _producer(self, name: str, *, before: str | None = None) -> str | None:
        """The last model, of those before one, that returns a feature."""
        found = None
        for member, model in self.members.items():
            if member == before:
                break
            if name in model.outputs:
                found = member
        return found

    def _require_given(self, name: str, spec: TensorSpec, member: str) -> None:
        if name not in self.package.inputs and not spec.optional:
            raise PackageError(
                f"the model '{member}' needs '{name}', which is no input of the pipeline and no output before it.",
                where=str(self.path),
                detail=known_names("inputs of the pipeline", name, self.package.inputs),
                action=COPY_AGAIN,
            )

    def _returned(self, name: str) -> TensorSpec:
        member = self._producer(name)
        if member is None:
            raise PackageError(
                f"no model of the pipeline returns its output '{name}'.", where=str(self.path), action=COPY_AGAIN
            )
        return self.members[member].outputs[name]

    def _found(self, name: str) -> Where:
        """Where a tensor is: `model/tensor`, a feature that a model returns, or an input of the first that takes it."""
        member, _, tensor = name.partition("/")
        if member in self.members and tensor in self.members[member].graph.types:
            return member, tensor
        if producer := self._producer(name):
            return producer, name
        if name in self.inputs:
            return next(m for m, model in self.members.items() if name in model.inputs), name
        known = [*self.outputs, *self.inputs, *(t.name for t in self.tensors)]
        raise FeedError(
            f"there is no tensor '{name}'.", where=self.package.name, detail=known_names("its tensors", name, known)
        )

    def _wanted(self, asked: Any, given: Mapping[Where, Any]) -> dict[str, list[str]]:
        """Member → what it has to return: what is asked for, and the features that later ones then read."""
        wanted: dict[str, list[str]] = {member: [] for member in self.members}
        for member, name in asked:
            wanted[member].append(name)
        for member in reversed(self.members):
            if not wanted[member]:
                continue
            injected = [name for owner, name in given if owner == member]
            for name in self.members[member].feeds_of(wanted[member], injected):
                if producer := self._producer(name, before=member):
                    wanted[producer].append(name)
        return {member: list(dict.fromkeys(names)) for member, names in wanted.items()}

    def _handed_on(self, model: Model, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of the features so far those that a model takes, as it takes them."""
        return {name: _taken(values[name], spec) for name, spec in model.inputs.items() if name in values}


@contextmanager
def _updated(state: Mapping[str, Array] | None) -> Iterator[Mapping[str, Array] | None]:
    """Copies of the states for the models to write to; they are kept when all models have succeeded."""
    if state is None:
        yield None
        return
    copies = {name: array.copy() for name, array in state.items()}
    yield copies
    for name, array in copies.items():
        state[name][...] = array


def _own(state: Mapping[str, Array] | None, model: Model) -> dict[str, Array] | None:
    """The states of a model, out of those of the pipeline; the arrays are the same."""
    if state is None or not model.states:
        return None
    return {name: state[name] for name in model.states if name in state}


def _feature(value: Any, spec: TensorSpec) -> Any:
    """What a model returns for a tensor: an image for what is described as one."""
    return picture(value, spec) if spec.kind == "image" else value


def _taken(value: Any, spec: TensorSpec) -> Any:
    """A feature in the dtype of the input that takes it: Core ML converts arrays of numbers from one to the other."""
    numbers = isinstance(value, np.ndarray) and spec.kind == "tensor"
    if not numbers or KINDS.get(value.dtype.kind) == KINDS.get(np.dtype(spec.dtype).kind):
        return value
    return value.astype(spec.dtype)
