"""Runs plans. Each plan becomes one Python function, written by `writer` once and cached.

An op that fails is found again by the line of the function that raised.
"""

from __future__ import annotations

import linecache
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from layerdiff.errors import EngineError, LayerdiffError, UnsupportedOpError, known_names
from layerdiff.mil.constants import Constants
from layerdiff.mil.memory import require_room
from layerdiff.mil.ops import kernel_of
from layerdiff.mil.ops.signature import Census, Kernel
from layerdiff.mil.plan import Graph, Plan
from layerdiff.mil.precision import Precision
from layerdiff.mil.program import Block, Named, Op
from layerdiff.mil.writer import STATEMENTS, Source, Writer

KERNEL_ERRORS = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError),
    MemoryError,
)
"""What torch and kernels raise on values and shapes that they cannot compute with."""

CUSTOM = "custom_layer"
"""Op type of everything that is implemented by a class of the app."""

KEPT_FUNCTIONS = 64
"""How many generated functions an engine keeps: each takes about 1 kB per op."""

_serial = count()


@dataclass(frozen=True, eq=False)
class Compiled:
    """A plan as a function."""

    plan: Plan
    source: Source
    function: Callable[..., Any]
    filename: str

    def failing_op(self, error: BaseException) -> Op | None:
        """The op whose line raised."""
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.filename:
                return self.source.ops.get(trace.tb_lineno)
            trace = trace.tb_next
        return None


class Engine:
    """Executes one function of a program under one precision.

    Args:
        graph: the function.
        package: its name, for messages.
        precision: the policy.
        constants: decoded constants, which several engines may share.

    Raises:
        UnsupportedOpError: the function holds an op, or a dtype, that the engine does not execute.
    """

    def __init__(self, graph: Graph, *, package: str, precision: Precision, constants: Constants) -> None:
        self.graph, self.package, self.precision, self.constants = graph, package, precision, constants
        self._compiled: dict[tuple[tuple[str, ...], frozenset[str], bool, bool], Compiled] = {}
        for op in every_op(graph.function.block):
            if op.type not in STATEMENTS:
                self.kernel(op)

    def compiled(
        self, fetch: Sequence[str], injected: Iterable[str] = (), *, traced: bool = False, update_states: bool = False
    ) -> Compiled:
        """The function for a request; generated at the first one of its kind, and kept while it is among the latest."""
        key = (tuple(fetch), frozenset(injected), traced, update_states)
        found = self._compiled.pop(key, None)
        if found is None:
            plan = self.graph.plan(key[0], sorted(key[1]), keep=not traced, update_states=update_states)
            found = self._compile(plan, traced=traced)
            if len(self._compiled) >= KEPT_FUNCTIONS:
                self._compiled.pop(next(iter(self._compiled)), None)
        self._compiled[key] = found
        return found

    def _compile(self, plan: Plan, *, traced: bool) -> Compiled:
        for op in every_op(self.graph.function.block):
            for output in numeric_results(op):
                held = self.precision.held(output.type.dtype)
                require_room(output.name, output.type, held, where=self._place(op))
        writer = Writer(
            plan,
            self.graph.function.block,
            kernel=self.kernel,
            precision=self.precision,
            constants=self.constants,
            traced=traced,
        )
        try:
            with torch.inference_mode():
                source = writer.write()
        except KERNEL_ERRORS as error:
            if writer.writing is None:
                raise
            raise self.failed(writer.writing, error) from error
        filename = f"<plan {next(_serial)} of {self.package}>"
        linecache.cache[filename] = (len(source.text), None, source.text.splitlines(keepends=True), filename)
        namespace = dict(source.bound)
        try:
            exec(compile(source.text, filename, "exec"), namespace)
        except (SyntaxError, RecursionError, MemoryError) as error:  # Python nests loops 20 deep
            raise UnsupportedOpError(
                f"the blocks of the function are nested too deeply: {error}.", where=self.graph.where
            ) from error
        compiled = Compiled(plan, source, namespace["run"], filename)
        weakref.finalize(compiled, linecache.cache.pop, filename, None)
        return compiled

    def run(
        self,
        compiled: Compiled,
        feed: dict[str, Tensor],
        inject: dict[str, Tensor],
        state: dict[str, Tensor],
        census: Census,
    ) -> Any:
        """The tensors of `fetch` by name.

        Empties `feed` and `inject`, so that inputs are freed too, and leaves the new values in `state`.

        Raises:
            EngineError: an op failed.
        """
        try:
            with torch.inference_mode():
                return compiled.function(feed, inject, state, census)
        except KERNEL_ERRORS as error:
            raise self._failure(compiled, error) from error

    def trace(
        self,
        compiled: Compiled,
        feed: dict[str, Tensor],
        state: dict[str, Tensor],
        census: Census,
        inject: dict[str, Tensor],
    ) -> Generator[tuple[Op, Named, Any, Tensor | None], None, None]:
        """Every tensor with its op and, for a logarithm, the operand, in execution order.

        What the reader puts into `inject` under the name of the tensor that was just yielded takes its place.

        Raises:
            EngineError: an op failed.
        """
        steps = compiled.function(feed, inject, state, census)
        while True:
            try:
                with torch.inference_mode():
                    number, value, operand = next(steps)
            except StopIteration:
                return
            except KERNEL_ERRORS as error:
                raise self._failure(compiled, error) from error
            yield (*compiled.source.results[number], value, operand)
            del value, operand

    def kernel(self, op: Op) -> Kernel:
        """The kernel of an op, checked against the inputs and results that the op has.

        Raises:
            UnsupportedOpError: there is none, or it does not know an input, or lacks one, or a result is of a dtype
                that is not computed with.
        """
        try:
            _require_no_custom_code(op)
            kernel = kernel_of(op.type, self.graph.function.opset)
            _check_inputs(op, kernel)
            for output in numeric_results(op):
                self.precision.held(output.type.dtype)
        except UnsupportedOpError as error:
            raise UnsupportedOpError(error.what, where=self._place(op), detail=error.detail) from error
        return kernel

    def _place(self, op: Op) -> str:
        outputs = ", ".join(f"'{output.name}' {output.type}" for output in op.outputs)
        return f"{self.package}, {self.graph.function.opset}, op '{op.name}' of type {op.type}, tensor {outputs}"

    def _failure(self, compiled: Compiled, error: Exception) -> LayerdiffError:
        op = compiled.failing_op(error)
        if op is None:
            return EngineError(f"the program could not be run: {error}", where=self.package)
        return self.failed(op, error)

    def failed(self, op: Op, error: Exception) -> EngineError:
        """What is raised when an op cannot be computed, or its parameters cannot be read."""
        return EngineError(
            f"the op '{op.type}' failed: {type(error).__name__}: {str(error).strip() or 'no message'}",
            where=self._place(op),
            action="check that the shapes and values of the feed go together and are what the program expects",
        )


def every_op(block: Block) -> Iterator[Op]:
    """The ops of a block and of the blocks inside it."""
    for op in block.ops:
        for inner in op.blocks:
            yield from every_op(inner)
        yield op


def numeric_results(op: Op) -> tuple[Named, ...]:
    """The results that are numbers: all but those of a classifier."""
    return () if op.type == "classify" else op.outputs


def _require_no_custom_code(op: Op) -> None:
    if op.type == CUSTOM:
        name = op.attributes["class_name"].inline if "class_name" in op.attributes else op.name
        raise UnsupportedOpError(
            f"the op '{op.name}' is a custom op: the class '{name}' of the app computes it.",
            detail="its code is not in the package, so no other engine can execute it",
        )


def _check_inputs(op: Op, kernel: Kernel) -> None:
    for name in op.inputs:
        if name not in kernel.inputs:
            raise UnsupportedOpError(
                f"the portable engine does not know the input '{name}' of the op '{op.type}'.",
                detail=known_names("it knows", name, kernel.inputs),
            )
    for name in kernel.inputs:
        if kernel.parameters[name].required and name not in op.inputs:
            raise UnsupportedOpError(f"the op '{op.type}' lacks its input '{name}'.")
