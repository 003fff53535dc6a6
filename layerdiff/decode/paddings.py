"""The same utterance at other lengths: with padding behind it, silence before it, cut in pieces, and once more.

What a component gives for the frames of an utterance must not depend on the padding behind it; and reference and
candidate must agree at every length as well as at the one that was converted with. Errors are looked at frame by frame:

- a length that was baked in shows in the last frames of longer audio;
- a missing mask lets padding through, one at the wrong resolution does so behind some lengths only;
- a state that is kept shows when the same is asked once more, one that drifts along the prediction network's steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from layerdiff.decode.greedy import Path
    from layerdiff.decode.parts import Parts, TransducerParts
    from layerdiff.records import Array

Kind = Literal["as it is", "padded", "longer", "offset", "cut", "again"]

TIMES = 4.0
"""An error so many times larger than that of the utterance as it is counts as caused by what was changed."""
FLOOR = 1e-5
"""Relative errors below this are float32 rounding."""
LONG_FRAMES = 25
"""Encoder frames of a long padding: two seconds."""
NOTABLE = 1e-2
"""A relative error of the prediction network below this is what float16 costs."""
TAIL_FRAMES = 4
"""Frames that a mask at the resolution of the mel can leak into: the reach of the subsampling's convolutions."""


@dataclass(frozen=True)
class Variation:
    """One way of presenting an utterance."""

    name: str
    kind: Kind
    samples: Array
    """float32[S]"""
    length: int
    """Samples that count; the rest is padding."""


@dataclass(frozen=True)
class FrameErrors:
    """Relative errors of encoder frames: of each, over the typical size of a frame of the reference."""

    variation: str
    kind: Kind
    reference_frames: int
    candidate_frames: int
    whole: float
    """Of all frames together."""
    tail: float
    """The largest of the last `TAIL_FRAMES` frames."""
    head: float
    """The largest of the others."""
    by_frame: tuple[float, ...]
    own_change: float = 0.0
    """`padded` and `again`: by how much the candidate's frames differ from its own without padding."""
    reference_change: float = 0.0
    """The same of the reference."""


@dataclass(frozen=True)
class LengthFinding:
    """A cause that the errors by frame point to."""

    cause: Literal["baked_length", "mask_missing", "mask_resolution", "state_kept", "state_drift", "length_rounding"]
    variation: str
    summary: str


def variations(samples: Array, *, frame_samples: int, hop_samples: int) -> Iterator[Variation]:
    """The ways in which an utterance is presented, itself first.

    Padding is tried behind lengths that end at every place within an encoder frame: a mask at the encoder's resolution
    lets nothing through where a length ends with a frame.

    Args:
        samples: float32[S] of the utterance.
        frame_samples: samples per encoder frame.
        hop_samples: samples per mel frame.
    """
    count = len(samples)
    yield Variation("as it is", "as it is", samples, count)
    yield _padded(samples, LONG_FRAMES * frame_samples, f"padded by {LONG_FRAMES} frames")
    for less in range(frame_samples // hop_samples):
        shorter = f"{less} mel frames shorter, " if less else ""
        yield _padded(samples[: count - less * hop_samples], frame_samples, f"{shorter}padded by a frame")
    for factor in (2, 3):
        longer = np.tile(samples, factor)
        yield Variation(f"{factor} times over", "longer", longer, len(longer))
    for hops, name in ((1, "a mel frame"), (3, "three mel frames"), (frame_samples // hop_samples, "an encoder frame")):
        moved = np.pad(samples, (hops * hop_samples, 0))
        yield Variation(f"later by {name}", "offset", moved, len(moved))
    for start, stop, name in ((0, count // 2, "first half"), (count // 4, 3 * count // 4, "middle")):
        piece = samples[start:stop]
        yield Variation(f"the {name}", "cut", piece, len(piece))
    yield Variation("once more", "again", samples, count)


def _padded(samples: Array, width: int, name: str) -> Variation:
    return Variation(name, "padded", np.pad(samples, (0, width)), len(samples))


def encoded(parts: Parts, variation: Variation) -> Array:
    """float32[T, D] what a model's encoder gives for it."""
    return parts.encoder(parts.preprocessor(variation.samples, variation.length))


def frame_errors(reference: Parts, candidate: Parts, given: Sequence[Variation]) -> list[FrameErrors]:
    """Every variation through both models; the first one is the utterance as it is."""
    plain: dict[int, tuple[Array, Array]] = {}
    found = []
    for variation in given:
        ours, theirs = encoded(reference, variation), encoded(candidate, variation)
        changes = (0.0, 0.0)
        if variation.kind in ("padded", "again"):
            length = variation.length
            if length not in plain:
                alone = Variation("", "cut", variation.samples[:length], length)
                plain[length] = encoded(reference, alone), encoded(candidate, alone)
            changes = (change(plain[length][0], ours), change(plain[length][1], theirs))
        errors = by_frame(ours, theirs)
        found.append(
            FrameErrors(
                variation.name,
                variation.kind,
                len(ours),
                len(theirs),
                whole=float(np.sqrt(np.mean(np.square(errors)))) if len(errors) else 0.0,
                tail=float(errors[-TAIL_FRAMES:].max(initial=0.0)),
                head=float(errors[:-TAIL_FRAMES].max(initial=0.0)),
                by_frame=tuple(errors.tolist()),
                own_change=changes[1],
                reference_change=changes[0],
            )
        )
    return found


def by_frame(reference: Array, candidate: Array) -> Array:
    """float64[T]; the error of every frame that both have, over the root mean square of the reference's frames."""
    length = min(len(reference), len(candidate))
    ours, theirs = reference[:length].astype(np.float64), candidate[:length].astype(np.float64)
    size = np.sqrt(np.mean(np.square(ours))) if ours.size else 1.0
    errors: Array = np.sqrt(np.mean(np.square(theirs - ours), axis=1)) / (size or 1.0)
    return errors


def change(plain: Array, other: Array) -> float:
    """The largest error of a frame of `other` against the same frame of `plain`."""
    return float(by_frame(plain, other).max(initial=0.0))


# ------------------------------------------------------------------ the prediction network


def step_errors(reference: TransducerParts, candidate: TransducerParts, path: Path) -> tuple[float, ...]:
    """The relative error of every step of the prediction network along the reference's tokens."""
    ours, theirs = (predictions(side, path.points.tokens.tolist()) for side in (reference, candidate))
    return tuple(by_frame(ours, theirs).tolist())


def predictions(parts: TransducerParts, tokens: Sequence[int]) -> Array:
    """float32[U, P] along a sequence of tokens."""
    found, state = [], None
    for token in tokens:
        prediction, state = parts.decoder(token, state)
        found.append(prediction)
    return np.stack(found)


# ------------------------------------------------------------------ what it means


def length_findings(errors: Sequence[FrameErrors], steps: Sequence[float]) -> list[LengthFinding]:
    """The causes that the errors point to: a mask's first, as it explains errors at other lengths too."""
    usual = max(errors[0].whole, errors[0].tail, errors[0].head, FLOOR)
    found = [finding for rule in (_mask, _length, _kept) if (finding := rule(errors, usual)) is not None]
    if any(finding.cause.startswith("mask") for finding in found):
        found = [finding for finding in found if finding.cause != "baked_length"]
    drift = _drift(steps)
    return found + ([LengthFinding("state_drift", "prediction network", drift)] if drift else [])


def _is_large(value: float, usual: float) -> bool:
    return value > max(TIMES * usual, FLOOR)


def _mask(errors: Sequence[FrameErrors], usual: float) -> LengthFinding | None:
    """Padding changes frames: behind every length, or only behind those that end within an encoder frame."""
    padded = [error for error in errors if error.kind == "padded"]
    bad = [error for error in padded if _is_large(error.own_change, max(usual, error.reference_change))]
    if not bad:
        return None
    worst = max(bad, key=lambda error: error.own_change)
    said = (
        f"padding changes its frames by up to {worst.own_change:.2g}, the reference's by {worst.reference_change:.2g}"
    )
    if len(bad) == len(padded):
        return LengthFinding("mask_missing", worst.variation, f"{said}, behind every length")
    count = f"{len(bad)} of {len(padded)}"
    return LengthFinding("mask_resolution", worst.variation, f"{said}, but only behind {count} lengths")


def _length(errors: Sequence[FrameErrors], usual: float) -> LengthFinding | None:
    """Other lengths give another number of frames, or their last frames are off."""
    for error in errors:
        missing = error.reference_frames - error.candidate_frames
        said = f"it gives {error.candidate_frames} frames, the reference {error.reference_frames}"
        if abs(missing) > 1:
            return LengthFinding("baked_length", error.variation, said)
        if error.kind in ("longer", "offset", "cut") and _is_large(error.tail, max(usual, error.head)):
            said = f"the last frames are off by {error.tail:.2g}, the others by {error.head:.2g}"
            return LengthFinding("baked_length", error.variation, said)
    for error in errors:
        if error.reference_frames != error.candidate_frames:
            said = f"it gives {error.candidate_frames} frames, the reference {error.reference_frames}"
            return LengthFinding("length_rounding", error.variation, said)
    return None


def _kept(errors: Sequence[FrameErrors], usual: float) -> LengthFinding | None:
    """The same audio once more gives other frames."""
    for error in errors:
        if error.kind == "again" and error.own_change > max(FLOOR, error.reference_change):
            said = f"the same audio once more gives frames that differ by up to {error.own_change:.2g}"
            return LengthFinding("state_kept", error.variation, said)
    return None


def _drift(steps: Sequence[float]) -> str:
    """Whether errors grow along the steps of the prediction network."""
    third = len(steps) // 3
    if third < 2:
        return ""
    first, last = float(np.mean(steps[:third])), float(np.mean(steps[-third:]))
    if last < NOTABLE or last < TIMES * first:
        return ""
    return f"the prediction network's error grows from {first:.2g} to {last:.2g} along {len(steps)} steps"
