"""What a report shows beyond its rows: distributions of values and errors, errors along time, ops around a stage.

Frozen records of plain values, which are kept in `run.json` and drawn by the page.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Histogram:
    """The values of both sides in bins of one width."""

    low: float
    """Lower end of the first bin."""
    width: float
    reference: tuple[int, ...]
    """Elements per bin."""
    candidate: tuple[int, ...]


@dataclass(frozen=True)
class Magnitude:
    """The errors of the elements whose reference is of one size; quantiles are exact to a factor of 2."""

    exponent: int | None
    """Its size lies in [2^exponent, 2^(exponent + 1)); None for zeros and what is smaller than all."""
    count: int
    median: float
    """Absolute error that half of the elements stay below."""
    most: float
    """Absolute error that nine of ten stay below."""
    all: float
    """Absolute error that all stay below."""


@dataclass(frozen=True)
class Element:
    """One element of a tensor on both sides."""

    clip: str
    index: tuple[int, ...]
    """Its place in the reference's tensor."""
    reference: float
    candidate: float
    time_s: float | None = None
    """Where in the audio it lies; None where an axis of time is not known."""


@dataclass(frozen=True)
class Course:
    """The error along one axis, on the clip on which it is largest."""

    clip: str
    axis: int
    """-1 for the points of a joint."""
    place_s: float | None
    """Seconds per place; None if the axis is not known to be time."""
    places: tuple[int, ...]
    """Frames of the axis, or of the encoder for the points of a joint."""
    errors: tuple[float | None, ...]
    """Relative L2 error at each place; None where the reference is 0 and the candidate is not."""


@dataclass(frozen=True)
class Profile:
    """How the values and the errors of a stage are distributed."""

    values: Histogram
    errors: tuple[tuple[int | None, int], ...]
    """Exponent → number of elements whose absolute error lies in [2^exponent, 2^(exponent + 1)); None for no error."""
    magnitudes: tuple[Magnitude, ...]
    """By size of the reference, the smallest first."""
    course: Course | None
    worst: tuple[Element, ...]
    """The elements with the largest absolute errors, the worst first."""


@dataclass(frozen=True)
class DurationMap:
    """The duration logits of both sides at every point of one clip."""

    clip: str
    frame_s: float
    frames: tuple[int, ...]
    steps: tuple[int, ...]
    reference: tuple[tuple[float, ...], ...]
    """Point → a logit per duration."""
    candidate: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Waveform:
    """The outline of a recording: the extremes of equally long parts."""

    clip: str
    duration_s: float
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class OpNode:
    """An op of the candidate near its first divergence."""

    name: str
    """Of its result."""
    op: str
    inputs: tuple[str, ...]
    """Of what is shown and reads into it; further operands lie outside."""
    dtype: str
    shape: tuple[int | None, ...] | None
    stage: str = ""
    """The stage that is compared here; empty if none is."""
    status: str = ""
