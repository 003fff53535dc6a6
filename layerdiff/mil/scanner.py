"""The words of a `model.mil`: how far the text has been read, and the token or type that stands there.

    type = tensor<fp16, [1, ?]> | fp16 | list<type, 3> | state<type> | tuple<type, …> | dict<type, type>

A scalar type is written `tensor<int32, []>` by compilers for iOS15 to iOS17 and `int32` by later ones; both are
read everywhere. What is read becomes the message that a package would hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from layerdiff.errors import PackageError
from layerdiff.mil import schema

SKIPPED = r"[ \t\r\n]*+(?://[^\n]*+[ \t\r\n]*+)*+"
"""White space and comments, behind every token."""

WORDS = {
    **{"bool": 1, "string": 2, "fp16": 10, "fp32": 11, "fp64": 12, "bf16": 13},
    **{"int8": 21, "int16": 22, "int32": 23, "int64": 24, "int4": 25},
    **{"uint8": 31, "uint16": 32, "uint32": 33, "uint64": 34},
    **{"uint4": 35, "uint2": 36, "uint1": 37, "uint6": 38, "uint3": 39, "fp8e4m3fn": 40, "fp8e5m2": 41},
}
"""Data types as the text spells them, with their codes in the schema."""

DEEPEST = 32
"""Levels of types, literals or blocks inside one another; real programs have three."""

MOST_AXES = 32


def token(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern + SKIPPED)


START = token("")
MAY_SKIP = " \t\r\n/"
"""What white space or a comment begins with."""
NAME = token(r"([^\W\d][\w.:/@$]*+)")
INTEGER = token(r"(\d++)")
TENSOR = token(r"tensor\s*+<\s*+(\w++)\s*+,\s*+\[([\d?,.\s]*+)\]\s*+>")
CONTAINER = token(r"(tensor|list|state|tuple|dict)(?=\s*+<)")
WORD = token(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})\b(?!\s*+[.:/@$=])")


class Scanner:
    """The text, and how far it has been read: always at the start of a token.

    Args:
        text: a whole `model.mil`.
        model_path: folder of the program below that of the package, ending in a slash if there is one.
    """

    def __init__(self, text: str, model_path: str = "") -> None:
        self.text, self.model_path, self.at = text, model_path, 0
        self._types: dict[tuple[str, str], Any] = {}
        self.expect(START, "")

    # ------------------------------------------------------------------ tokens

    def error(self, expected: str, at: int | None = None) -> PackageError:
        """What is raised when something else stands there."""
        at = self.at if at is None else at
        line, column = self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at)
        found = self.text[at : at + 40].split("\n")[0].strip()
        got = f"'{found}'" if found else "the end of the text"
        return PackageError(
            f"the text of the program is damaged at line {line}, column {column}.",
            detail=f"expected {expected}, got {got}",
            action="compile the model again, or copy the whole .mlmodelc again",
        )

    def found(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The token here, which is then behind us, or None."""
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def expect(self, pattern: re.Pattern[str], expected: str) -> re.Match[str]:
        match = self.found(pattern)
        if match is None:
            raise self.error(expected)
        return match

    def has(self, symbol: str) -> bool:
        """Whether the symbol stands here; it is then behind us."""
        if not self.text.startswith(symbol, self.at):
            return False
        self.at += len(symbol)
        if self.text[self.at : self.at + 1] in MAY_SKIP:
            self.found(START)
        return True

    def symbol(self, symbol: str) -> None:
        if not self.has(symbol):
            raise self.error(f"'{symbol}'")

    def name(self, what: str) -> str:
        return self.expect(NAME, what)[1]

    def each(self, read: Callable[[], Any], closing: str) -> None:
        """Reads items between commas, up to and with the closing symbol."""
        if self.has(closing):
            return
        while True:
            read()
            if not self.has(","):
                return self.symbol(closing)

    # ------------------------------------------------------------------ types

    def at_type(self) -> bool:
        return bool(CONTAINER.match(self.text, self.at) or WORD.match(self.text, self.at))

    def type_(self, depth: int = 0) -> Any:
        """The `ValueType` message of the type here; types are shared, so it must not be changed."""
        if depth > DEEPEST:
            raise self.error(f"at most {DEEPEST} types inside one another")
        start = self.at
        if match := self.found(TENSOR):
            return self._tensor_type(match[1], match[2], start)
        if match := self.found(CONTAINER):
            self.symbol("<")
            return self._container(match[1], depth)
        return self._tensor_type(self.expect(WORD, "a type")[1], "", start)

    def _tensor_type(self, word: str, dims: str, start: int) -> Any:
        key = word, dims
        if key not in self._types:
            if word not in WORDS:
                raise self.error(f"a data type ({', '.join(WORDS)})", start)
            message = schema.mil_module().ValueType()
            tensor = message.tensorType
            tensor.dataType = WORDS[word]
            texts = [text.strip() for text in dims.split(",")] if dims.strip() else []
            if len(texts) > MOST_AXES:
                raise self.error(f"at most {MOST_AXES} axes", start)
            tensor.rank = len(texts)
            for text in texts:
                self._dimension(tensor.dimensions.add(), text, start)
            self._types[key] = message
        return self._types[key]

    def _dimension(self, message: Any, text: str, start: int) -> None:
        if text in ("?", "..."):
            message.unknown.variadic = text == "..."
        elif text.isdecimal() and len(text) < 19:
            message.constant.size = int(text)
        else:
            raise self.error("a length or '?' for every axis", start)

    def _container(self, kind: str, depth: int) -> Any:
        message = schema.mil_module().ValueType()
        if kind == "state":
            message.stateType.wrappedType.CopyFrom(self.type_(depth + 1))
        elif kind == "list":
            message.listType.type.CopyFrom(self.type_(depth + 1))
            if self.has(","):
                length = "?" if self.has("?") else self.expect(INTEGER, "a length or '?'")[1]
                self._dimension(message.listType.length, length, self.at)
        elif kind == "tuple":
            return self._tuple_type(message, depth)
        elif kind == "dict":
            message.dictionaryType.keyType.CopyFrom(self.type_(depth + 1))
            self.symbol(",")
            message.dictionaryType.valueType.CopyFrom(self.type_(depth + 1))
        else:
            raise self.error("a data type and a shape, as in 'fp16, [1, ?]>'")
        self.symbol(">")
        return message

    def _tuple_type(self, message: Any, depth: int) -> Any:
        message.tupleType.SetInParent()
        self.each(lambda: message.tupleType.types.add().CopyFrom(self.type_(depth + 1)), ">")
        return message
