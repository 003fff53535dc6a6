"""Runs plans. Each plan becomes one Python function, generated once and cached.

    def run(feed, inject, census):
        encoder = feed.pop('encoder')
        x = transpose(x=encoder, perm=(0, 2, 1))
        del encoder
        linear_0 = round_float16(linear(x=x, weight=joint_enc_weight, bias=joint_enc_bias))
        del x
        return {'logits': linear_0}

Tensors are local variables and are deleted after their last use, constants and parameters are bound when
the function is generated, so nothing is looked up or decided while it runs. A second form of the same
function is a generator that yields every tensor. An op that fails is found again by its line.

Ops with nested blocks would be emitted by `_Writer.step` as statements around the steps of their blocks,
under the same names: a block is a plan within the plan.
"""

from __future__ import annotations

import keyword
import linecache
import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from layerdiff.errors import EngineError, LayerdiffError, UnsupportedOpError, known_names
from layerdiff.mil.ops import kernel_of
from layerdiff.mil.ops.elementwise_unary import INTEGER_RANGE, fit_integer
from layerdiff.mil.ops.signature import AS_PARAMETER, Census, Kernel, Out, Parameter, Tensors
from layerdiff.mil.plan import Graph, Plan, Step
from layerdiff.mil.precision import Constants, Precision
from layerdiff.mil.program import Argument, Constant, Op

KERNEL_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)
"""What torch and kernels raise on values and shapes that they cannot compute with."""

LITERAL_LENGTH = 60
"""Parameters whose text is longer are bound to a name instead of being written out."""

RESERVED = ("_", "__debug__")
"""Identifiers that stand for no tensor: what is thrown away, and what Python does not let anyone assign to."""

_serial = count()


@dataclass(frozen=True, eq=False)
class Compiled:
    """A plan as a function."""

    plan: Plan
    source: str
    function: Callable[..., Any]
    filename: str
    ops: Mapping[int, Op]
    """Line → the op that it runs."""

    def failing_op(self, error: BaseException) -> Op | None:
        """The op whose line raised."""
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.filename:
                return self.ops.get(trace.tb_lineno)
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
        self._compiled: dict[tuple[tuple[str, ...], frozenset[str], bool], Compiled] = {}
        for op in graph.function:
            self.kernel(op)

    def compiled(self, fetch: Sequence[str], injected: Iterator[str] | Sequence[str], *, traced: bool) -> Compiled:
        """The function for a request; generated at the first one of its kind."""
        key = (tuple(fetch), frozenset(injected), traced)
        if key not in self._compiled:
            self._compiled[key] = _Writer(self, self._plan(*key), traced=traced).compile()
        return self._compiled[key]

    def _plan(self, fetch: tuple[str, ...], injected: frozenset[str], traced: bool) -> Plan:
        return self.graph.plan(fetch, sorted(injected), keep=not traced)

    def run(self, compiled: Compiled, feed: dict[str, Tensor], inject: dict[str, Tensor], census: Census) -> Any:
        """The tensors of `fetch` by name. Empties `feed` and `inject`, so that inputs are freed too.

        Raises:
            EngineError: an op failed.
        """
        try:
            with torch.inference_mode():
                return compiled.function(feed, inject, census)
        except KERNEL_ERRORS as error:
            raise self._failure(compiled, error) from error

    def trace(
        self, compiled: Compiled, feed: dict[str, Tensor], census: Census
    ) -> Generator[tuple[str, Op, Tensor], None, None]:
        """Every tensor with its op, in execution order.

        Raises:
            EngineError: an op failed.
        """
        steps = compiled.function(feed, {}, census)
        while True:
            try:
                with torch.inference_mode():
                    name, tensor = next(steps)
            except StopIteration:
                return
            except KERNEL_ERRORS as error:
                raise self._failure(compiled, error) from error
            yield name, self.graph.producers[name], tensor
            del tensor

    def kernel(self, op: Op) -> Kernel:
        """The kernel of an op, checked against the inputs and results that the op has.

        Raises:
            UnsupportedOpError: there is none, or it does not know an input, or lacks one, or a result is of a dtype
                that is not computed with.
        """
        try:
            kernel = kernel_of(op.type, self.graph.function.opset)
            _check_inputs(op, kernel)
            for output in op.outputs:
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
            action="check that the shapes of the feed go together; the program was converted for the declared ones",
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


# ------------------------------------------------------------------ generation


class _Writer:
    """Writes the function of one plan."""

    def __init__(self, engine: Engine, plan: Plan, *, traced: bool) -> None:
        self.engine, self.plan, self.traced = engine, plan, traced
        self.lines: list[str] = ["def run(feed, inject, census):"]
        self.ops: dict[int, Op] = {}
        self.bound: dict[str, Any] = {"fit_integer": fit_integer}
        self.names: dict[Any, str] = {}
        self.taken: set[str] = {"run", "feed", "inject", "census", *self.bound}

    def compile(self) -> Compiled:
        for source, names in (("feed", self.plan.feeds), ("inject", self.plan.injected)):
            for name in names:
                self._emit(f"{self.local(name)} = {source}.pop({name!r})")
        for step in self.plan.steps:
            self.step(step)
        if not self.traced:
            results = ", ".join(f"{name!r}: {self._tensor(name)}" for name in self.plan.fetch)
            self._emit(f"return {{{results}}}")
        elif len(self.lines) == 1 or not self.plan.steps:
            self._emit("yield from ()")
        return self._compiled()

    def _compiled(self) -> Compiled:
        source = "\n".join(self.lines) + "\n"
        filename = f"<plan {next(_serial)} of {self.engine.package}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        namespace = dict(self.bound)
        exec(compile(source, filename, "exec"), namespace)
        return Compiled(self.plan, source, namespace["run"], filename, self.ops)

    def step(self, step: Step) -> None:
        """The call of one op, what is done to its results, and what is freed after it."""
        op, kernel = step.op, self.engine.kernel(step.op)
        given = set(self.plan.injected)
        targets = ["_" if output.name in given else self.local(output.name) for output in op.outputs]
        try:
            call = self._call(op, kernel)
        except KERNEL_ERRORS as error:
            raise self.engine.failed(op, error) from error
        if len(targets) == 1:
            self._emit(f"{targets[0]} = {self._settled(op, kernel, 0, call)}", op)
        else:
            self._emit(f"{', '.join(targets)} = {call}", op)
            for index, target in enumerate(targets):
                settled = self._settled(op, kernel, index, target)
                if target != "_" and settled != target:
                    self._emit(f"{target} = {settled}", op)
        if self.traced:
            for output, target in zip(op.outputs, targets, strict=True):
                if target != "_":
                    self._emit(f"yield {output.name!r}, {target}")
        if step.releases:
            self._emit(f"del {', '.join(self.local(name) for name in step.releases)}")

    def _call(self, op: Op, kernel: Kernel) -> str:
        arguments = []
        for name, parameter in kernel.parameters.items():
            if parameter.annotation is Census:
                arguments.append(f"{name}=census")
            elif parameter.annotation is Out:
                arguments.append(f"{name}={self._bind(self._out(op, 0), f'{op.outputs[0].name}_out')}")
            elif name in op.inputs:
                arguments.append(f"{name}={self._argument(op, parameter, op.inputs[name])}")
        function = self._bind(kernel.function, op.type)
        return f"{function}({', '.join(arguments)})"

    def _argument(self, op: Op, parameter: Parameter, bound: tuple[Argument, ...]) -> str:
        if parameter.annotation == Tensors:
            return f"[{', '.join(map(self._tensor, bound))}]"
        if not parameter.is_static:
            return self._tensor(bound[0])
        convert = AS_PARAMETER[parameter.annotation]
        values = [self._value(argument) for argument in bound]
        if all(isinstance(value, Constant) for value in values):
            plain = [convert(value.array()) for value in values if isinstance(value, Constant)]
            merged = (
                plain[0] if len(plain) == 1 else tuple(v for p in plain for v in (p if isinstance(p, tuple) else (p,)))
            )
            return self._literal(merged, op, parameter)
        convert_name = self._bind(convert, f"as_{getattr(parameter.annotation, '__name__', 'values')}")
        return f"{convert_name}({self._tensor(bound[0])})"

    def _settled(self, op: Op, kernel: Kernel, index: int, expression: str) -> str:
        """The expression of a result, rounded to its declared dtype or brought to the declared integer."""
        output = op.outputs[index]
        if output.type.dtype in INTEGER_RANGE:
            if not kernel.widened:
                return expression
            return f"fit_integer({expression}, {self._bind(self._out(op, index), f'{output.name}_out')}, census)"
        rounding = None if kernel.exact else self.engine.precision.rounding(output.type.dtype)
        return expression if rounding is None else f"{self._bind(rounding, rounding.__name__)}({expression})"

    def _out(self, op: Op, index: int) -> Out:
        output = op.outputs[index]
        return Out(output.name, output.type.dtype, self.engine.precision.held(output.type.dtype))

    def _value(self, argument: Argument) -> Argument:
        """The constant behind an argument, if it is one and no value was given for it."""
        if isinstance(argument, str):
            return self.engine.graph.function.block.constants.get(argument, argument)
        return argument

    def _tensor(self, argument: Argument) -> str:
        value = self._value(argument)
        if isinstance(value, str):
            return self.local(value)
        constants, precision = self.engine.constants, self.engine.precision
        if constants.keeps(value, precision):
            return self._bind(constants.tensor(value, precision), value.name, key=value)
        return f"{self._bind(lambda: constants.tensor(value, precision), f'load_{value.name}', key=value)}()"

    def local(self, name: str) -> str:
        """The variable that holds a tensor."""
        return self._name(("tensor", name), name)

    def _literal(self, value: Any, op: Op, parameter: Parameter) -> str:
        text = repr(value)
        plain = not isinstance(value, float) or math.isfinite(value)
        if plain and len(text) <= LITERAL_LENGTH:
            return text
        return self._bind(value, f"{op.name}_{parameter.name}", key=(op, parameter.name))

    def _bind(self, value: Any, hint: str, *, key: Any = None) -> str:
        """Makes a value available to the function under a name like `hint`."""
        name = self._name(value if key is None else key, hint)
        self.bound[name] = value
        return name

    def _name(self, key: Any, hint: str) -> str:
        if key not in self.names:
            base = re.sub(r"\W", "_", hint, flags=re.ASCII)  # Python takes some letters of other scripts for others
            base = base if base.isidentifier() and not keyword.iskeyword(base) and base not in RESERVED else f"_{base}"
            numbered = (f"{base}_{i}" for i in count(2))
            name = base if base not in self.taken else next(n for n in numbered if n not in self.taken)
            self.taken.add(name)
            self.names[key] = name
        return self.names[key]

    def _emit(self, line: str, op: Op | None = None) -> None:
        self.lines.append(f"    {line}")
        if op is not None:
            self.ops[len(self.lines)] = op
