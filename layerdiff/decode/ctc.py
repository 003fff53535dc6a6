"""Greedy decoding of a CTC model: the best label of every frame, repeats joined, blanks left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerdiff.decode.greedy import Decision, Emission, Path
from layerdiff.records import Points

if TYPE_CHECKING:
    from layerdiff.records import Array


def ctc_path(logits: Array, *, blank: int, frame_s: float) -> Path:
    """Decodes greedily; a token's duration is the number of frames for which it is the best label.

    Args:
        logits: float32[T, V + 1]; logits or log-probabilities of every frame.
        blank: token id of blank.
        frame_s: seconds of audio per frame.

    Source: NeMo 3.0 `GreedyCTCInfer`; the labels are collapsed as in `AbstractCTCDecoding.decode_hypothesis`.
    """
    decisions = frame_decisions(logits)
    emissions: list[Emission] = []
    previous = blank
    for frame, token in enumerate(chosen.token for chosen in decisions):
        if token != blank and token == previous:
            last = emissions[-1]
            emissions[-1] = Emission(last.token, last.frame, last.duration + 1)
        elif token != blank:
            emissions.append(Emission(token, frame, 1))
        previous = token
    frames = np.arange(len(logits), dtype=np.int64)
    points = Points(frames, np.zeros_like(frames), np.array([blank], np.int64), frame_s)
    return Path(points, tuple(emissions), decisions)


def frame_decisions(logits: Array) -> tuple[Decision, ...]:
    """The best label of every frame of float32[T, V + 1]; every decision is for one frame."""
    return tuple(Decision(int(token), 1, row) for token, row in zip(logits.argmax(-1), logits, strict=True))
