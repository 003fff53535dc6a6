"""The audit of a clip at other lengths, as a part of its row."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from layerdiff.decode.paddings import frame_errors, length_findings, step_errors, variations
from layerdiff.decode.parts import TransducerParts

if TYPE_CHECKING:
    from layerdiff.corpus.clips import Hearing
    from layerdiff.corpus.models import Listener
    from layerdiff.decode.clip import Heard

LONGEST_S = 4.0
"""Of a longer clip its beginning is presented: the longest variation is three times as long."""


def audited(hearing: Hearing, listener: Listener, reference: Heard) -> dict[str, Any]:
    """The errors of every variation that fits into the packages, and what they point to; plain JSON values."""
    speech, limit = hearing.models.reference, listener.windowing.limit_samples
    samples = hearing.samples[: min(round(LONGEST_S * speech.sample_rate_hz), limit)]
    given = [
        variation
        for variation in variations(samples, frame_samples=speech.frame_samples, hop_samples=speech.hop_samples)
        if len(variation.samples) <= limit
    ]
    parts = hearing.parts(listener, frozenset(listener.given))
    errors = frame_errors(speech.parts, parts, given)
    steps: tuple[float, ...] = ()
    if isinstance(parts, TransducerParts) and isinstance(speech.parts, TransducerParts):
        steps = step_errors(speech.parts, parts, reference.paths[0])
    return {
        "variations": [asdict(error) for error in errors],
        "steps": list(steps),
        "findings": [asdict(finding) for finding in length_findings(errors, steps)],
    }
