"""The program of a compiled model: reads `model.mil`, the text that Core ML's compiler makes of a package.

    program(1.0)
    [buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-version", "3500.32.1"}})]
    {
        func main<ios17>(tensor<fp32, [1, ?]> x)
            [FlexibleShapeInformation = tuple<…>((("RangeDims", {{"x", [[1, 1], [1, 9]]}})))] {
            tensor<fp16, []> y = const()[name = tensor<string, []>("y"), val = tensor<fp16, []>(0x1p-1)];
            tensor<fp32, [1, ?]> z = add(x = x, y = y)[name = tensor<string, []>("op_1")];
        } -> (z);
    }

Several results stand side by side before the `=`; an input that takes several is `values = (a, b)`; an op without
a result, as `write_state`, has no left side; an argument may be a value. What is read becomes the message that a
package would hold, so that both kinds of model go through the same checks.

No compiled model with nested blocks is known in public. They are read as functions are written, one after another
between the attributes and the semicolon: `… = cond(pred = p)[name = …] {…} -> (a) {…} -> (b);`, a block that takes
inputs as `body(tensor<fp32, [1]> a) {…} -> (b)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from layerdiff.errors import PackageError
from layerdiff.mil import schema
from layerdiff.mil.literal import SCALAR, plain, value
from layerdiff.mil.program import Program, WeightFiles
from layerdiff.mil.program import parse as parse_message
from layerdiff.mil.scanner import DEEPEST, NAME, Scanner

OPSETS = {"ios15": "CoreML5", "ios16": "CoreML6", "ios17": "CoreML7", "ios18": "CoreML8", "ios26": "CoreML9"}
"""Opsets as the text spells them, and as a package does."""

BLOCK = re.compile(rf"(?:{NAME.pattern})?(?=[({{])")
"""The beginning of a nested block: its name, if it has one."""


@dataclass(frozen=True)
class Text:
    """A `model.mil` that has been read."""

    message: Any
    """The `MILSpec.Program` message."""
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Function name → what stands in brackets behind its inputs, such as `FlexibleShapeInformation`."""


def parse(text: str, files: WeightFiles) -> Program:
    """The records of a program, just as those of the package that it was compiled from.

    Args:
        text: a whole `model.mil`.
        files: file name of a constant → its opened weight file.

    Raises:
        PackageError: the text is damaged, contradicts itself, or names a constant outside its weight file.
    """
    return parse_message(read(text).message, files)


def read(text: str, model_path: str = "") -> Text:
    """The message that a package would hold.

    Args:
        text: a whole `model.mil`.
        model_path: folder of the program below that of the package; put before the names of weight files.

    Raises:
        PackageError: the text is damaged; the message gives line and column.
    """
    return _Reader(Scanner(text, model_path)).program()


class _Reader:
    """Carries the scanner through the recursion."""

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner
        self.message = schema.mil_module().Program()
        self.attributes: dict[str, Mapping[str, Any]] = {}

    def program(self) -> Text:
        scan = self.scanner
        if not scan.has("program"):
            raise scan.error("'program', with which every model.mil begins")
        scan.symbol("(")
        scan.each(lambda: scan.expect(SCALAR, "a version"), ")")
        self.annotations()
        self.message.version = 1
        scan.symbol("{")
        while not scan.has("}"):
            self.function()
        if scan.at < len(scan.text):
            raise scan.error("the end of the text")
        return Text(self.message, self.attributes)

    def function(self) -> None:
        scan = self.scanner
        if not scan.has("func"):
            raise scan.error("'func' or '}'")
        start = scan.at
        name = scan.name("the name of a function")
        if name in self.attributes:
            raise scan.error("another name for each function", start)
        scan.symbol("<")
        opset_at, opset = scan.at, scan.name("an opset").lower()
        if opset not in OPSETS:
            raise scan.error(f"an opset ({', '.join(OPSETS)})", opset_at)
        scan.symbol(">")
        function = self.message.functions[name]
        function.opset = OPSETS[opset]
        self.parameters(function.inputs)
        self.attributes[name] = self.annotations()
        self.body(function.block_specializations[function.opset], 0)
        scan.has(";")

    def annotations(self) -> dict[str, Any]:
        """What stands in brackets behind a program or a function."""
        scan, found = self.scanner, {}

        def one() -> None:
            key = scan.name("the name of an attribute")
            scan.symbol("=")
            scan.type_()
            scan.symbol("(")
            found[key] = None if scan.has(")") else plain(scan)
            if found[key] is not None:
                scan.symbol(")")

        if scan.has("["):
            scan.each(one, "]")
        return found

    def parameters(self, inputs: Any) -> None:
        self.scanner.symbol("(")
        self.scanner.each(lambda: self.named(inputs.add(), "the name of an input"), ")")

    def named(self, message: Any, what: str) -> None:
        message.type.CopyFrom(self.scanner.type_())
        message.name = self.scanner.name(what)

    def body(self, block: Any, depth: int) -> None:
        """Statements and outputs: `{ … } -> (a, b)`."""
        scan = self.scanner
        scan.symbol("{")
        while not scan.has("}"):
            self.statement(block.operations.add(), depth)
        scan.symbol("->")
        scan.symbol("(")
        scan.each(lambda: block.outputs.append(scan.name("the name of an output")), ")")

    def statement(self, operation: Any, depth: int) -> None:
        scan = self.scanner
        if scan.at_type():
            self.named(operation.outputs.add(), "the name of a result")
            while scan.has(","):
                self.named(operation.outputs.add(), "the name of a result")
            scan.symbol("=")
        operation.type = scan.name("an op")
        scan.symbol("(")
        scan.each(lambda: self.argument(operation.inputs), ")")
        if scan.has("["):
            scan.each(lambda: self.attribute(operation.attributes), "]")
        if not scan.has(";"):
            self.blocks(operation, depth + 1)

    def argument(self, inputs: Any) -> None:
        start, key = self.scanner.at, self.scanner.name("the name of an input")
        if key in inputs:
            raise self.scanner.error("each input once", start)
        self.scanner.symbol("=")
        bindings = inputs[key].arguments
        if self.scanner.has("("):
            self.scanner.each(lambda: self.binding(bindings.add()), ")")
        else:
            self.binding(bindings.add())

    def binding(self, message: Any) -> None:
        if self.scanner.at_type() and not self._is_reference():
            message.value.CopyFrom(value(self.scanner))
        else:
            message.name = self.scanner.name("a name or a value")

    def _is_reference(self) -> bool:
        """Whether a word that may be a type is a name: a tensor may be called 'string'."""
        match = NAME.match(self.scanner.text, self.scanner.at)
        return match is not None and self.scanner.text[match.end() : match.end() + 1] in (",", ")")

    def attribute(self, attributes: Any) -> None:
        key = self.scanner.name("the name of an attribute")
        self.scanner.symbol("=")
        attributes[key].CopyFrom(value(self.scanner))

    def blocks(self, operation: Any, depth: int) -> None:
        scan = self.scanner
        if depth > DEEPEST:
            raise scan.error(f"at most {DEEPEST} blocks inside one another")
        while not scan.has(";"):
            if scan.found(BLOCK) is None:
                raise scan.error("';'")
            block = operation.blocks.add()
            if scan.text.startswith("(", scan.at):
                self.parameters(block.inputs)
            self.body(block, depth)


def flexible_shapes(attributes: Mapping[str, Any]) -> dict[str, tuple[str, list[list[int]]]]:
    """What `FlexibleShapeInformation` says of the inputs of a function.

    Returns:
        Input name → `shapeRange` with the smallest and largest length of each axis, or `enumeratedShapes` with the
        allowed shapes; the names are those of the schema.

    Raises:
        PackageError: it is not of the form that the compiler writes.
    """
    found: dict[str, tuple[str, list[list[int]]]] = {}
    try:
        entries = dict(attributes.get("FlexibleShapeInformation") or ())
        for name, ranges in dict(entries.get("RangeDims") or {}).items():
            found[name] = "shapeRange", ranges
        for shapes in dict(entries.get("EnumeratedShapes") or {}).values():
            for name, shape in dict(shapes).items():
                found.setdefault(name, ("enumeratedShapes", []))[1].append(shape)
    except (TypeError, ValueError, AttributeError) as error:
        raise PackageError(
            "the FlexibleShapeInformation of a function is damaged.", detail=f"{type(error).__name__}: {error}"
        ) from error
    return found
