"""Weights that are the same by name: converters build the names of constants from module paths.

`joint_module_enc_weight_to_fp16` is `joint.enc.weight`: one name, cut into words and without what casting and
compression append, ends with all words of the other. Where several names fit, none is taken.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

APPENDED = frozenset({"quantized", "palettized", "sparsified", "fp16", "fp32", "to", "cast", "promoted"})
"""Last words of a constant's name that a converter appended."""

Words = tuple[str, ...]


def words_of(name: str) -> Words:
    """`joint.enc.weight_to_fp16` → (joint, enc, weight)."""
    words = [word for word in re.split(r"[^0-9A-Za-z]+", name) if word]
    while len(words) > 1 and words[-1] in APPENDED:
        words.pop()
    return tuple(words)


def match_names(reference: Collection[str], candidate: Collection[str]) -> Mapping[str, str]:
    """Candidate weight → reference weight of the same name, up to a prefix of either; only where one alone fits.

    At least two words have to agree: `weight` alone says nothing.
    """
    found = dict(_longest(candidate, reference))
    back = dict(_longest(reference, candidate))
    return {name: match for name, match in found.items() if back.get(match) == name}


def _longest(names: Iterable[str], known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each name with the one known name that shares most words at its end, one of the two being covered."""
    by_end: dict[Words, list[str]] = {}
    for other in known:
        for end in _ends(words_of(other)):
            by_end.setdefault(end, []).append(other)
    for name in names:
        words = words_of(name)
        for end in _ends(words):
            fitting = [o for o in by_end.get(end, ()) if len(words_of(o)) == len(end) or len(words) == len(end)]
            if fitting:
                if len(fitting) == 1:
                    yield name, fitting[0]
                break


def _ends(words: Words) -> Iterator[Words]:
    """The last words of a name, from all of them down to two."""
    return (words[start:] for start in range(len(words) - 1))
