"""How the values and errors of a stage are distributed, in one streaming pass, in memory that doesn't grow.

Steps: a compiled loop counts the elements of a block by value, by size and by error (`count`); bins are powers of two
wide, so that a range that turns out to be too narrow is doubled by adding up pairs of bins. Counts are integers: they
are the same for any order of updates. The elements with the largest errors and the errors along the axes of the
tensor that is furthest off are kept beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.metrics.kernels import DEEPEST, OCTAVES, VALUE_BINS, count
from layerdiff.metrics.rows import Array, Floats, blocks, check_pair, matrices
from layerdiff.pictures import Course, Element, Histogram, Magnitude, Profile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerdiff.records import Points

WORST_ELEMENTS = 10
"""How many elements with the largest errors are kept."""
PLACES = 2000
"""More places along an axis are put together."""
FRAME_S = tuple(0.01 * 2**halvings for halvings in range(5))
"""What a place on an axis of time may last, in s: frames of a mel spectrogram, and of what halves them."""
_EMPTY = -(2**30)


@dataclass(frozen=True)
class Axes:
    """The errors along every axis of one tensor."""

    clip: str
    relative_l2_error: float
    shape: tuple[int, ...]
    energies: tuple[tuple[Floats, Floats], ...]
    """Axis → float64[length] of squared errors and of the squared reference, summed over all other axes."""
    frames: Array | None
    """int64[N]: where axis 0 are the points of a joint, their encoder frames."""
    frame_s: float


class ProfileAccumulator:
    """Takes in tensors pair by pair; `result` is a `Profile`."""

    def __init__(self) -> None:
        self._exponent = _EMPTY
        self._values = np.zeros((2, VALUE_BINS), np.int64)
        self._octaves = np.zeros((OCTAVES, OCTAVES), np.int64)
        self._worst: list[Element] = []
        self._axes: Axes | None = None

    def update(self, *, reference: Array, candidate: Array, clip: str, points: Points | None = None) -> None:
        """Takes in one pair of tensors; elements that are not finite on both sides are left out.

        Args:
            reference: floating, integer or bool [...].
            candidate: same shape and kind.
            clip: what the tensors belong to.
            points: what the first axis runs over, if these are the points of a joint.

        Raises:
            ValueError: the shapes or the kinds of dtype differ.
        """
        reference, candidate = np.atleast_1d(reference), np.atleast_1d(candidate)
        check_pair(reference, candidate)
        if not reference.size:
            return
        self._widen(max(_reach(reference), _reach(candidate)))
        rows = np.zeros((3, reference.size // reference.shape[-1]))
        columns = np.zeros((2, reference.shape[-1]))
        start = 0
        for first, second in matrices(reference, candidate):
            for place, _, part in blocks(*first.shape):
                dtype = np.result_type(_wide(first), _wide(second))
                expected, found = (np.ascontiguousarray(side[place, part], dtype) for side in (first, second))
                into = slice(start + place.start, start + place.stop)
                width = math.ldexp(1.0, -self._exponent) * (VALUE_BINS // 2)
                count(expected, found, width, self._values, self._octaves, rows[:, into], columns[:, part])
            start += len(first)
        self._keep_worst(reference, candidate, rows[2], clip, points)
        self._keep_axes(reference.shape, rows, columns, clip, points)

    def _widen(self, exponent: int) -> None:
        """Makes the bins reach from -2^exponent to 2^exponent, if they don't."""
        if self._exponent == _EMPTY:
            self._exponent = exponent
        for _ in range(min(exponent - self._exponent, VALUE_BINS)):
            half = self._values.reshape(2, -1, 2).sum(-1)
            self._values = np.pad(half, ((0, 0), (VALUE_BINS // 4, VALUE_BINS // 4)))
        self._exponent = max(self._exponent, exponent)

    def _keep_worst(
        self, reference: Array, candidate: Array, largest: Floats, clip: str, points: Points | None
    ) -> None:
        """Keeps the elements that are worse than those known; they lie in the rows with the largest errors."""
        known = [abs(element.candidate - element.reference) for element in self._worst]
        least = known[-1] if len(known) == WORST_ELEMENTS else 0.0
        rows = np.argsort(-largest, kind="stable")[:WORST_ELEMENTS]
        for row in rows[largest[rows] > 0]:
            if largest[row] < least:
                break
            lead = np.unravel_index(row, reference.shape[:-1])
            sides = [np.asarray(side[lead], np.float64) for side in (reference, candidate)]
            with np.errstate(invalid="ignore", over="ignore"):
                errors = np.abs(sides[1] - sides[0])
            errors[~np.isfinite(errors)] = -1.0
            is_point = points is not None and len(points) == len(reference)
            time_s = int(points.frames[lead[0]]) * points.frame_s if points is not None and is_point else None
            most = np.argsort(-errors, kind="stable")[:WORST_ELEMENTS]
            for column in most[errors[most] > 0].tolist():
                index = (*map(int, lead), column)
                self._worst.append(Element(clip, index, float(sides[0][column]), float(sides[1][column]), time_s))
        self._worst.sort(key=lambda e: (-abs(e.candidate - e.reference), e.clip, e.index))
        del self._worst[WORST_ELEMENTS:]

    def _keep_axes(
        self, shape: tuple[int, ...], rows: Floats, columns: Floats, clip: str, points: Points | None
    ) -> None:
        total, size = float(rows[0].sum()), float(rows[1].sum())
        error = math.sqrt(total / size) if size else math.inf if total else 0.0
        if self._axes is not None and (-error, clip) >= (-self._axes.relative_l2_error, self._axes.clip):
            return
        lead = rows[:2].reshape(2, *shape[:-1])
        sums = [_along(lead, axis) for axis in range(len(shape) - 1)] + [(columns[0], columns[1])]
        frames = points.frames if points is not None and len(points) == shape[0] else None
        self._axes = Axes(clip, error, shape, tuple(sums), frames, points.frame_s if points is not None else 0.0)

    def result(self, *, seconds: dict[str, float] | None = None) -> Profile | None:
        """The profile; None if nothing was taken in.

        Args:
            seconds: clip → its duration, by which the axis of time is found.
        """
        if self._axes is None:
            return None
        axis = _time_axis(self._axes, (seconds or {}).get(self._axes.clip))
        return Profile(
            values=self._histogram(),
            errors=tuple(_octave_counts(self._octaves.sum(0))),
            magnitudes=tuple(self._magnitudes()),
            course=_course(self._axes, axis),
            worst=tuple(self._timed(element, seconds or {}) for element in self._worst),
        )

    def _timed(self, element: Element, seconds: dict[str, float]) -> Element:
        """The element with where in the audio it lies, which the shape tells where the axis of time is known."""
        axis = None if self._axes is None else _time_axis(self._axes, seconds.get(self._axes.clip))
        if element.time_s is not None or axis is None or axis[1] is None:
            return element
        time_s = element.index[axis[0]] * axis[1]
        return Element(element.clip, element.index, element.reference, element.candidate, time_s)

    def _histogram(self) -> Histogram:
        """The bins between the smallest and the largest value."""
        filled = np.flatnonzero(self._values.sum(0))
        width = math.ldexp(1.0, self._exponent) / (VALUE_BINS // 2)
        if not filled.size:
            return Histogram(0.0, width, (), ())
        first, last = int(filled[0]), int(filled[-1])
        reference, candidate = self._values[:, first : last + 1].tolist()
        return Histogram((first - VALUE_BINS // 2) * width, width, tuple(reference), tuple(candidate))

    def _magnitudes(self) -> Iterator[Magnitude]:
        for octave, counts in enumerate(self._octaves):
            if total := int(counts.sum()):
                bounds = [_upper(counts, share) for share in (0.5, 0.9, 1.0)]
                yield Magnitude(_exponent(octave), total, *bounds)


def _reach(values: Array) -> int:
    """The smallest n with |x| < 2^n for every finite x."""
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low) or not math.isfinite(high):
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return max(-126, math.frexp(low)[1], math.frexp(high)[1])


def _wide(side: Array) -> Any:
    return np.float32 if side.dtype in (np.float16, np.float32) else np.float64


def _along(lead: Floats, axis: int) -> tuple[Floats, Floats]:
    """float64[2, ...] summed over all axes but one."""
    others = tuple(other + 1 for other in range(lead.ndim - 1) if other != axis)
    summed = lead.sum(axis=others)
    return summed[0], summed[1]


def _exponent(octave: int) -> int | None:
    """Of the elements that an octave counts; the first one has the zeros."""
    return None if octave == 0 else octave + DEEPEST - 1


def _octave_counts(counts: Sequence[int] | Array) -> Iterator[tuple[int | None, int]]:
    for octave, number in enumerate(counts):
        if number:
            yield _exponent(octave), int(number)


def _upper(counts: Array, share: float) -> float:
    """What a share of the elements stays below: the upper end of the octave in which the last of them lies."""
    octave = int(np.searchsorted(np.cumsum(counts), math.ceil(share * int(counts.sum()))))
    exponent = _exponent(octave)
    return 0.0 if exponent is None else math.ldexp(1.0, exponent + 1)


def _time_axis(axes: Axes, seconds: float | None) -> tuple[int, float | None] | None:
    """The axis whose length makes frames of audio, and how long one lasts; else one that errors may vary along."""
    if axes.frames is not None:
        return 0, axes.frame_s
    long = [axis for axis, length in enumerate(axes.shape) if length > 1]
    for axis in long if seconds else ():
        length = axes.shape[axis]
        for frame_s in FRAME_S:
            if abs(length - (seconds or 0.0) / frame_s) <= 2 and length > 4:
                return axis, frame_s
    if not long:
        return None
    return (long[-2] if len(long) > 1 else long[-1]), None


def _course(axes: Axes, axis: tuple[int, float | None] | None) -> Course | None:
    if axis is None:
        return None
    place, place_s = axis
    errors, sizes = axes.energies[place]
    places = np.arange(len(errors)) if axes.frames is None else axes.frames
    if len(errors) > PLACES:
        starts = np.arange(0, len(errors), -(-len(errors) // PLACES))
        errors, sizes, places = np.add.reduceat(errors, starts), np.add.reduceat(sizes, starts), places[starts]
    relative = [
        math.sqrt(error / size) if size else 0.0 if not error else None
        for error, size in zip(errors.tolist(), sizes.tolist(), strict=True)
    ]
    return Course(axes.clip, -1 if axes.frames is not None else place, place_s, tuple(places.tolist()), tuple(relative))
