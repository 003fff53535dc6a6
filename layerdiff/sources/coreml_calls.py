"""How one call becomes the predictions that a Core ML package declares, and their answers one again.

A `Call` is batched along a leading axis of steps or points; a package may declare a batch of one, a
single step, or a fixed window of frames. `run_call` makes the feeds, hands each to `predict`, whoever
executes it, and puts the answers in the call's order and layout. It holds no state between calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from layerdiff.errors import ConfigError, FeedError, known_names
from layerdiff.records import Captured

if TYPE_CHECKING:
    from layerdiff.mil import Model
    from layerdiff.records import Array, Call

STATES = {"h_in": "h_out", "c_in": "c_out"}
"""The decoder's state inputs → the outputs that feed them in the next step."""


class Predict(Protocol):
    """One prediction: a feed, the tensors to give back, and tensors given instead of computed."""

    def __call__(
        self, feed: Mapping[str, Array], fetch: Sequence[str], inject: Mapping[str, Array], /
    ) -> Mapping[str, Array]: ...


@dataclass(frozen=True)
class Slot:
    """One prediction of the joint: its feed and the rows of the call that it answers."""

    feed: Mapping[str, Array]
    rows: slice
    """Rows of the call along its leading axis."""
    window: int = 0
    """Length of the package's frame axis if the rows lie along it; 0 if they are the batch."""


def run_call(
    call: Call, tensors: Sequence[str], *, model: Model, predict: Predict, inject: Mapping[str, Array] | None = None
) -> Captured:
    """One call through `predict`, in the layout that the package declares.

    Args:
        call: what to run.
        tensors: names of the tensors to capture besides the package's outputs.
        model: the opened package; only what it declares is used.
        predict: runs one prediction.
        inject: tensor name → value in the call's layout, given instead of computed.

    Raises:
        ConfigError: the package has inputs that the component's contract doesn't know.
        FeedError: an input is longer than the package's window, or has another rank.
    """
    require_contract_inputs(call, model)
    call = replace(call, feed={name: value for name, value in call.feed.items() if name in model.inputs})
    fetch = list(dict.fromkeys([*tensors, *model.outputs]))
    layouts: dict[str, str] = {}
    if call.component == "decoder":
        values = _run_steps(call, fetch, model=model, predict=predict, inject=inject or {})
    elif call.component == "joint":
        values = _run_points(call, fetch, model=model, predict=predict, inject=inject or {})
    else:
        feed, padded = pad_to_declared(call.feed, model)
        values = dict(predict(feed, fetch, inject or {}))
        layouts = dict.fromkeys(fetch, padded) if padded else {}
    return Captured(
        outputs={name: values[name] for name in model.outputs if name in values},
        tensors={name: values[name] for name in tensors if name in values},
        layouts=layouts,
    )


def require_contract_inputs(call: Call, model: Model) -> None:
    """Refuses a package whose required inputs are not those of the component."""
    for name, spec in model.inputs.items():
        if name not in call.feed and not spec.optional:
            raise ConfigError(
                f"the package has an input '{name}' that a {call.component} does not get.",
                where=str(model.path),
                detail=known_names(f"a {call.component} is fed", name, call.feed),
                action="Check that the package is of this component, or name its inputs so when converting.",
            )


# ------------------------------------------------------------------ preprocessor, encoder


def admits(dim: Any, length: int) -> bool:
    """Whether a declared dimension, an int or a (lower, upper) pair, admits `length`."""
    if isinstance(dim, int):
        return dim == length
    return bool(dim[0] <= length and (dim[1] is None or length <= dim[1]))


def pad_to_declared(feed: Mapping[str, Array], model: Model) -> tuple[dict[str, Array], str]:
    """The feed with every axis that is shorter than the package's window filled up with zeros.

    Returns:
        The feed, and what was padded, in words.

    Raises:
        FeedError: an input is longer than the package's window.
    """
    padded: dict[str, Array] = {}
    notes: list[str] = []
    for name, value in feed.items():
        shape = model.inputs[name].shape
        widths = [0] * value.ndim
        if len(shape) == value.ndim:
            widths = [_missing(name, axis, value.shape[axis], dim) for axis, dim in enumerate(shape)]
        padded[name] = np.pad(value, [(0, width) for width in widths]) if any(widths) else value
        notes += [
            f"{name} padded from {value.shape[axis]} to {value.shape[axis] + width} along axis {axis}"
            for axis, width in enumerate(widths)
            if width
        ]
    return padded, "; ".join(notes)


def _missing(name: str, axis: int, length: int, dim: Any) -> int:
    """How many elements the window of a declared dimension has beyond `length`."""
    if admits(dim, length):
        return 0
    lower, upper = (dim, dim) if isinstance(dim, int) else dim
    if length < lower:
        return int(lower - length)
    raise FeedError(
        f"'{name}' has {length} elements along axis {axis}, more than the package takes.",
        detail=f"expected at most {upper}, got {length}",
        action="Give shorter audio, or convert the package with a longer window.",
    )


# ------------------------------------------------------------------ decoder


def _run_steps(
    call: Call, fetch: Sequence[str], *, model: Model, predict: Predict, inject: Mapping[str, Array]
) -> dict[str, Array]:
    """The prediction network, one step after the other."""
    ranks = {tensor.name: len(tensor.shape or ()) for tensor in model.tensors}
    results: list[Mapping[str, Array]] = []
    for u in range(len(call.feed["targets"])):
        feed = {name: value[u] if name in STATES else value[u : u + 1] for name, value in call.feed.items()}
        if call.chained and results:
            feed |= {name: results[-1][state] for name, state in STATES.items() if state in results[-1]}
        given = {name: value[u : u + 1] if value.ndim == ranks[name] else value[u] for name, value in inject.items()}
        results.append(predict(feed, fetch, given))
    return {name: _stack(name, [np.asarray(result[name]) for result in results]) for name in results[0]}


def _stack(name: str, steps: list[Array]) -> Array:
    """A leading axis of steps: the batch of one is it already, states and other tensors get a new one."""
    batched = name not in STATES.values() and steps[0].ndim > 0 and steps[0].shape[0] == 1
    return np.concatenate(steps) if batched else np.stack(steps)


# ------------------------------------------------------------------ joint


def _run_points(
    call: Call, fetch: Sequence[str], *, model: Model, predict: Predict, inject: Mapping[str, Array]
) -> dict[str, Array]:
    """The joint at every point of the call."""
    shapes = {tensor.name: tensor.shape or () for tensor in model.tensors}
    parts: list[dict[str, Array]] = []
    for slot in joint_slots(call, model, one_by_one=bool(inject)):
        given = {name: window_of(value[slot.rows], slot, shapes[name]) for name, value in inject.items()}
        values = predict(slot.feed, fetch, given)
        parts.append({name: rows_of(np.asarray(value), slot) for name, value in values.items()})
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def joint_slots(call: Call, model: Model, *, one_by_one: bool = False) -> Iterator[Slot]:
    """The predictions that evaluate the joint at the call's points.

    A flexible batch takes all points at once. Otherwise consecutive points that share a step of the
    prediction network fill the frame axis of `encoder` [1, D, T], as far as the window reaches.

    Args:
        call: of the joint.
        model: only the shapes of its inputs are used.
        one_by_one: whether a flexible frame axis is given one frame at a time.

    Raises:
        FeedError: the package's inputs have another rank.
    """
    encoder, decoder = call.feed["encoder"], call.feed["decoder"]
    shapes = [model.inputs[name].shape for name in ("encoder", "decoder")]
    if any(len(shape) != 3 for shape in shapes):
        raise FeedError(
            "the package's inputs 'encoder' and 'decoder' are not of rank 3.",
            where=str(model.path),
            detail=f"expected float32[B, D, T] and float32[B, P, 1], got the ranks {[len(shape) for shape in shapes]}",
        )
    if all(admits(shape[0], len(encoder)) and admits(shape[2], 1) for shape in shapes):
        yield Slot(call.feed, slice(0, len(encoder)))
        return
    dim = shapes[0][2]
    shortest, longest = (dim, dim) if isinstance(dim, int) else (max(dim[0], 1), dim[1] or len(encoder))
    longest = 1 if one_by_one and shortest < longest else longest
    steps = np.arange(len(encoder)) if call.points is None else call.points.steps
    for rows in runs_of_equal(steps, longest=longest):
        width = rows.stop - rows.start
        block = np.zeros((1, encoder.shape[1], max(width, shortest)), encoder.dtype)
        block[0, :, :width] = encoder[rows, :, 0].T
        yield Slot({"encoder": block, "decoder": decoder[rows.start : rows.start + 1]}, rows, block.shape[2])


def runs_of_equal(values: Sequence[int] | Array, *, longest: int) -> Iterator[slice]:
    """Slices of consecutive equal values, none longer than `longest`."""
    start = 0
    for end in range(1, len(values) + 1):
        if end == len(values) or values[end] != values[start] or end - start == longest:
            yield slice(start, end)
            start = end


def rows_of(value: Array, slot: Slot) -> Array:
    """A tensor of one prediction as rows of the call: [1, T, …] becomes [rows, 1, …].

    A tensor without a frame axis, as the prediction network's projection, belongs to every row alike.
    """
    if not slot.window:
        return value
    count = slot.rows.stop - slot.rows.start
    axis = frame_axis(value.shape, slot)
    if axis is None:
        return np.repeat(value, count, axis=0)
    return np.concatenate([np.take(value, [frame], axis=axis) for frame in range(count)])


def window_of(rows: Array, slot: Slot, shape: Sequence[int | None]) -> Array:
    """Rows of a tensor as one prediction computes it, the inverse of `rows_of`: [rows, 1, …] becomes [1, T, …]."""
    if not slot.window:
        return rows
    axis = frame_axis(shape, slot)
    if axis is None:
        return rows[:1]
    joined = np.concatenate(np.split(rows, len(rows)), axis=axis)
    return np.pad(joined, [(0, slot.window - len(rows) if k == axis else 0) for k in range(joined.ndim)])


def frame_axis(shape: Sequence[int | None], slot: Slot) -> int | None:
    """The first axis behind the batch that is as long as the window; None if there is none."""
    return next((axis for axis in range(1, len(shape)) if shape[axis] == slot.window), None)
