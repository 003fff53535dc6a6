"""What an error does to the decisions of a CTC head, which chooses a token or the blank at every frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.diagnose.decisions import DecisionLens
from layerdiff.records import DurationAnalysis, Points

if TYPE_CHECKING:
    from layerdiff.records import Array

HEAD = "ConvASRDecoder"
"""NeMo's class of a CTC head."""


@dataclass
class FrameDecisions:
    """Counts the frames at which the best token differs, clip by clip."""

    lens: DecisionLens
    frame_s: float
    stage: str = ""
    """The stage that holds the tokens' logits or log-probabilities."""

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> FrameDecisions | None:
        """For a reference that is a CTC head; None for any other."""
        if description.get("module") != HEAD or not description.get("blank"):
            return None
        return cls(DecisionLens((), int(description["blank"]), is_ctc=True), float(description.get("frame_s") or 0.0))

    def take(self, stage: str, *, reference: Array, candidate: Array, clip: str) -> None:
        """Takes in what both sides return, float[..., T, V + 1]; anything of another width is left alone."""
        if reference.ndim < 2 or reference.shape[-1] != self.lens.blank + 1 or reference.shape != candidate.shape:
            return
        self.stage = stage
        frames = np.tile(np.arange(reference.shape[-2]), int(np.prod(reference.shape[:-2], dtype=int)))
        points = Points(frames, frames, np.zeros(len(frames), np.int64), self.frame_s)
        self.lens.update(
            reference=reference, candidate=candidate, candidate_durations=candidate[..., :0], points=points, clip=clip
        )

    def result(self) -> DurationAnalysis | None:
        """The analysis; None if nothing was seen."""
        return self.lens.result(self.stage, parent=self.stage) if self.lens.points else None
