"""Runs Core ML packages on Apple's own runtime (macOS only), in a child process.

Core ML can be killed by the operating system while it loads or predicts, and a crash must not take
the run with it: the package lives in a child process that answers over a pipe. Only declared outputs
can be had from it, and nothing can be given instead of computed. What a package declares is read by
`layerdiff.mil`, so that feeds are laid out as for the portable engine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from layerdiff.errors import EngineError
from layerdiff.sources.coreml_calls import run_call

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from layerdiff.mil import Model
    from layerdiff.records import Array, Call, Captured, Component

Predictor = Callable[[Mapping[str, "Array"]], Mapping[str, "Array"]]

ANSWER_WITHIN_S = 600.0
"""A prediction that takes longer counts as hung; the first one compiles the model for the device."""


def core_ml_available() -> bool:
    """Whether this operating system has Core ML."""
    return sys.platform == "darwin"


def load_core_ml(path: str, compute_unit: str) -> Predictor:
    """coremltools' own `MLModel.predict` of a package; runs in the child."""
    from layerdiff import quiet

    with quiet.third_party():
        import coremltools as ct

        model = ct.models.MLModel(path, compute_units=ct.ComputeUnit[compute_unit])
    predict: Predictor = model.predict
    return predict


def serve(connection: Connection, load: Callable[[str, str], Predictor], path: str, compute_unit: str) -> None:
    """The child: loads the package, then answers every feed with outputs or with an error's text.

    Every exception crosses the process border as text; there is no other way to report it.
    """
    predict: Predictor | None = None
    while (feed := connection.recv()) is not None:
        try:
            predict = predict or load(path, compute_unit)
            answer: Mapping[str, Array] | str = dict(predict(feed))
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        connection.send(answer)


@dataclass
class Child:
    """One package in its process; started by the first prediction."""

    path: str
    compute_unit: str
    load: Callable[[str, str], Predictor] = load_core_ml
    answer_within_s: float = ANSWER_WITHIN_S
    _process: BaseProcess | None = None
    _connection: Connection | None = None

    def predict(self, feed: Mapping[str, Array]) -> Mapping[str, Array]:
        """One prediction.

        Raises:
            EngineError: the child crashed, hung, or Core ML refused.
        """
        connection = self._connection or self._start()
        try:
            connection.send(dict(feed))
            answered = connection.poll(self.answer_within_s)
            answer = connection.recv() if answered else f"no answer within {self.answer_within_s:.0f} s"
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            code = self._process.exitcode if self._process else None
            self.close()
            raise self._failure(f"the process ended (exit code {code})") from error
        if isinstance(answer, str):
            self.close()
            raise self._failure(answer)
        outputs: Mapping[str, Array] = answer
        return outputs

    def close(self) -> None:
        """Ends the child."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, self.load, self.path, self.compute_unit), daemon=True
        )
        self._process.start()
        theirs.close()
        return self._connection

    def _failure(self, said: str) -> EngineError:
        return EngineError(
            "Core ML could not run the package.",
            where=self.path,
            detail=f"{self.compute_unit}: {said}",
            action="Use `engine: portable` to compare without Core ML.",
        )


@dataclass
class NativeSource:
    """Core ML packages executed by Core ML."""

    packages: Mapping[Component, Model]
    """Component → its package, opened for what it declares."""
    compute_unit: str = "ALL"
    """Member of coremltools' `ComputeUnit`."""
    load: Callable[[str, str], Predictor] = load_core_ml
    """Loads a package in the child."""
    _children: dict[str, Child] = field(default_factory=dict)

    @property
    def description(self) -> dict[str, Any]:
        """Engine, compute unit, declared precision and path of every package."""
        return {
            "engine": "native",
            "compute_unit": self.compute_unit,
            "precision": {name: model.declared_precision for name, model in self.packages.items()},
            "packages": {name: str(model.path) for name, model in self.packages.items()},
        }

    def tensor_names(self, component: Component) -> tuple[str, ...]:
        """The package's outputs: Core ML shows nothing else."""
        return tuple(self.packages[component].outputs)

    def run(self, call: Call, tensors: Sequence[str], *, inject: Mapping[str, Array] | None = None) -> Captured:
        """Runs one component in its child.

        Raises:
            ValueError: tensors are injected, which Core ML can't do.
            EngineError: the child crashed, hung, or Core ML refused.
        """
        if inject:
            raise ValueError("Core ML computes every tensor itself; inject tensors with the portable engine")
        model = self.packages[call.component]
        child = self._children.setdefault(call.component, Child(str(model.path), self.compute_unit, self.load))

        def predict(feed: Mapping[str, Array], fetch: Sequence[str], _: Mapping[str, Array]) -> Mapping[str, Array]:
            outputs = child.predict(feed)
            return {name: outputs[name] for name in fetch if name in outputs}

        return run_call(call, tensors, model=model, predict=predict)

    def close(self) -> None:
        """Ends all children."""
        for child in self._children.values():
            child.close()
        self._children.clear()
