"""The text of a slice, `"..., -5:"`, parsed into what NumPy indexes with; nothing is evaluated."""

from __future__ import annotations

import re
from types import EllipsisType

Index = tuple[slice | int | EllipsisType, ...]

_NUMBER = r"[+-]?(?:0|[1-9][0-9]{0,17})"
_INTEGER = re.compile(_NUMBER)
_RANGE = re.compile(rf"({_NUMBER})?\s*:\s*({_NUMBER})?\s*(?::\s*({_NUMBER})?\s*)?")


def parse_slice(text: str) -> Index:
    """The index that `text` stands for.

    The notation is NumPy's, without the brackets: items separated by commas, each one an integer, a range
    `start:stop:step` with any part left out, or a single `...`.

    Args:
        text: e.g. `"..., :-5"`.

    Returns:
        A tuple to index an array with.

    Raises:
        ValueError: the text is not such an index; the message is a clause that continues "the slice".

    >>> parse_slice("..., -5:")
    (Ellipsis, slice(-5, None, None))
    """
    if not text.strip():
        raise ValueError("is empty")
    index = tuple(_item(item.strip()) for item in text.split(","))
    if index.count(...) > 1:
        raise ValueError("holds '...' more than once")
    return index


def _item(text: str) -> slice | int | EllipsisType:
    if text == "...":
        return ...
    if _INTEGER.fullmatch(text):
        return int(text)
    match = _RANGE.fullmatch(text)
    if not match:
        raise ValueError(f"holds {text!r}, which is neither a number, a range, nor '...'")
    start, stop, step = (int(part) if part else None for part in match.groups())
    if step is not None and step < 1:
        raise ValueError(f"holds {text!r}, whose step is not positive")
    return slice(start, stop, step)
