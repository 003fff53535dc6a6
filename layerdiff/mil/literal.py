"""The values of a `model.mil`, read into the messages that a package holds.

    value   = type(literal)
    literal = 0x1.8p-3 | -1 | true | inf | "text" | [[1, 2], [3, 4]] | (literal, …)
            | BLOBFILE(path = value, offset = value)

Floats are C99 hexadecimal. No array is made before the text has been seen to hold as many values as its type
declares, and nothing recurses deeper than `DEEPEST`.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdiff.mil import schema
from layerdiff.mil.program import DTYPES
from layerdiff.mil.scanner import DEEPEST, MOST_AXES, START, Scanner, token
from layerdiff.mil.weights import bits_per_value

MODEL_PATH = "@model_path/"
"""How a program spells the folder that it is in, in the name of a weight file."""

SCALAR = token(r"([-+]?[\w.]++(?:(?<=[pPeE])[-+]\w++)?)")
STRING = token(r'"((?:[^"\\]|\\.)*+)"')
BLOBFILE = token(r"BLOBFILE\s*+\(")
BRACKET = re.compile(r"[\[\]]")
NOT_STRUCTURE = re.compile(r"[^\[\],]+")
STRING_OR_STRUCTURE = re.compile(r'"((?:[^"\\]|\\.)*+)"|([\[\],])|\s++')
ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)
ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}
BOOLS = {"true": True, "false": False, "1": True, "0": False}


def value(scan: Scanner, *, in_file: bool = True) -> Any:
    """The `Value` message of the value here; one that stands in a weight file only where that is allowed."""
    message = schema.mil_module().Value()
    message.type.CopyFrom(scan.type_())
    scan.symbol("(")
    if in_file and scan.found(BLOBFILE):
        _blob(scan, message.blobFileValue)
    else:
        _immediate(scan, message, 0)
    scan.symbol(")")
    return message


def _blob(scan: Scanner, message: Any) -> None:
    start = scan.at
    fields = {}

    def one() -> None:
        key = scan.name("'path' or 'offset'")
        scan.symbol("=")
        fields[key] = value(scan, in_file=False).immediateValue.tensor

    scan.each(one, ")")
    if set(fields) != {"path", "offset"} or len(fields["path"].strings.values) != 1:
        raise scan.error("a path and an offset", start)
    path, offset = fields["path"].strings.values[0], fields["offset"].bytes.values
    if not 0 < len(offset) <= 8:
        raise scan.error("a path and one number as the offset", start)
    if path.startswith(MODEL_PATH):
        path = MODEL_PATH + scan.model_path + path.removeprefix(MODEL_PATH)
    message.fileName, message.offset = path, int.from_bytes(offset, "little")


def _immediate(scan: Scanner, message: Any, depth: int) -> None:
    """Reads a literal into a message whose type is set."""
    if depth > DEEPEST:
        raise scan.error(f"at most {DEEPEST} values inside one another")
    which = message.type.WhichOneof("type")
    if which == "tensorType":
        return _tensor(scan, message.type.tensorType, message.immediateValue.tensor)
    if which == "listType":
        return _list(scan, message, depth)
    if which == "tupleType":
        return _tuple(scan, message, depth)
    raise scan.error("a tensor, a list or a tuple")


def _list(scan: Scanner, message: Any, depth: int) -> None:
    message.immediateValue.list.SetInParent()

    def one() -> None:
        item = message.immediateValue.list.values.add()
        item.type.CopyFrom(message.type.listType.type)
        _immediate(scan, item, depth + 1)

    scan.symbol("[")
    scan.each(one, "]")


def _tuple(scan: Scanner, message: Any, depth: int) -> None:
    message.immediateValue.tuple.SetInParent()
    scan.symbol("(")
    for index, type_ in enumerate(message.type.tupleType.types):
        if index:
            scan.symbol(",")
        item = message.immediateValue.tuple.values.add()
        item.type.CopyFrom(type_)
        _immediate(scan, item, depth + 1)
    scan.symbol(")")


def _tensor(scan: Scanner, type_: Any, message: Any) -> None:
    start, dtype = scan.at, DTYPES[type_.dataType]
    if any(d.WhichOneof("dimension") == "unknown" for d in type_.dimensions):
        raise scan.error("a value of a type without '?'", start)
    shape = tuple(int(d.constant.size) for d in type_.dimensions)
    if dtype == "str":
        return _string_tensor(scan, shape, message)
    literal = _bracketed(scan) if scan.text.startswith("[", scan.at) else scan.expect(SCALAR, "a number")[1]
    words = literal.replace("[", " ").replace("]", " ").split(",") if prod(shape) else []
    _check_structure(scan, NOT_STRUCTURE.sub("", literal), shape, len(words), start)
    try:
        message.bytes.values = _packed(words, dtype)
    except (ValueError, OverflowError, KeyError) as error:
        raise scan.error(f"{dtype} numbers", start) from error


def _string_tensor(scan: Scanner, shape: tuple[int, ...], message: Any) -> None:
    start = scan.at
    strings, structure = _strings(scan)
    _check_structure(scan, structure, shape, len(strings), start)
    try:
        message.strings.values.extend(strings)
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise scan.error("text", start) from error


def _bracketed(scan: Scanner) -> str:
    """The literal from the bracket here to the one that closes it."""
    depth = 0
    for match in BRACKET.finditer(scan.text, scan.at):
        depth += 1 if match[0] == "[" else -1
        if depth > MOST_AXES:
            raise scan.error(f"at most {MOST_AXES} axes")
        if not depth:
            literal, scan.at = scan.text[scan.at : match.end()], match.end()
            scan.found(START)
            return literal
    raise scan.error("']'", len(scan.text))


def _strings(scan: Scanner) -> tuple[list[str], str]:
    """Strings with the brackets and commas around them."""
    if match := scan.found(STRING):
        return [unescaped(match[1])], ""
    literal_start, strings, structure, depth = scan.at, [], [], 0
    for match in iter(lambda: scan.found(STRING_OR_STRUCTURE), None):
        if match[1] is not None:
            strings.append(unescaped(match[1]))
        elif match[2]:
            structure.append(match[2])
            depth += {"[": 1, "]": -1, ",": 0}[match[2]]
            if depth <= 0:
                break
    if depth or not structure:
        raise scan.error("a string, or strings in brackets", literal_start)
    scan.found(START)
    return strings, "".join(structure)


def _check_structure(scan: Scanner, structure: str, shape: tuple[int, ...], count: int, start: int) -> None:
    """Raises unless the brackets nest `count` values as the shape does; what is empty may be written anyhow."""
    if count != prod(shape):
        raise scan.error(f"{prod(shape)} values for the shape {list(shape)}", start)
    if count and structure != _brackets(shape):
        raise scan.error(f"brackets that nest like the shape {list(shape)}", start)


def plain(scan: Scanner, depth: int = 0) -> Any:
    """A literal of any type as Python's own: dict, list, int or float, str."""
    if depth > DEEPEST:
        raise scan.error(f"at most {DEEPEST} values inside one another")
    for opening, closing in (("(", ")"), ("[", "]")):
        if scan.has(opening):
            items: list[Any] = []
            scan.each(lambda items=items: items.append(plain(scan, depth + 1)), closing)  # type: ignore[misc]
            return items
    if scan.has("{"):
        return _pairs(scan, depth)
    if match := scan.found(STRING):
        return unescaped(match[1])
    start, word = scan.at, scan.expect(SCALAR, "a value")[1]
    try:
        return int(word) if word.lstrip("-").isdecimal() else BOOLS[word] if word in BOOLS else number(word)
    except ValueError as error:
        raise scan.error("a value", start) from error


def _pairs(scan: Scanner, depth: int) -> dict[str, Any]:
    pairs: dict[str, Any] = {}

    def one() -> None:
        scan.symbol("{")
        key = unescaped(scan.expect(STRING, "a name in quotes")[1])
        scan.symbol(",")
        pairs[key] = plain(scan, depth + 1)
        scan.symbol("}")

    scan.each(one, "}")
    return pairs


def _brackets(shape: tuple[int, ...]) -> str:
    """The brackets and commas of a tensor of this shape."""
    text = ""
    for length in reversed(shape):
        text = f"[{','.join([text] * length)}]"
    return text


def unescaped(text: str) -> str:
    """The characters that a string literal stands for."""

    def one(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16)) if len(code) > 1 else ESCAPED.get(code, code)

    return ESCAPE.sub(one, text) if "\\" in text else text


def number(word: str) -> float:
    """A float as C or Python write it; `float.fromhex` alone would take `1.5` for hexadecimal."""
    return float.fromhex(word) if "x" in word else float(word)


def _packed(words: list[str], dtype: str) -> bytes:
    """Little-endian bytes of the values, as a package stores them.

    Raises:
        ValueError, OverflowError, KeyError: a word is no value of the dtype.
        UnsupportedOpError: constants of the dtype cannot be read.
    """
    width = bits_per_value(dtype)
    if dtype == "bool":
        return np.array([BOOLS[word.strip()] for word in words], np.bool_).tobytes()
    if "float" in dtype:
        return _floats([number(word) for word in words], dtype).tobytes()
    values = [int(word) for word in words]
    if width >= 8:
        return np.array(values, np.dtype(dtype).newbyteorder("<")).tobytes()
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if dtype == "int4" else (0, (1 << width) - 1)
    if values and not low <= min(values) <= max(values) <= high:
        raise ValueError(f"outside {low} … {high}")
    bits = np.unpackbits(np.array(values, np.int8).view(np.uint8)[:, None], axis=1, count=width, bitorder="little")
    return np.packbits(bits, bitorder="little").tobytes()


def _floats(values: list[float], dtype: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        if dtype == "bfloat16":  # the upper half of a float32
            return (np.array(values, "<f4").view("<u4") >> 16).astype("<u2")
        return np.array(values, np.dtype(dtype).newbyteorder("<"))
