"""Walks one clip through the reference and, beside it, through every candidate.

The reference goes first: audio → preprocessor → encoder → prediction network along the greedy path →
joint at the path's points. Each of its calls is handed on with what it captured, so that a candidate
can be asked the same question at once and nothing of an earlier clip is kept.

A candidate is fed by the reference where it has no component before it, and by its own components
where it has (`follow`): its error then adds up as it would in an app. `own_values` asks the other
question: what does a stage do when it is fed the reference's tensors?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from layerdiff.errors import EngineError, FeedError
from layerdiff.records import COMPONENTS, Call, Captured, Clip, Component, Points
from layerdiff.sources.calls import encoder_call, encoder_frames, preprocessor_call
from layerdiff.sources.coreml_portable import PortableSource, origin

if TYPE_CHECKING:
    from layerdiff.mil import Model
    from layerdiff.records import Array
    from layerdiff.sources import Source

POINTS_PER_CALL = 1024
"""The joint runs on at most so many points at once: 32 MiB a tensor at 8198 logits."""


class Reference(Protocol):
    """What the walk needs of a reference beyond a `Source`."""

    def run(self, call: Call, tensors: Sequence[str], *, inject: Mapping[str, Array] | None = None) -> Captured: ...

    def initial_state(self) -> tuple[Array, Array]:
        """The prediction network's states before the first step, float32[L, 1, H] each."""


FindPoints = Callable[["Array"], Points]
"""float32[T, D] encoder frames → the points at which the joint is evaluated."""


@dataclass(frozen=True)
class Pair:
    """A stage's tensors on both sides, within one component."""

    stage: str
    reference: str | None
    """None for a slice of another stage: the reference has no tensor of that shape."""
    candidate: str


# ------------------------------------------------------------------ reference


def walk_reference(
    reference: Reference,
    clip: Clip,
    *,
    tensors: Mapping[Component, Sequence[str]],
    until: Component,
    find_points: FindPoints,
) -> Iterator[tuple[Call, Captured]]:
    """The reference's calls for one clip, in order, each with what it captured.

    Args:
        reference: the model that is taken to be right.
        clip: the audio.
        tensors: component → names of the tensors to capture in it.
        until: the last component to run.
        find_points: called once, after the encoder.
    """
    call = preprocessor_call(clip.samples)
    captured = reference.run(call, tensors.get("preprocessor", ()))
    yield call, captured
    if until == "preprocessor":
        return
    call = encoder_call(captured)
    captured = reference.run(call, tensors.get("encoder", ()))
    yield call, captured
    if until == "encoder":
        return
    frames = encoder_frames(captured)
    points = find_points(frames)
    call, captured = decode_steps(reference, points, tensors.get("decoder", ()))
    yield call, captured
    if until == "decoder":
        return
    for part in chunks(points):
        call = joint_call(frames, captured.outputs["decoder"], part)
        yield call, reference.run(call, tensors.get("joint", ()))


def decode_steps(reference: Reference, points: Points, tensors: Sequence[str]) -> tuple[Call, Captured]:
    """The prediction network along the path's tokens; the call holds the reference's states of every step."""
    steps = len(points.tokens)
    h, c = reference.initial_state()
    call = Call(
        "decoder",
        {
            "targets": points.tokens[:, None].astype(np.int32),
            "target_length": np.ones(steps, np.int32),
            "h_in": np.repeat(h[None], steps, axis=0),
            "c_in": np.repeat(c[None], steps, axis=0),
        },
        points=points,
        chained=True,
    )
    captured = reference.run(call, tensors)
    states = {
        "h_in": np.concatenate([h[None], captured.outputs["h_out"][:-1]]),
        "c_in": np.concatenate([c[None], captured.outputs["c_out"][:-1]]),
    }
    return replace(call, feed={**call.feed, **states}, chained=False), captured


def joint_call(frames: Array, steps: Array, points: Points) -> Call:
    """The joint at `points`: encoder float32[N, D, 1] and prediction network float32[N, P, 1], row by row."""
    feed = {"encoder": frames[points.frames][:, :, None], "decoder": steps[points.steps]}
    return Call("joint", feed, points=points)


def chunks(points: Points) -> Iterator[Points]:
    """The points in pieces that fit in memory."""
    for start in range(0, len(points), POINTS_PER_CALL):
        rows = slice(start, start + POINTS_PER_CALL)
        yield replace(points, frames=points.frames[rows], steps=points.steps[rows])


# ------------------------------------------------------------------ candidate


@dataclass
class CandidateWalk:
    """One candidate on its way through a clip; remembers only what its components gave for this clip."""

    source: Source
    _upstream: dict[Component, Captured | None] = field(default_factory=dict)
    """None for a component that could not be run on this clip."""

    def run(self, call: Call, tensors: Sequence[str]) -> Captured:
        """The candidate's answer to the reference's call, fed by its own components where it has them.

        Raises:
            FeedError: the clip doesn't fit into the package, or the candidate's own earlier output is missing
                or doesn't reach as far as the reference's.
        """
        for component in COMPONENTS[COMPONENTS.index(call.component) :]:
            self._upstream.pop(component, None)  # of an earlier clip
        self._upstream[call.component] = None
        captured = self.source.run(follow(call, self._upstream), tensors)
        self._upstream[call.component] = captured
        return captured


def follow(call: Call, upstream: Mapping[Component, Captured | None]) -> Call:
    """The reference's call, fed instead by the candidate's own outputs as far as there are any.

    Raises:
        FeedError: one of its components before it gave nothing, or too little.
    """
    own = {name: captured_by(name, upstream) for name in FEEDS.get(call.component, ()) if name in upstream}
    if call.component == "decoder":
        return replace(call, chained=True)
    if call.component == "encoder" and "preprocessor" in own:
        return without_padding(encoder_call(own["preprocessor"]), call, own["preprocessor"])
    if call.component == "joint" and call.points is not None:
        feed = dict(call.feed)
        if "encoder" in own:
            frames = encoder_frames(own["encoder"])
            require_reach(len(frames), call.points.frames, "encoder frames")
            feed["encoder"] = frames[call.points.frames][:, :, None]
        if "decoder" in own:
            feed["decoder"] = own["decoder"].outputs["decoder"][call.points.steps]
        return replace(call, feed=feed)
    return call


FEEDS: Mapping[Component, tuple[Component, ...]] = {"encoder": ("preprocessor",), "joint": ("encoder", "decoder")}
"""Component → those whose outputs it is fed with."""


def captured_by(component: Component, upstream: Mapping[Component, Captured | None]) -> Captured:
    """What a component of the candidate gave for this clip."""
    captured = upstream[component]
    if captured is None:
        raise FeedError(f"the candidate's own {component} could not be run on a clip.")
    return captured


def without_padding(own: Call, call: Call, preprocessor: Captured) -> Call:
    """The encoder's call without the frames that only the padding of the preprocessor's input made."""
    mel, frames = own.feed["mel"], call.feed["mel"].shape[-1]
    return replace(own, feed={**own.feed, "mel": mel[..., :frames]}) if preprocessor.layouts else own


def require_reach(length: int, indices: Array, what: str) -> None:
    """Refuses to go on where the candidate produced less than the reference's path visits."""
    if len(indices) and int(indices.max()) >= length:
        raise FeedError(
            f"the candidate's own {what} end before the reference's path does.",
            detail=f"expected at least {int(indices.max()) + 1}, got {length}",
        )


def own_values(source: PortableSource, call: Call, pairs: Sequence[Pair], reference: Captured) -> dict[str, Array]:
    """What every stage computes when all that comes before it is the reference's.

    Args:
        source: the candidate.
        call: the reference's own call, with the reference's feed.
        pairs: the component's stages.
        reference: what the reference captured for this call.

    Returns:
        Candidate tensor → value; absent where the reference's tensors don't fit into the package. Stages with
        the same tensors before them share a run, which executes only the ops between those and the stages.
    """
    model = source.packages[call.component]
    groups: dict[tuple[str, ...], list[str]] = {}
    given = {
        origin(model, pair.candidate): in_layout(value, model, origin(model, pair.candidate), component=call.component)
        for pair in pairs
        if pair.reference is not None and (value := reference.tensors.get(pair.reference)) is not None
    }
    for pair in pairs:
        before = model.ancestors(pair.candidate) - {origin(model, pair.candidate)}
        groups.setdefault(tuple(sorted(before & given.keys())), []).append(pair.candidate)
    values: dict[str, Array] = {}
    for before_it, wanted in groups.items():
        with suppress(FeedError, EngineError):  # the candidate itself has run; only this question has no answer
            values |= source.run(call, wanted, inject={name: given[name] for name in before_it}).tensors
    return values


def in_layout(value: Array, model: Model, name: str, *, component: Component) -> Array:
    """A reference tensor as the package declares it, as far as that is the same tensor.

    Surplus single axes are dropped and others moved, lengths become integers, and the frames of a
    preprocessor or encoder that has a fixed window are filled up with zeros.
    """
    declared = model.graph.types[name]
    shape = declared.shape or ()
    if "int" in declared.dtype:
        value = value.astype(declared.dtype)
    while value.ndim > len(shape) and 1 in value.shape[1:]:
        value = np.squeeze(value, axis=1 + value.shape[1:].index(1))
    lengths = [length for length in shape[1:] if length is not None]
    if len(lengths) < len(shape) - 1 or value.ndim != len(shape):
        return value
    if [length for length in value.shape[1:] if length != 1] == [length for length in lengths if length != 1]:
        return value.reshape(len(value), *lengths)
    missing = [large - small for small, large in zip(value.shape[1:], lengths, strict=True)]
    if component in ("preprocessor", "encoder") and min(missing, default=0) >= 0:
        return np.pad(value, [(0, 0), *((0, width) for width in missing)])
    return value
