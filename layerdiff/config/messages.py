"""What pydantic found wrong with a configuration, said in the house form."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from layerdiff.config.document import Document, Key, dotted, kind_of
from layerdiff.config.section import REFUSED, WRONG_KIND, Section
from layerdiff.errors import ConfigError, known_names, nearest

_EXPECTED = {
    "string_type": "text",
    "string_too_short": "text",
    "bool_type": "true or false",
    "float_type": "a number",
    "finite_number": "a finite number",
    "model_type": "a mapping",
    "dict_type": "a mapping",
}
"""pydantic's error type → what the key takes."""


def as_config_error(error: ValidationError, document: Document) -> ConfigError:
    """The first fault as a message; an unknown key goes first, since it explains keys that are missing."""
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    message = _message(faults[0], document)
    if len(faults) > 1:
        others = ", ".join(dict.fromkeys(dotted(_key(fault)) or "the top" for fault in faults[1:]))
        message["action"] = "\n".join(filter(None, (message.get("action"), f"There are more faults, at: {others}")))
    return ConfigError(message.pop("what") or "", **message)


def _key(fault: Mapping[str, Any]) -> Key:
    own = fault["ctx"]["key"] if fault["type"] in (REFUSED, WRONG_KIND) else ()
    return (*fault["loc"], *own)


def _message(fault: Mapping[str, Any], document: Document) -> dict[str, str | None]:
    key, context = _key(fault), fault.get("ctx", {})
    name, where = dotted(key[-2:] if key and isinstance(key[-1], int) else key[-1:]), document.place(key)
    if fault["type"] == REFUSED:
        detail, action = context.get("detail"), context.get("action")
        return {"what": context["what"], "where": where, "detail": detail, "action": action}
    if fault["type"] == "extra_forbidden":
        return {"what": f"There is no key '{name}' here.", "where": where, "detail": _known_keys(key)}
    if fault["type"] == "missing":
        return {"what": f"The key '{name}' is missing.", "where": document.place(key[:-1])}
    if fault["type"] == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ")
        guess = nearest(fault["input"], choices.split(", ")) if isinstance(fault["input"], str) else None
        detail = f"expected one of {choices}" + (f" — did you mean '{guess}'?" if guess else "")
        return {"what": f"The key '{name}' is {kind_of(fault['input'])}.", "where": where, "detail": detail}
    got = fault["input"]
    expected = _EXPECTED.get(fault["type"], fault["msg"].removeprefix("expected "))
    is_number = context.get("is_number", isinstance(got, int | float))
    quotes = "Put it in quotes." if expected == "text" and is_number else None
    what = f"The key '{name}' is {context.get('kind') or kind_of(got)}."
    return {"what": what, "where": where, "detail": f"expected {expected}", "action": quotes}


def _known_keys(key: Key) -> str:
    """The keys that the section at `key[:-1]` takes, nearest named."""
    from layerdiff.config.models import Config

    section: Any = Config
    for part in key[:-1]:
        hint = typing.get_type_hints(section)[str(part)] if _is_section(section) else typing.get_args(section)[-1]
        section = _container(hint)
    return known_names("known keys", str(key[-1]), section.model_fields if _is_section(section) else ())


def _container(hint: Any) -> Any:
    """The section, or the mapping of sections, in a field's type: without None and other alternatives."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if _is_section(part) or typing.get_origin(part) is dict)
    return hint


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not Section
