"""Writes the Python function of a plan.

    def run(feed, inject, state, census):
        cache = state['cache']
        x = feed.pop('x')
        linear_0 = round_float16(linear(x=x, weight=joint_enc_weight, bias=joint_enc_bias))
        del x
        i, y = zero, linear_0
        for _ in range(10000000):
            less_0 = less(x=i, y=four)
            if not less_0: break
            …
            i, y = add_1, mul_0
            del add_1, mul_0
        else:
            endless()
        while_loop_0_0, while_loop_0_1 = i, y
        state['cache'] = cache
        return {'while_loop_0_1': while_loop_0_1}

Tensors are local variables and are deleted after their last use, constants and parameters are bound when
the function is generated, so nothing is looked up or decided while it runs. A second form of the same
function is a generator that yields (number, tensor, operand) for every tensor that is asked for or inside of a nested
block, and goes on with what the reader has put into `inject` in its place, if anything. Nested blocks are written in
place: a block is a scope of names, and its steps are indented.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NoReturn

from layerdiff.mil.constants import Constants
from layerdiff.mil.ops.elementwise_unary import INTEGER_RANGE, fit_integer
from layerdiff.mil.ops.signature import AS_PARAMETER, Census, Kernel, Out, Parameter, Tensors
from layerdiff.mil.plan import BlockPlan, Plan, Step
from layerdiff.mil.precision import Precision
from layerdiff.mil.program import Argument, Block, Constant, Named, Op

LITERAL_LENGTH = 60
"""Parameters whose text is longer are bound to a name instead of being written out."""

RESERVED = ("_", "__debug__", "__builtins__")
"""Identifiers that stand for no tensor: what is thrown away, and what Python keeps for itself."""

MAX_ITERATIONS = 10**7
"""A loop that has not ended after so many is taken for one that never will."""

LOGARITHMS = frozenset({"log", "reduce_log_sum"})
"""Ops whose operand a trace yields along with the result, because zeros in it are what goes wrong with them."""


@dataclass(frozen=True, eq=False)
class Source:
    """The text of a function and what it needs to run."""

    text: str
    bound: Mapping[str, Any]
    """Global name → its value."""
    ops: Mapping[int, Op]
    """Line → the op that it runs."""
    results: Sequence[tuple[Op, Named]]
    """What the numbers that a trace yields stand for."""


@dataclass(eq=False)
class Scope:
    """The names of one block."""

    block: Block
    variables: dict[str, str] = field(default_factory=dict)
    """Tensor → the variable that holds it."""


class Writer:
    """Writes one function.

    Args:
        plan: what it runs.
        block: the outermost block.
        kernel: the kernel of an op.
        precision: decides how results are rounded.
        constants: where constants are decoded.
        traced: whether to write the generator.
    """

    def __init__(
        self,
        plan: Plan,
        block: Block,
        *,
        kernel: Callable[[Op], Kernel],
        precision: Precision,
        constants: Constants,
        traced: bool,
    ) -> None:
        self.plan, self.kernel, self.precision, self.constants = plan, kernel, precision, constants
        self.traced, self.fetched = traced, frozenset(plan.fetch)
        self.lines = ["def run(feed, inject, state, census):"]
        self.indent = 1
        self.ops: dict[int, Op] = {}
        self.results: list[tuple[Op, Named]] = []
        self.bound: dict[str, Any] = {"fit_integer": fit_integer, "endless": endless}
        self.taken: set[str] = {"run", "feed", "inject", "state", "census", "range", *self.bound}
        self.shared: dict[Any, str] = {}
        self.scopes = [Scope(block)]
        self.writing: Op | None = None
        """The op that is being written, for messages."""

    def write(self) -> Source:
        """The function of the plan.

        Raises:
            Exception: a parameter of the op `writing` cannot be read.
        """
        for name in self.plan.states:
            self._emit(f"{self.local(name)} = state[{name!r}]")
        for source, names in (("feed", self.plan.feeds), ("inject", self.plan.injected)):
            for name in names:
                self._emit(f"{self.local(name)} = {source}.pop({name!r})")
        for step in self.plan.steps:
            self.step(step, given=set(self.plan.injected))
        for name in self.plan.states:
            self._emit(f"state[{name!r}] = {self.local(name)}")
        if not self.traced:
            results = ", ".join(f"{name!r}: {self._tensor(name)}" for name in self.plan.fetch)
            self._emit(f"return {{{results}}}")
        elif not self.results:
            self._emit("yield from ()")
        return Source("\n".join(self.lines) + "\n", self.bound, self.ops, self.results)

    # -------------------------------------------------------------- steps

    def step(self, step: Step, *, given: set[str]) -> None:
        """One op, what is done to its results, and what is freed after it."""
        op = self.writing = step.op
        targets = ["_" if output.name in given else self.local(output.name) for output in op.outputs]
        if op.type in STATEMENTS:
            STATEMENTS[op.type](self, step, targets)
        else:
            self._call_of(op, targets)
        released = [self.local(name) for name in step.releases]
        late = released if op.type in LOGARITHMS or not self.traced else [x for x in released if x in targets]
        self._delete([x for x in released if x not in late])  # a reader that takes its time holds no more than it needs
        if self.traced:
            self._yield(op, targets)
        self._delete(late)

    def _call_of(self, op: Op, targets: list[str]) -> None:
        kernel = self.kernel(op)
        call = self._call(op, kernel)
        if len(targets) == 1:
            self._emit(f"{targets[0]} = {self._settled(op, kernel, 0, call)}", op)
            return
        self._emit(f"{', '.join(targets)} = {call}", op)
        for index, target in enumerate(targets):
            settled = self._settled(op, kernel, index, target)
            if target != "_" and settled != target:
                self._emit(f"{target} = {settled}", op)

    def _yield(self, op: Op, targets: list[str]) -> None:
        operand = self._tensor(op.inputs["x"][0]) if op.type in LOGARITHMS else "None"
        for output, target in zip(op.outputs, targets, strict=True):
            if target != "_" and (output.name in self.fetched or len(self.scopes) > 1):
                self._emit(f"yield {len(self.results)}, {target}, {operand}")
                self._emit(f"if inject: {target} = inject.pop({output.name!r}, {target})")
                self.results.append((op, output))

    def cond(self, step: Step, targets: list[str]) -> None:
        """`cond`: the steps of the block that the predicate chooses."""
        self._emit(f"if {self._tensor(step.op.inputs['pred'][0])}:", step.op)
        for plan in step.blocks:
            with self._indented():
                results, made = self._block(plan, [])
                self._emit(f"{', '.join(targets)} = {', '.join(results)}" if targets else "pass", step.op)
                self._delete(made)
            if plan is not step.blocks[-1]:
                self._emit("else:")

    def while_loop(self, step: Step, targets: list[str]) -> None:
        """`while_loop`: the steps of the condition and of the body, over the same variables."""
        op, (condition, body) = step.op, step.blocks
        variables = [self._fresh(named.name) for named in body.block.inputs]
        assigned = ", ".join(variables)
        self._emit(f"{assigned} = {', '.join(map(self._tensor, op.inputs['loop_vars']))}", op)
        self._emit(f"for _ in range({MAX_ITERATIONS}):")
        with self._indented():
            (go,), _ = self._block(condition, variables)
            self._emit(f"if not {go}: break", op)
            results, made = self._block(body, variables)
            self._emit(f"{assigned} = {', '.join(results)}", op)
            self._delete(made)
        self._emit("else:")
        with self._indented():
            self._emit("endless()", op)
        self._emit(f"{', '.join(targets)} = {assigned}", op)
        self._delete(variables)

    def read_state(self, step: Step, targets: list[str]) -> None:
        """`read_state`: no copy, because a write makes a new value and no kernel changes its inputs."""
        self._emit(f"{targets[0]} = {self._tensor(step.op.inputs['input'][0])}", step.op)

    def write_state(self, step: Step, targets: list[str]) -> None:
        """`write_state`, which has no result."""
        state, data = (step.op.inputs[name][0] for name in ("input", "data"))
        self._emit(f"{self._tensor(state)} = {self._tensor(data)}", step.op)

    def _block(self, plan: BlockPlan, variables: list[str]) -> tuple[list[str], list[str]]:
        """Writes the steps of a nested block; the expressions of its outputs, and the variables that hold them."""
        names = {named.name: variable for named, variable in zip(plan.block.inputs, variables, strict=True)}
        made = {o.name: self._fresh(o.name) for op in plan.block.ops for o in op.outputs}
        self.scopes.append(Scope(plan.block, names | made))
        for step in plan.steps:
            self.step(step, given=set())
        results = [self._tensor(name) for name in plan.block.outputs]
        self.scopes.pop()
        return results, [made[name] for name in dict.fromkeys(plan.block.outputs) if name in made]

    # -------------------------------------------------------------- expressions

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
            plain = tuple(self._stored(value) for value in values if isinstance(value, Constant))
            return self._literal(convert(plain), op, parameter)
        convert_name = self._bind(convert, f"as_{getattr(parameter.annotation, '__name__', 'values')}")
        parts = [self._part(value) for value in values]
        return f"{convert_name}({parts[0] if len(parts) == 1 else '(' + ', '.join(parts) + ')'})"

    def _part(self, value: Argument) -> str:
        """One of several things bound to a parameter."""
        if isinstance(value, Constant) and value.type.dtype == "str":
            return repr(value.array())
        return self._tensor(value)

    def _stored(self, constant: Constant) -> Any:
        """The values of a constant, for a parameter."""
        if constant.decompressed_by is None:
            return constant.array()
        return self.constants.tensor(constant, self.precision)

    def _settled(self, op: Op, kernel: Kernel, index: int, expression: str) -> str:
        """The expression of a result, rounded to its declared dtype or brought to the declared integer."""
        output = op.outputs[index]
        if output.type.kind != "tensor":
            return expression
        if output.type.dtype in INTEGER_RANGE:
            if not kernel.widened:
                return expression
            return f"fit_integer({expression}, {self._bind(self._out(op, index), f'{output.name}_out')}, census)"
        rounding = None if kernel.exact else self.precision.rounding(output.type.dtype)
        return expression if rounding is None else f"{self._bind(rounding, rounding.__name__)}({expression})"

    def _out(self, op: Op, index: int) -> Out:
        output = op.outputs[index]
        return Out(output.name, output.type.dtype, self.precision.held(output.type.dtype))

    def _value(self, argument: Argument) -> Argument:
        """The constant behind an argument, if it is one."""
        if isinstance(argument, Constant):
            return argument
        for scope in reversed(self.scopes):
            if argument in scope.variables:
                return argument
            if argument in scope.block.constants:
                return scope.block.constants[argument]
        return argument

    def _tensor(self, argument: Argument) -> str:
        value = self._value(argument)
        if isinstance(value, str):
            return self.local(value)
        constants, precision = self.constants, self.precision
        if constants.keeps(value, precision):
            return self._bind(constants.tensor(value, precision), value.name, key=value)
        return f"{self._bind(lambda: constants.tensor(value, precision), f'load_{value.name}', key=value)}()"

    def _literal(self, value: Any, op: Op, parameter: Parameter) -> str:
        text = repr(value)
        plain = not isinstance(value, float) or math.isfinite(value)
        if plain and len(text) <= LITERAL_LENGTH:
            return text
        return self._bind(value, f"{op.name}_{parameter.name}", key=(op, parameter.name))

    # -------------------------------------------------------------- names and lines

    def local(self, name: str) -> str:
        """The variable that holds a tensor."""
        for scope in reversed(self.scopes):
            if name in scope.variables:
                return scope.variables[name]
        return self.scopes[0].variables.setdefault(name, self._fresh(name))

    def _bind(self, value: Any, hint: str, *, key: Any = None) -> str:
        """Makes a value available to the function under a name like `hint`."""
        key = value if key is None else key
        if key not in self.shared:
            self.shared[key] = self._fresh(hint)
            self.bound[self.shared[key]] = value
        return self.shared[key]

    def _fresh(self, hint: str) -> str:
        """An identifier like `hint` that nothing else has."""
        base = re.sub(r"\W", "_", hint, flags=re.ASCII)  # Python takes some letters of other scripts for others
        base = base if base.isidentifier() and not keyword.iskeyword(base) and base not in RESERVED else f"_{base}"
        name = base if base not in self.taken else next(n for i in count(2) if (n := f"{base}_{i}") not in self.taken)
        self.taken.add(name)
        return name

    def _delete(self, variables: Sequence[str]) -> None:
        if variables:
            self._emit(f"del {', '.join(variables)}")

    def _emit(self, line: str, op: Op | None = None) -> None:
        self.lines.append("    " * self.indent + line)
        if op is not None:
            self.ops[len(self.lines)] = op

    @contextmanager
    def _indented(self) -> Iterator[None]:
        self.indent += 1
        yield
        self.indent -= 1


STATEMENTS: dict[str, Callable[[Writer, Step, list[str]], None]] = {
    "cond": Writer.cond,
    "while_loop": Writer.while_loop,
    "read_state": Writer.read_state,
    "write_state": Writer.write_state,
}
"""Ops that are no calls of a kernel → how they are written."""


def endless() -> NoReturn:
    """Raises RuntimeError: a loop did not end."""
    raise RuntimeError(f"the loop has not ended after {MAX_ITERATIONS} iterations")
