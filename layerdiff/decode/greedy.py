"""Where does the joint network look? The greedy path of a transducer, or the whole lattice.

Hooks on a decoder that runs inside NeMo don't say which encoder frame t and which prediction step u a
joint output belongs to. This loop does: it asks the prediction network and the joint through two callables
and writes down every pair (t, u) that it visits. It takes NeMo's decisions, it doesn't improve on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.records import Points

if TYPE_CHECKING:
    from layerdiff.records import Array

NEAR_TIE = 0.1
"""A reference margin (logit units) below which another decision is called a near-tie: float16 keeps ten times less."""

Predict = Callable[[int, Any], tuple["Array", Any]]
"""(token, state) → (float32[P], next state); the state before the first step is None."""
Joint = Callable[["Array", "Array"], "Array"]
"""(float32[D] encoder frame, float32[P] prediction) → float32[V + 1 + durations], not normalised."""


@dataclass(frozen=True)
class Decision:
    """What a joint decides at one point."""

    token: int
    duration: int
    """In frames; 0 for a transducer without durations."""
    logits: Array | None = field(default=None, repr=False, compare=False)
    """float32[V + 1 + durations] what decided; None if only the decision is known."""
    durations: int = field(default=0, repr=False, compare=False)
    """How many of the logits, the last ones, are of durations."""

    @cached_property
    def token_margin(self) -> float | None:
        """The best token's logit minus the second best; None if only the decision is known."""
        return None if self.logits is None else margin(self.logits[: len(self.logits) - self.durations])

    @cached_property
    def duration_margin(self) -> float | None:
        """The same of the durations; None without durations too."""
        return None if self.logits is None or not self.durations else margin(self.logits[-self.durations :])


Decide = Callable[["Array", "Array"], Decision]
"""(float32[D] encoder frame, float32[P] prediction) → what is decided there."""


@dataclass(frozen=True)
class Emission:
    """One token that the decoding put out."""

    token: int
    frame: int
    """Encoder frame at which it was emitted."""
    duration: int
    """Frames that the decoding went on with it; 0 for a transducer without durations."""


@dataclass(frozen=True)
class Path:
    """One greedy decoding and where it went."""

    points: Points
    """Every (frame, step) at which the joint was evaluated, in order; `points.tokens` is what the
    prediction network was fed, one token per step, as far as the joint used its answer."""
    emissions: tuple[Emission, ...]
    decisions: tuple[Decision, ...] = ()
    """What was decided at every point."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """The transcript as token ids."""
        return tuple(emission.token for emission in self.emissions)


def greedy_path(
    encoder_frames: Array,
    *,
    predict: Predict,
    joint: Joint,
    blank: int,
    durations: Sequence[int],
    frame_s: float,
    max_symbols: int = 10,
) -> Path:
    """Decodes greedily by the joint's logits and records the points that were evaluated.

    Args:
        encoder_frames: float32[T, D]; the valid frames only.
        predict: one step of the prediction network.
        joint: one point of the joint.
        blank: token id of blank; also starts the sequence.
        durations: in frames, in the order of the joint's last outputs; empty for RNN-T.
        frame_s: seconds of audio per encoder frame.
        max_symbols: at least 1.

    Raises:
        ValueError: `max_symbols` is below 1.
    """

    def by_logits(frame: Array, prediction: Array) -> Decision:
        return decision(joint(frame, prediction), durations=durations)

    return greedy(
        encoder_frames, predict=predict, decide=by_logits, blank=blank, frame_s=frame_s, max_symbols=max_symbols
    )


def greedy(
    encoder_frames: Array, *, predict: Predict, decide: Decide, blank: int, frame_s: float, max_symbols: int = 10
) -> Path:
    """Decodes greedily by decisions, wherever they come from, and records the points that were evaluated.

    At every point the best token and, independently, the best duration are taken. A token moves the
    prediction network on by a step; the duration moves the frame on. Blank with duration 0 moves on by 1.
    After `max_symbols` tokens on one frame the frame moves on by 1. Without durations (RNN-T) blank moves
    on by 1 and a token by 0.

    Args:
        encoder_frames: float32[T, D]; the valid frames only.
        predict: one step of the prediction network.
        decide: the decision at one point.
        blank: token id of blank; also starts the sequence.
        frame_s: seconds of audio per encoder frame.
        max_symbols: at least 1.

    Raises:
        ValueError: `max_symbols` is below 1.

    Source: NeMo 3.0 `GreedyBatchedTDTLabelLoopingComputer`. NeMo's unbatched `GreedyTDTInfer` differs in one
        case: if the last of `max_symbols` outputs on a frame has a duration above 0 it adds 1 to it.
    """
    if max_symbols < 1:
        raise ValueError(f"max_symbols must be at least 1, got {max_symbols}")
    frame, symbols_on_frame = 0, 0
    visited: list[tuple[int, int]] = []
    emissions: list[Emission] = []
    decisions: list[Decision] = []
    fed: list[int] = []
    prediction, state = np.empty(0, np.float32), None
    while frame < len(encoder_frames):
        if len(fed) == len(emissions):  # the last token has not been fed yet, nor the start of sequence
            fed.append(emissions[-1].token if emissions else blank)
            prediction, state = predict(fed[-1], state)
        visited.append((frame, len(emissions)))
        chosen = decide(encoder_frames[frame], prediction)
        decisions.append(chosen)
        if chosen.token == blank:
            advance = max(chosen.duration, 1)
        else:
            emissions.append(Emission(chosen.token, frame, chosen.duration))
            symbols_on_frame += 1
            advance = chosen.duration or int(symbols_on_frame >= max_symbols)
        frame += advance
        symbols_on_frame = 0 if advance else symbols_on_frame
    return Path(_points(visited, fed, frame_s), tuple(emissions), tuple(decisions))


def decision(logits: Array, *, durations: Sequence[int]) -> Decision:
    """The best token and the best duration of one point; of equals, the first."""
    if not durations:
        return Decision(int(np.argmax(logits)), 0, logits)
    count = len(durations)
    token, duration = int(np.argmax(logits[:-count])), int(np.argmax(logits[-count:]))
    return Decision(token, int(durations[duration]), logits, count)


def margin(logits: Array) -> float:
    """How far the largest of float[W] values is above the second largest; inf if there is only one."""
    if len(logits) < 2:
        return float("inf")
    second, first = np.partition(logits, -2)[-2:]
    return float(first) - float(second)


def _points(visited: Sequence[tuple[int, int]], tokens: Sequence[int], frame_s: float) -> Points:
    pairs = np.array(visited, np.int64).reshape(-1, 2)
    return Points(pairs[:, 0].copy(), pairs[:, 1].copy(), np.array(tokens, np.int64), frame_s)


def lattice(frames: int, *, tokens: Sequence[int] | Array, frame_s: float) -> Points:
    """Every pair of T frames and U steps, frame by frame.

    Args:
        frames: T, the number of encoder frames.
        tokens: int[U]; the input token of every step, the first one blank.
        frame_s: seconds of audio per encoder frame.
    """
    steps = len(tokens)
    return Points(
        np.repeat(np.arange(frames, dtype=np.int64), steps),
        np.tile(np.arange(steps, dtype=np.int64), frames),
        np.array(tokens, np.int64),
        frame_s,
        is_path=False,
    )
