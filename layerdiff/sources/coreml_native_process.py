"""Core ML in a child process: a package is loaded, predicts, and says where its ops run.

Core ML can be killed by the operating system while it loads or predicts, and a crash must not take the run with it. The
child answers over a pipe: a feed with outputs, a `Place` with placements, and None ends it; whatever goes wrong comes
back as text. What it leaves in temporary folders lies in a folder of its own, which its owner removes.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff.errors import ConfigError, EngineError, known_names

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from layerdiff.records import Array

COMPUTE_UNITS = ("ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")
"""Members of coremltools' `ComputeUnit`: the devices that Core ML may choose from."""

ANSWER_WITHIN_S = 600.0
"""What takes longer counts as hung; the first prediction compiles the model for the device."""

END_WITHIN_S = 5.0
"""How long a child that is idle may take to end by itself, and so to remove what coremltools has written."""

DEVICES = {"MLCPUComputeDevice": "CPU", "MLGPUComputeDevice": "GPU", "MLNeuralEngineComputeDevice": "Neural Engine"}
"""coremltools' classes of compute devices → what reports call them."""


@dataclass(frozen=True)
class NativePackage:
    """A package as Core ML is asked to load it."""

    path: str
    compute_unit: str = "ALL"
    function: str | None = None
    """None for the default one."""
    stateful: bool = False
    """Whether it keeps states; every prediction then starts with new ones."""


@dataclass(frozen=True)
class Placement:
    """Where Core ML means to run an op."""

    preferred: str
    """`CPU`, `GPU` or `Neural Engine`."""
    supported: tuple[str, ...]
    """The devices that could run it, the preferred one among them."""

    def __str__(self) -> str:
        others = [device for device in self.supported if device != self.preferred]
        return self.preferred + (f" (also {', '.join(others)})" if others else "")


Predictor = Callable[[Mapping[str, "Array"]], Mapping[str, Any]]
Load = Callable[[NativePackage], Predictor]
Place = Callable[[NativePackage], Mapping[str, Placement]]
Answer = Mapping[str, Any] | str


def require_compute_unit(name: str) -> None:
    """Raises ConfigError unless Core ML has a compute unit of that name."""
    if name not in COMPUTE_UNITS:
        raise ConfigError(
            f"there is no compute unit '{name}'.", detail=known_names("compute units", name, COMPUTE_UNITS)
        )


# ------------------------------------------------------------------ in the child


def load_core_ml(package: NativePackage) -> Predictor:
    """coremltools' own `predict` of a package."""
    model = _loaded(package)

    def predict(feed: Mapping[str, Array]) -> Mapping[str, Any]:
        states = {"state": model.make_state()} if package.stateful else {}
        outputs: Mapping[str, Any] = model.predict(dict(feed), **states)
        return outputs

    return predict


def place_core_ml(package: NativePackage) -> dict[str, Placement]:
    """Core ML's compute plan of a package: tensor → where the op that makes it is meant to run."""
    from layerdiff import quiet

    compiled = package.path
    if not compiled.endswith(".mlmodelc"):
        compiled = _loaded(package).get_compiled_model_path()
    with quiet.third_party():
        import coremltools as ct
        from coremltools.models.compute_plan import MLComputePlan

        plan = MLComputePlan.load_from_path(compiled, ct.ComputeUnit[package.compute_unit])
    functions = plan.model_structure.program.functions
    return placements(plan, functions[package.function or ("main" if "main" in functions else min(functions))])


def placements(plan: Any, function: Any) -> dict[str, Placement]:
    """The placements in a compute plan.

    Args:
        plan: coremltools' `MLComputePlan`.
        function: an `MLModelStructureProgramFunction` of it.

    Returns:
        Tensor → placement; constants and other ops that Core ML places nowhere are absent.
    """
    found = {}
    for operation in _operations(function.block):
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is not None:
            preferred = _device(usage.preferred_compute_device)
            supported = tuple(sorted({_device(device) for device in usage.supported_compute_devices}))
            found.update({output.name: Placement(preferred, supported) for output in operation.outputs})
    return found


def _operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _operations(inner)


def _device(device: Any) -> str:
    names = [DEVICES[base.__name__] for base in type(device).__mro__ if base.__name__ in DEVICES]
    return names[0] if names else type(device).__name__


def _loaded(package: NativePackage) -> Any:
    from layerdiff import quiet

    with quiet.third_party():
        import coremltools as ct

        unit = ct.ComputeUnit[package.compute_unit]
        if package.path.endswith(".mlmodelc"):
            return ct.models.CompiledMLModel(package.path, unit, function_name=package.function)
        return ct.models.MLModel(package.path, compute_units=unit, function_name=package.function)


def serve(connection: Connection, load: Load, package: NativePackage, scratch: str | None) -> None:
    """The child: loads the package at the first feed, and answers until it is told to end, or its owner is gone.

    Every exception crosses the process border as text; there is no other way to report it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the owner ends this one
    if scratch is not None:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
    predict: Predictor | None = None
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while (request := connection.recv()) is not None:
            try:
                if callable(request):
                    answer: Answer = dict(request(package))
                else:
                    predict = predict or load(package)
                    answer = dict(predict(request))
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            connection.send(answer)


# ------------------------------------------------------------------ its owner


@dataclass
class Child:
    """One package in its process; started by the first request."""

    package: NativePackage
    load: Load = load_core_ml
    scratch: Path | None = None
    """Where it keeps temporary files; an existing folder that its owner removes. None for the system's."""
    answer_within_s: float = ANSWER_WITHIN_S
    _process: BaseProcess | None = field(default=None, init=False)
    _connection: Connection | None = field(default=None, init=False)
    _busy: bool = field(default=False, init=False)

    def predict(self, feed: Mapping[str, Array]) -> Mapping[str, Any]:
        """One prediction.

        Raises:
            EngineError: the child crashed, hung, or Core ML refused; it is ended then.
        """
        return self._ask(dict(feed))

    def placements(self, place: Place) -> Mapping[str, Placement]:
        """Tensor → where the op that makes it is meant to run.

        Raises:
            EngineError: as for `predict`.
        """
        return self._ask(place)

    def _ask(self, request: Mapping[str, Array] | Place) -> Mapping[str, Any]:
        connection = self._connection or self._start()
        self._busy = True
        try:
            connection.send(request)
            answered = connection.poll(self.answer_within_s)
            answer: Answer = connection.recv() if answered else f"no answer within {self.answer_within_s:g} s"
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            ended = self._how_it_ended()
            self.close()
            raise self._failure(ended) from error
        except BaseException:  # interrupted: what it would answer later answers nothing that is asked then
            self.close()
            raise
        if isinstance(answer, str):
            self.close()
            raise self._failure(answer)
        self._busy = False
        return answer

    def close(self) -> None:
        """Ends the child: one that is idle by telling it to, one that is at work or hung by force."""
        if self._process is not None and self._connection is not None:
            if not self._busy:
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._connection.send(None)
                self._process.join(END_WITHIN_S)
            self._process.kill()
            self._process.join()
            self._process.close()
            self._connection.close()
        self._process = self._connection = None
        self._busy = False

    def _start(self) -> Connection:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        scratch = None if self.scratch is None else str(self.scratch)
        self._process = context.Process(target=serve, args=(theirs, self.load, self.package, scratch), daemon=True)
        self._process.start()
        theirs.close()
        return self._connection

    def _how_it_ended(self) -> str:
        if self._process is None:
            return "the process ended"
        self._process.join(END_WITHIN_S)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"the process ended by the signal {signal.Signals(-code).name}"
        return f"the process ended (exit code {code})"

    def _failure(self, said: str) -> EngineError:
        return EngineError(
            "Core ML could not run the package.",
            where=self.package.path,
            detail=f"{self.package.compute_unit}: {said}",
            action="Use `engine: portable` to compare without Core ML.",
        )


def core_ml_available() -> bool:
    """Whether this operating system has Core ML."""
    return sys.platform == "darwin"
