"""Where the error of one logit comes from: the output layer's weights, its bias, the encoder's or the decoder's side.

A joint computes logit = w · h + b with h = relu(e + d), e and d being the two projections. With Δ = candidate -
reference and the gate g = (e + d > 0), exactly:

    Δlogit = Δw · h' + w · Δh + Δb                                   h' the candidate's
    Δh     = g' ∘ Δe  +  g' ∘ Δd  +  (g' - g) ∘ (e + d)              encoder, decoder, gate

What the candidate gives beyond that was done behind the output layer: a log-softmax, a scale, a wrong slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from layerdiff.records import Array


@dataclass(frozen=True, eq=False)
class JointSide:
    """One side of a joint at one point, for one logit."""

    encoder: Array
    """float[J]; the projected encoder frame."""
    decoder: Array
    """float[J]; the projected prediction step."""
    weight: Array
    """float[J]; the logit's row of the output layer."""
    bias: float
    logit: float
    """What the side gives."""


@dataclass(frozen=True)
class Attribution:
    """The error of one logit in parts that add up to it."""

    error: float
    """Candidate minus reference."""
    from_weight: float
    from_encoder: float
    from_decoder: float
    from_gate: float
    """Of hidden values that are cut off on one side only."""
    from_bias: float
    from_behind: float
    """What none of these explains: something that is done to the logits afterwards."""


def attribute(reference: JointSide, candidate: JointSide) -> Attribution:
    """The parts of a logit's error, of a joint with a ReLU; in float64."""
    e, d, w, e_, d_, w_ = (
        np.asarray(value, np.float64)
        for side in (reference, candidate)
        for value in (side.encoder, side.decoder, side.weight)
    )
    before, before_ = e + d, e_ + d_
    gate, gate_ = before > 0, before_ > 0
    error = float(candidate.logit) - float(reference.logit)
    parts = {
        "from_weight": float((w_ - w) @ np.where(gate_, before_, 0)),
        "from_encoder": float(w @ np.where(gate_, e_ - e, 0)),
        "from_decoder": float(w @ np.where(gate_, d_ - d, 0)),
        "from_gate": float(w @ ((gate_.astype(np.float64) - gate) * before)),
        "from_bias": float(candidate.bias) - float(reference.bias),
    }
    return Attribution(error=error, **parts, from_behind=error - sum(parts.values()))
