"""Ways to damage a model: bits, lengths and fields of its files; fields of its specification; words of its text."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from layerdiff.mil import schema

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    64,
    255,
    65536,
    2**31 - 1,
    2**31,
    2**32,
    10**12,
    2**62,
    2**63 - 1,
    2**64 - 1,
    -1,
    -2,
    -(2**31),
)
"""Lengths, offsets and codes that programs get wrong."""

STRINGS = ("", "x", "fp16", "int64", "\0", "é", "a" * 5000, "@model_path/../../x", "del", "run", "const", "while_loop")
WORDS = re.compile(r'"(?:[^"\\]|\\.)*"|[\w.]+|[^\w\s]')

Mutation = Callable[[random.Random, Path], None]


# ------------------------------------------------------------------ bytes of any file


def flip_bits(rng: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4) if content else 0):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randint(0, len(content))])


def repeat_or_drop(rng: random.Random, path: Path) -> None:
    """A piece of the file a second time, elsewhere or in place of another."""
    content = path.read_bytes()
    start, length, to = rng.randint(0, len(content)), rng.randint(0, 64), rng.randint(0, len(content))
    path.write_bytes(content[:to] + content[start : start + length] + content[to + rng.randint(0, 64) :])


def remove(rng: random.Random, path: Path) -> None:
    path.unlink()


def change_record(rng: random.Random, path: Path) -> None:
    """A field of the header or of a record of a weight file."""
    content = bytearray(path.read_bytes())
    at = 64 * rng.randrange(max(len(content) // 64, 1)) + rng.choice((0, 4, 8, 16, 24))
    packed = struct.pack("<Q", rng.choice(NUMBERS) % 2**64)
    content[at : at + 8] = packed
    path.write_bytes(content)


BYTES: tuple[Mutation, ...] = (flip_bits, truncate, repeat_or_drop, remove)


# ------------------------------------------------------------------ fields of a specification


def change_fields(rng: random.Random, path: Path) -> None:
    """Some fields of the messages in a specification, chosen among all."""
    spec = schema.model_module().Model()
    spec.ParseFromString(path.read_bytes())
    for _ in range(rng.randint(1, 3)):
        places = list(_fields(spec))
        message, field = places[rng.randrange(len(places))]
        _change(rng, message, field, [m for m, _ in places])
    path.write_bytes(spec.SerializePartialToString())


def _fields(message: Any) -> Iterator[tuple[Any, Any]]:
    """Every message inside of this one with each field that is set in it."""
    pending = [message]
    while pending:
        message = pending.pop()
        for field, value in message.ListFields():
            yield message, field
            if field.message_type is None:
                continue
            if field.message_type.GetOptions().map_entry:
                values = value.values()
                pending.extend(v for v in values if hasattr(v, "ListFields"))
            else:
                pending.extend(value if field.is_repeated else [value])


def _change(rng: random.Random, message: Any, field: Any, others: list[Any]) -> None:
    if rng.random() < 0.15:
        return message.ClearField(field.name)
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _change_map(rng, value)
    if field.is_repeated:
        return _change_repeated(rng, value, field)
    if field.message_type is None:
        return _set(rng, message, field, others)
    alike = [m for m in others if m.DESCRIPTOR is field.message_type]
    if alike:
        copy = type(value)()
        copy.CopyFrom(rng.choice(alike))
        value.CopyFrom(copy)


def _set(rng: random.Random, message: Any, field: Any, others: list[Any]) -> None:
    """Another value of the same kind: an edge case, or one from elsewhere in the specification."""
    taken = [getattr(m, field.name) for m in others if m.DESCRIPTOR is message.DESCRIPTOR]
    candidates = [*taken, *STRINGS] if isinstance(taken[0], str) else [*taken, *NUMBERS]
    try:
        setattr(message, field.name, rng.choice(candidates))
    except (TypeError, ValueError):  # not of the field's type, or outside of its range
        message.ClearField(field.name)


def _change_repeated(rng: random.Random, values: Any, field: Any) -> None:
    if not values:
        return
    index, kind = rng.randrange(len(values)), rng.randrange(4)
    if kind == 0:
        del values[index]
    elif kind == 1:
        values.extend([values[index]] * rng.choice((1, 1, 2, 40)))
    elif kind == 2:
        copies = list(values)
        rng.shuffle(copies)
        copies = [_copied(v) for v in copies] if field.message_type is not None else copies
        del values[:]
        values.extend(copies)
    elif field.message_type is None:
        candidate = rng.choice(STRINGS if isinstance(values[index], str) else NUMBERS)
        try:
            values[index] = candidate
        except (TypeError, ValueError):
            del values[index]


def _change_map(rng: random.Random, values: Any) -> None:
    keys = sorted(values)
    if not keys:
        return
    key, other = rng.choice(keys), rng.choice([*keys, *STRINGS[:4], "x", "y", "axis", "val", "name"])
    value = values[key]
    if hasattr(value, "CopyFrom"):
        copy = _copied(value)
        if rng.random() < 0.5:
            del values[key]
        values[other].CopyFrom(copy)


def _copied(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


# ------------------------------------------------------------------ words of a text


def change_words(rng: random.Random, path: Path) -> None:
    """Some words or lines of a program's text, or of a JSON file."""
    content = path.read_text()
    for _ in range(rng.randint(1, 3)):
        content = _change_line(rng, content) if rng.random() < 0.2 else _change_word(rng, content)
    path.write_text(content)


def _change_line(rng: random.Random, content: str) -> str:
    lines = content.split("\n")
    index, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    if rng.random() < 0.4:
        lines[index], lines[other] = lines[other], lines[index]
    elif rng.random() < 0.5:
        lines.insert(index, lines[other])
    else:
        del lines[index]
    return "\n".join(lines)


def _change_word(rng: random.Random, content: str) -> str:
    words = list(WORDS.finditer(content))
    if not words:
        return "x"
    word, other = words[rng.randrange(len(words))], words[rng.randrange(len(words))][0]
    alike = [
        w[0] for w in words if w[0][0].isalpha() == word[0][0].isalpha() and w[0][0].isdigit() == word[0][0].isdigit()
    ]
    new = rng.choice(["", word[0] * 2, other, rng.choice(alike), rng.choice(alike), str(rng.choice(NUMBERS))])
    return content[: word.start()] + new + content[word.end() :]


def _kind(word: str) -> tuple[bool, bool]:
    return word[0].isalpha(), word[0].isdigit()


MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "Data/com.apple.CoreML/model.mlmodel": (*BYTES[:3], *[change_fields] * 20),
    "Data/com.apple.CoreML/weights/weight.bin": (*BYTES, change_record, change_record),
    "Manifest.json": (*BYTES, change_words),
    "model.mil": (*BYTES[:3], *[change_words] * 20),
    "model0/model.mil": (*BYTES, *[change_words] * 20),
    "model1/model.mil": (*BYTES, *[change_words] * 20),
    "metadata.json": (*BYTES, *[change_words] * 4),
    "weights/weight.bin": (*BYTES, change_record, change_record),
}
"""File of a model → what may be done to it; what finds more stands there more often."""

WEIGHTS = {"model.mil": 12, "Data/com.apple.CoreML/model.mlmodel": 12}
"""How often a file is chosen, if not once."""
