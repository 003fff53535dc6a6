"""How a value is written for people: four significant digits, one notation everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, isnan
from typing import Any

from layerdiff.records import Status

NOTHING = "–"
"""Stands for a value that does not exist."""

SYMBOLS: Mapping[str, str] = {"pass": "✓", "fail": "✗", "unknown": "?", "skipped": "–"}

_HASH_LENGTH, _HASH_SHOWN = 64, 12
_LISTED = 8
_ABOUT_ONE = 1e-12


def number(value: float | None) -> str:
    """Four significant digits; integers in full; `–` for None."""
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return str(value)
    if isnan(value):
        return "nan"
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def interval(low: float | None, high: float | None) -> str:
    """`[-11.28, -1.025]`; `–` where there is no value."""
    return NOTHING if low is None or high is None else f"[{number(low)}, {number(high)}]"


def cosine(value: float | None) -> str:
    """Six decimals, since the news is how far it is from 1; beyond them the distance itself: `1-2.5e-9`."""
    if value is None or not isfinite(value):
        return number(value)
    distance = 1 - value
    if abs(distance) < _ABOUT_ONE:
        return "1"
    return f"1-{number(float(f'{distance:.2g}'))}" if 0 < distance < 5e-7 else f"{value:.6f}"


def share(value: float) -> str:
    """A share in [0, 1] in percent, never rounded up to all."""
    return "100 %" if value >= 1 else f"{min(value * 100, 99.9):.3g} %"


def seconds(value: float) -> str:
    """Hundredths of a second are finer than an encoder frame."""
    return f"{value:.2f} s"


def shape(dimensions: Sequence[int | None] | None) -> str:
    """`[1, ?, 640]`; `?` where the length differs between inputs."""
    if dimensions is None:
        return ""
    return f"[{', '.join('?' if length is None else str(length) for length in dimensions)}]"


def status(value: Status | str) -> str:
    """The symbol and the word."""
    return f"{SYMBOLS.get(value, '?')} {value}"


def plural(count: int, singular: str, several: str | None = None) -> str:
    """`1 clip`, `12 clips`."""
    return f"{count} {singular if count == 1 else several or singular + 's'}"


def size(size_bytes: int) -> str:
    """`1.19 GB`; decimal units, as packages are sold by."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.3g} {unit}"
    return f"{size_bytes} B"


def clean(text: object) -> str:
    """A text from outside on one line, without anything that a terminal or a spreadsheet would obey."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "" for c in str(text)).strip()


def facts(values: Mapping[str, Any]) -> Iterator[str]:
    """The entries of a description as short texts: `dither 0`, `precision joint float16`."""
    for key, value in values.items():
        yield f"{clean(key)} {fact(value)}"


def fact(value: Any) -> str:
    """One value of a description in a few words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, Mapping):
        return ", ".join(facts(value)) or "none"
    if isinstance(value, str):
        return _text(clean(value))
    if isinstance(value, Sequence):
        more = f" … and {len(value) - _LISTED} more" if len(value) > _LISTED else ""
        return (", ".join(fact(part) for part in value[:_LISTED]) or "none") + more
    return clean(value)


def _text(text: str) -> str:
    is_hash = len(text) == _HASH_LENGTH and all(c in "0123456789abcdef" for c in text)
    return text[:_HASH_SHOWN] if is_hash else text or "none"
