"""What an error does to the decisions of an aligned model: of a CTC head at every frame, of a joint along its path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.diagnose.decisions import DecisionLens
from layerdiff.records import DurationAnalysis, Points

if TYPE_CHECKING:
    from layerdiff.records import Array

CTC_HEAD, JOINT = "ConvASRDecoder", "RNNTJoint"
"""NeMo's classes of what decides."""


@dataclass
class Decisions:
    """Counts the points at which the best token or duration is another one, clip by clip."""

    lens: DecisionLens
    frame_s: float
    points_of: Callable[[str], Points | None]
    """A joint's points by the name of the feed; None where they are not known."""
    stage: str = ""
    """The stage that holds the logits or log-probabilities."""

    @classmethod
    def of(cls, reference: Any) -> Decisions | None:
        """For a reference that is a CTC head or a joint of a NeMo model; None for any other."""
        about: Mapping[str, Any] = reference.description
        if about.get("module") not in (CTC_HEAD, JOINT) or not about.get("blank"):
            return None
        is_ctc = about["module"] == CTC_HEAD
        durations = () if is_ctc else tuple(about.get("durations") or ())
        lens = DecisionLens(durations, int(about["blank"]), is_ctc=is_ctc)
        return cls(lens, float(about.get("frame_s") or 0.0), getattr(reference, "points_of", lambda _: None))

    def take(self, stage: str, *, reference: Array, candidate: Array, clip: str) -> None:
        """Takes in what both sides return, float[..., V + 1 + D]; anything of another width is left alone."""
        lens, width = self.lens, len(self.lens.frames)
        if reference.shape != candidate.shape or reference.shape[-1] != lens.blank + 1 + width or reference.ndim < 2:
            return
        points = _frames(reference, self.frame_s) if lens.is_ctc else self.points_of(clip)
        if points is None or len(points) != int(np.prod(reference.shape[:-1])):
            return
        self.stage = stage
        offered = candidate[..., lens.blank + 1 :]
        lens.update(reference=reference, candidate=candidate, candidate_durations=offered, points=points, clip=clip)

    def result(self) -> DurationAnalysis | None:
        """The analysis; None if nothing was seen."""
        return self.lens.result(self.stage, parent=self.stage) if self.lens.points else None


def _frames(reference: Array, frame_s: float) -> Points:
    """The frames of float[..., T, V + 1] as points, one step each."""
    frames = np.tile(np.arange(reference.shape[-2]), int(np.prod(reference.shape[:-2], dtype=int)))
    return Points(frames, frames, np.zeros(len(frames), np.int64), frame_s)
