"""A YAML file read into plain values, with the line of every key.

This answers "which line do I have to change?". It knows nothing about the meaning of a key.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from layerdiff.errors import ConfigError, known_names

SHOWN_LENGTH = 60
"""How many characters of an offending text a message repeats."""

Key = tuple[str | int, ...]
"""Where a value stands: the keys and list positions that lead to it."""


@dataclass(frozen=True)
class Document:
    """One configuration file."""

    path: str
    """As the user wrote it."""
    values: dict[str, Any]
    lines: dict[Key, int]
    """Line of every key, counted from 1."""

    def place(self, key: Key) -> str:
        """The `in …` line of a message: file, key and, where it is known, the line."""
        if not key:
            return self.path
        line = next((self.lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.lines), None)
        return f"{self.path}, {dotted(key)}" + (f" (line {line})" if line else "")


def dotted(key: Key) -> str:
    """`stages.logits.slice`, `inputs.audio[2]`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return "".join(parts).lstrip(".")


def read(path: str | Path) -> Document:
    """The document in the file at `path`.

    Raises:
        ConfigError: the file is missing, unreadable, empty, not YAML, or not a mapping at its top.
    """
    place = str(path)
    text = _text(Path(path), place)
    values, node = _values(text, place)
    if values is None:
        raise ConfigError("The configuration is empty.", where=place, action="Start from one of configs/*.yaml.")
    if not isinstance(values, dict):
        raise ConfigError(
            f"The configuration is {kind_of(values)}, not a mapping.",
            where=place,
            detail="expected the keys reference, candidates, inputs",
        )
    return Document(path=place, values=values, lines=dict(_lines(node, (), set())))


def kind_of(value: object) -> str:
    """What a YAML value is, with the value where it is short: `the number 5`, `a list`."""
    if value is None or value in ("", [], {}):
        return "empty"
    if isinstance(value, bool):
        return f"the truth value '{str(value).lower()}'"
    if isinstance(value, int | float):
        return f"the number '{value}'"
    if isinstance(value, str):
        return f"the text '{value if len(value) <= SHOWN_LENGTH else value[:SHOWN_LENGTH] + '…'}'"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    return f"a {type(value).__name__}"


def _text(path: Path, place: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no configuration '{place}'.", detail=_siblings(path), action="Give a YAML file."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"The configuration '{place}' is not text in UTF-8.",
            detail=f"byte {error.start} is 0x{error.object[error.start]:02x}",
            action="Give a YAML file.",
        ) from error
    except (OSError, ValueError) as error:
        kind = "is a folder, not a file" if path.is_dir() else "cannot be read"
        raise ConfigError(
            f"The configuration '{place}' {kind}.", detail=_siblings(path, error), action="Give a YAML file."
        ) from error


def _siblings(path: Path, error: Exception | None = None) -> str | None:
    """The configurations that do exist where this one was looked for."""
    try:
        folder = path if path.is_dir() else path.parent
        names = sorted(str(p) for p in folder.iterdir() if p.suffix in {".yaml", ".yml"})
    except (OSError, ValueError):
        names = []
    if names:
        return known_names(f"configurations in {folder}", str(path), names)
    return getattr(error, "strerror", None) if error else None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which takes the last of two equal keys: here a repeated key is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(None, None, f"the key {_source(key)!r} is not text", key.start_mark)
            if key.value in seen:
                problem = f"the key {key.value!r} was already given in line {seen[key.value]}"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep=deep)


def _source(node: yaml.Node) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"


def _values(text: str, place: str) -> tuple[Any, yaml.Node | None]:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return (None if node is None else loader.construct_document(node)), node
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, place) from error
    except yaml.YAMLError as error:
        raise ConfigError("The configuration is not YAML.", where=place, detail=str(error).splitlines()[0]) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(
            "The configuration holds a value that YAML forbids.", where=place, detail=str(error)
        ) from error
    except RecursionError as error:
        raise ConfigError("The configuration is nested too deeply.", where=place) from error


def _not_yaml(error: yaml.MarkedYAMLError, place: str) -> ConfigError:
    """The message for a document that PyYAML, or the loader above, refuses."""
    mark = error.problem_mark or error.context_mark
    where = f"{place}, line {mark.line + 1}, column {mark.column + 1}" if mark else place
    problem = error.problem or "it cannot be parsed"
    action = {
        "mapping values are not allowed here": "Put a text that holds ':' in quotes.",
        "found character '\\t' that cannot start any token": "Indent with spaces, not with tabs.",
    }.get(problem, "")
    if "is not text" in problem:
        action = "Put the key in quotes (YAML reads yes, no, on, off and numbers as something else)."
    if "already given" in problem:
        action = "Keep one of them."
    return ConfigError(f"The configuration is not valid: {problem}.", where=where, action=action)


def _lines(node: yaml.Node | None, key: Key, seen: set[int]) -> Iterator[tuple[Key, int]]:
    """Key and line of everything below `node`; a node that aliases share is visited once."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield (*key, name.value), name.start_mark.line + 1
            yield from _lines(value, (*key, name.value), seen)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            yield (*key, position), value.start_mark.line + 1
            yield from _lines(value, (*key, position), seen)
