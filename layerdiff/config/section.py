"""What all sections of a configuration have in common, and how one of their rules is reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from layerdiff.config.document import kind_of

REFUSED = "layerdiff"
"""The pydantic error type of the rules below; its context holds `what`, `key`, `detail` and `action`."""

WRONG_KIND = "layerdiff_kind"
"""The error type of a value of a kind that the key does not take; its context is that of `wrong_kind`."""

Number = Annotated[float, Field(allow_inf_nan=False)]


def refuse(
    what: str, *, key: tuple[str | int, ...] = (), detail: str | None = None, action: str | None = None
) -> PydanticCustomError:
    """The error of a rule that is broken at `key`, counted from the model that holds the rule."""
    return PydanticCustomError(REFUSED, "{what}", {"what": what, "key": key, "detail": detail, "action": action})


class Section(BaseModel):
    """What all parts of a configuration have in common: frozen, typed strictly, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _absent_without_value(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if value is not None or key not in cls.model_fields}


def wrong_kind(got: object, *, expected: str, key: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """The error of a value that is not of the kind that the key takes."""
    # pydantic writes out everything in the context, and the value may be of any size
    kind, is_number = kind_of(got), isinstance(got, int | float)
    context = {"kind": kind, "is_number": is_number, "expected": expected, "key": key}
    return PydanticCustomError(WRONG_KIND, "expected {expected}", context)


def one_of(*choices: type) -> Callable[[Any], Any]:
    """A validator that names the kinds of value a key takes, where pydantic would name each alternative apart."""
    expected = " or ".join(_CHOICES[choice] for choice in choices)

    def check(value: Any) -> Any:
        if not isinstance(value, choices) or not value or (isinstance(value, str) and not value.strip()):
            raise wrong_kind(value, expected=expected)
        parts = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
        for name, part in parts:
            if not isinstance(part, str) or not part.strip():
                raise wrong_kind(part, expected="text", key=(name,))
        return value

    return check


_CHOICES: dict[type, str] = {str: "text", list: "a list of texts", dict: "a mapping"}
