"""The result of decoding a corpus, and whether a candidate passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from layerdiff.decode.paddings import FrameErrors, LengthFinding
from layerdiff.decode.tally import Tally
from layerdiff.records import Status, worst_status

if TYPE_CHECKING:
    from layerdiff.config import DecodeConfig

PROBLEMS_LISTED = 20
"""So many of the clips that were not decoded are listed; all are counted."""


@dataclass(frozen=True)
class Problem:
    """A clip that was asked for and not decoded, by the reference or by a candidate."""

    index: int
    clip: str
    candidate: str
    """Empty for all of them."""
    reason: str


@dataclass(frozen=True)
class MixtureCost:
    """What it costs to take some components of the candidate instead of the reference's."""

    components: tuple[str, ...]
    tally: Tally


@dataclass(frozen=True)
class LengthAudit:
    """One clip at other lengths."""

    clip: str
    variations: tuple[FrameErrors, ...]
    findings: tuple[LengthFinding, ...]


@dataclass(frozen=True)
class CandidateDecoding:
    """Everything that was found out about the transcripts of one candidate."""

    name: str
    status: Status
    reason: str
    tally: Tally
    mixtures: tuple[MixtureCost, ...] = ()
    """Every choice of its components, if that was asked for."""
    description: Mapping[str, Any] = field(default_factory=dict)
    lengths: tuple[LengthAudit, ...] = ()
    """Clips that were presented at other lengths too, if that was asked for."""


@dataclass(frozen=True)
class DecodeReport:
    """The result of decoding a corpus."""

    status: Status
    environment: Mapping[str, Any]
    reference: Mapping[str, Any]
    reference_tally: Tally
    sample_rate_hz: int
    frame_s: float
    samples: int
    """Of all clips that the reference decoded."""
    candidates: Mapping[str, CandidateDecoding]
    pieces: tuple[str, ...] = ()
    """The text of every token."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for, without where and on what it was done."""
    problems: tuple[Problem, ...] = ()
    """The first of them."""

    def piece(self, token: int) -> str:
        """The text of a token; `<blank>` for blank."""
        return self.pieces[token] if token < len(self.pieces) else "<blank>"

    @property
    def seconds(self) -> float:
        """Length of all clips that the reference decoded."""
        return self.samples / self.sample_rate_hz

    @property
    def exit_code(self) -> int:
        """0 all decoded and within its limits, 1 a candidate fails, 3 something could not be decoded."""
        return {"pass": 0, "fail": 1}.get(self.status, 3)


def shift_ms(tally: Tally, frame_s: float) -> float | None:
    """By how much tokens end elsewhere than the reference's, on average, in ms; None without tokens in common."""
    moved = tally.shift
    return moved.end_frames_abs * frame_s * 1000 / moved.tokens if moved.tokens else None


def verdict(
    tally: Tally, config: DecodeConfig, *, frame_s: float, lengths: Sequence[LengthAudit] = ()
) -> tuple[Status, str]:
    """Whether a candidate's transcripts are the reference's, and why not."""
    length, errors = tally.words.length, tally.words.errors - tally.excused_words.errors
    rate, moved = (errors / length if length else float(errors > 0)), shift_ms(tally, frame_s)
    if rate > config.max_wer:
        said = f"{errors} of {length} words are others than the reference's ({100 * rate:.2f} %)"
        return "fail", f"{said}, more than {100 * config.max_wer:g} %"
    if moved is not None and moved > config.max_shift_ms:
        return "fail", f"tokens end {moved:.0f} ms elsewhere on average, more than {config.max_shift_ms:g} ms"
    found = [(audit.clip, finding) for audit in lengths for finding in audit.findings]
    if found:
        clip, finding = found[0]
        return "fail", f"{finding.cause} in {clip}, {finding.variation}: {finding.summary}"
    if tally.problems:
        return "unknown", f"{tally.problems} of {tally.problems + tally.clips} clips were not decoded"
    if not tally.clips:
        return "unknown", "no clip was decoded"
    return "pass", ""


def overall(candidates: Iterable[CandidateDecoding], reference: Tally) -> Status:
    """The status of the whole: a clip that the reference could not decode was asked for too."""
    statuses: list[Status] = [candidate.status for candidate in candidates]
    return worst_status([*statuses, "unknown" if reference.problems or not reference.clips else "pass"])
