"""Checks what a caller gives to a model against what the model declares, and fills in what is optional.

Allowed conversions keep the value: another width of the same kind (float64 → float32, int64 → int32), if
every value fits. Anything else is refused with the tensor's name and both sides in `float32[1, 188, 640]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdiff.errors import FeedError, known_names
from layerdiff.mil.features import TensorSpec
from layerdiff.mil.images import is_image, pixels
from layerdiff.mil.program import TensorType

KINDS = {"f": "a float", "i": "an integer", "u": "an integer", "b": "a boolean"}
"""numpy's kind characters, as far as models take them."""

LARGEST_FILL_BYTES = 4 * 2**30
"""How large a tensor may be that is made here, for an input that is not given or for a state."""


def require_mapping(given: Any, what: str, *, where: str) -> None:
    """Raises FeedError unless it maps names to values."""
    if not isinstance(given, Mapping):
        raise FeedError(
            f"{what} is a '{type(given).__name__}', not a mapping of names to values.",
            where=where,
            action='give a dictionary, as {"x": array}',
        )


def check_names(given: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Raises FeedError if something is given that the model does not take, or no mapping at all."""
    require_mapping(given, "the feed", where=where)
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
    value = feed.get(spec.name)
    if type(value) is np.ndarray and value.dtype == spec.dtype and spec.kind != "image" and spec.accepts(value.shape):
        return value  # as it should be: the common case, which a decoder's every step is
    if spec.name in feed:
        array = _array(feed[spec.name], spec, where)
        if not spec.shape and array.shape == (1,):  # Core ML has no tensors without axes: it describes them as [1]
            array = array.reshape(())
        if not spec.accepts(array.shape):
            raise _refused(f"the input '{spec.name}' has another shape.", spec, array, where)
        return _converted(array, spec, where)
    if spec.optional and spec.default is not None:
        return filled(spec, spec.default, where=where)
    raise FeedError(
        f"the input '{spec.name}' is missing.",
        where=where,
        detail=f"expected {spec}; given: {', '.join(feed) or 'nothing'}",
    )


def filled(spec: TensorSpec, value: float, *, where: str) -> NDArray[Any]:
    """A tensor of the default shape, every element of which is `value`.

    Raises:
        FeedError: it would be larger than `LARGEST_FILL_BYTES`.
    """
    shape, dtype = spec.default_shape, np.dtype(spec.dtype)
    size_bytes = prod(shape) * dtype.itemsize
    if size_bytes > LARGEST_FILL_BYTES:
        raise FeedError(
            f"'{spec.name}' is not given, and filling it with {value:g} would take {size_bytes} bytes.",
            where=where,
            detail=f"expected at most {LARGEST_FILL_BYTES} bytes, got {dtype}{list(shape)}",
            action=f"give '{spec.name}', of a shape that it allows: {spec}",
        )
    return np.full(shape, value, dtype=dtype)


def _array(value: Any, spec: TensorSpec, where: str) -> NDArray[Any]:
    if spec.kind == "image":
        return pixels(value, spec, where=where).astype(spec.dtype, copy=False)
    if is_image(value):
        raise FeedError(f"'{spec.name}' takes no image.", where=where, detail=f"expected {spec}, got {value.mode}")
    array = _as_array(spec.name, value, expected=spec, where=where)
    expected = KINDS[np.dtype(spec.dtype).kind]
    if KINDS.get(array.dtype.kind) != expected:
        raise _refused(
            f"the input '{spec.name}' is not of {expected} dtype.", spec, array, where, f"give it as {spec.dtype}"
        )
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
        what = f"the input '{spec.name}' holds values that do not fit {target}: {outside}."
        limits = np.finfo(target) if target.kind == "f" else np.iinfo(target)
        raise _refused(what, spec, array, where, f"clip them to {limits.min} … {limits.max}")
    return array.astype(target)


def _outside(array: NDArray[Any], target: np.dtype[Any]) -> str:
    """The range of the finite values if it is not inside that of `target`, else nothing."""
    limits = np.finfo(target) if target.kind == "f" else np.iinfo(target)
    finite = array[np.isfinite(array)] if target.kind == "f" else array
    if not finite.size or (limits.min <= finite.min() and finite.max() <= limits.max):
        return ""
    return f"{finite.min()} … {finite.max()}"


def _refused(what: str, spec: TensorSpec, array: NDArray[Any], where: str, action: str = "") -> FeedError:
    allowed = f"; allowed shapes: {', '.join(map(str, map(list, spec.enumerated)))}" if spec.enumerated else ""
    detail = f"expected {spec}, got {array.dtype}{list(array.shape)}{allowed}\n{spec.misfit(array.shape)}"
    return FeedError(what, where=where, detail=detail.rstrip(), action=action)


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


def checked_state(
    state: Mapping[str, Any], specs: Mapping[str, TensorSpec], *, where: str
) -> Mapping[str, NDArray[Any]]:
    """The state that a caller gives, which is updated in place.

    Raises:
        FeedError: one is missing or unknown, or is no writable array of the declared shape and kind.
    """
    for name in state:
        if name not in specs:
            detail = known_names("its states", name, specs) if specs else "it keeps none"
            raise FeedError(f"the model has no state '{name}'.", where=where, detail=detail)
    for name, spec in specs.items():
        array = state.get(name)
        kind = KINDS[np.dtype(spec.dtype).kind]
        writable = array if isinstance(array, np.ndarray) and array.flags.writeable else None
        if writable is None or KINDS.get(writable.dtype.kind) != kind or not spec.accepts(writable.shape):
            got = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
            raise FeedError(
                f"the state '{name}' does not fit.",
                where=where,
                detail=f"expected a writable array {spec}, got {got}",
                action="make it with make_state()",
            )
    return state
