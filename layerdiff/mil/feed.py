"""Checks what a caller gives to a model against what the model declares.

Allowed conversions keep the value: another width of the same kind (float64 → float32, int64 → int32), if
every value fits. Anything else is refused with the tensor's name and both sides in `float32[1, 188, 640]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdiff.errors import FeedError, known_names
from layerdiff.mil.features import TensorSpec
from layerdiff.mil.program import TensorType

KINDS = {"f": "float", "i": "integer", "u": "integer", "b": "boolean"}
"""numpy's kind characters, as far as models take them."""


def check_names(given: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Raises FeedError if something is given that the model does not take."""
    known = list(known)
    for name in given:
        if name not in known:
            raise FeedError(
                f"the model has no input '{name}'.", where=where, detail=known_names("its inputs", name, known)
            )


def checked(
    feed: Mapping[str, Any], specs: Mapping[str, TensorSpec], needed: Iterable[str], *, where: str
) -> dict[str, NDArray[Any]]:
    """The needed inputs as arrays of the dtype of their spec.

    Args:
        feed: input name → array, or anything numpy makes an array of.
        specs: what the model declares, with the dtypes that callers give.
        needed: the inputs to take.
        where: the package and function, for messages.

    Raises:
        FeedError: one is missing, unknown, or of another dtype or shape.
    """
    check_names(feed, specs, where=where)
    return {name: _one(feed, specs[name], where) for name in needed}


def _one(feed: Mapping[str, Any], spec: TensorSpec, where: str) -> NDArray[Any]:
    if spec.name in feed:
        array = _array(feed[spec.name], spec, where)
        if not spec.accepts(array.shape):
            raise _refused(f"the input '{spec.name}' has another shape.", spec, array, where)
        return _converted(array, spec, where)
    if spec.optional and spec.default is not None:
        return np.full(spec.smallest, spec.default, dtype=spec.dtype)
    raise FeedError(
        f"the input '{spec.name}' is missing.",
        where=where,
        detail=f"expected {spec}; given: {', '.join(feed) or 'nothing'}",
    )


def _array(value: Any, spec: TensorSpec, where: str) -> NDArray[Any]:
    array = _as_array(spec.name, value, expected=spec, where=where)
    expected = KINDS[np.dtype(spec.dtype).kind]
    if KINDS.get(array.dtype.kind) != expected:
        raise _refused(f"the input '{spec.name}' is not of a {expected} dtype.", spec, array, where)
    return array


def _as_array(name: str, value: Any, *, expected: TensorSpec | TensorType, where: str) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a device or with a gradient
        raise FeedError(
            f"what is given for '{name}' is no array.",
            where=where,
            detail=f"expected {expected}, got {type(value).__name__}: {error}",
        ) from error


def _converted(array: NDArray[Any], spec: TensorSpec, where: str) -> NDArray[Any]:
    target = np.dtype(spec.dtype)
    if array.dtype == target or np.can_cast(array.dtype, target):
        return array.astype(target, copy=False)
    if outside := _outside(array, target):
        raise _refused(f"the input '{spec.name}' holds values that do not fit {target}: {outside}.", spec, array, where)
    return array.astype(target)


def _outside(array: NDArray[Any], target: np.dtype[Any]) -> str:
    """The range of the finite values if it is not inside that of `target`, else nothing."""
    limits = np.finfo(target) if target.kind == "f" else np.iinfo(target)
    finite = array[np.isfinite(array)] if target.kind == "f" else array
    if not finite.size or (limits.min <= finite.min() and finite.max() <= limits.max):
        return ""
    return f"{finite.min()} … {finite.max()}"


def _refused(what: str, spec: TensorSpec, array: NDArray[Any], where: str) -> FeedError:
    allowed = f"; allowed shapes: {', '.join(map(str, map(list, spec.enumerated)))}" if spec.enumerated else ""
    return FeedError(what, where=where, detail=f"expected {spec}, got {array.dtype}{list(array.shape)}{allowed}")


def checked_injection(name: str, value: Any, type_: TensorType, *, where: str) -> NDArray[Any]:
    """A value for an inner tensor: any width of the kind that the program declares, of a shape it allows.

    Raises:
        FeedError: the kind or the shape is another, or an integer does not fit.
    """
    array = _as_array(name, value, expected=type_, where=where)
    floats = type_.dtype.startswith(("float", "bfloat"))
    expected = "f" if floats else "b" if type_.dtype == "bool" else "iu"
    shape = type_.shape
    fits = shape is None or (
        len(shape) == array.ndim and all(d is None or d == n for d, n in zip(shape, array.shape, strict=True))
    )
    if array.dtype.kind in expected and fits and not (expected == "iu" and _outside(array, np.dtype(type_.dtype))):
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    raise FeedError(
        f"the value given for the tensor '{name}' does not fit.",
        where=where,
        detail=f"expected {type_}, got {array.dtype}{list(array.shape)}",
    )
