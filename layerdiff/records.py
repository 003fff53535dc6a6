"""The frozen records that flow through the pipeline, one per arrow of the design.

Config → Source → Trace → Alignment → Comparison → Finding → Report. Nothing here computes anything
heavier than a property, opens a file or imports a heavy library: arrays appear only as annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from layerdiff.pictures import DurationMap, OpNode, Profile, Waveform

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Array = NDArray[Any]

Status = Literal["pass", "fail", "unknown", "skipped"]
Component = Literal["preprocessor", "encoder", "decoder", "joint"]

COMPONENTS: tuple[Component, ...] = ("preprocessor", "encoder", "decoder", "joint")
"""The components of a transducer, in the order in which audio passes through them."""

METRICS = (
    *("max_abs_error", "mean_abs_error", "rmse", "relative_l2_error", "cosine_similarity", "snr_db", "psnr_db"),
    *("max_ulp", "mismatch_ratio", "nan_count", "inf_count"),
)
"""The metric names, in the order in which every report lists them."""


# ------------------------------------------------------------------ inputs


@dataclass(frozen=True)
class Clip:
    """One audio recording, decoded to what the reference expects."""

    name: str
    """File name, with as many parent folders as make it unique within a run."""
    path: str
    """Where it was read from."""
    samples: NDArray[np.float32]
    """float32[samples], mono, within [-1, 1], at `sample_rate_hz`."""
    sample_rate_hz: int
    text: str | None = None
    """The transcript from the manifest, if there is one."""
    notes: tuple[str, ...] = ()
    """What was done to it, in words: resampled from 44100 Hz, mixed from 2 channels."""

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz


# ------------------------------------------------------------------ traces


@dataclass(frozen=True)
class Points:
    """Where the joint network is evaluated: N pairs of encoder frame and prediction-network step."""

    frames: NDArray[np.int64]
    """int64[N]; encoder frame t of each point."""
    steps: NDArray[np.int64]
    """int64[N]; prediction-network step u of each point; step 0 follows the start of sequence."""
    tokens: NDArray[np.int64]
    """int64[U]; the input token of every step; `tokens[0]` is the blank that starts a sequence."""
    frame_s: float
    """Seconds of audio per encoder frame."""
    is_path: bool = True
    """True for the points of the greedy path, False for the full T×U lattice."""

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True)
class Call:
    """One component asked to run once: the component and its feed, in a layout every source accepts.

    - preprocessor: `audio_signal` float32[1, S], `audio_length` int32[1]
    - encoder: `mel` float32[1, F, T], `mel_length` int32[1]
    - decoder: `targets` int32[U, 1], `target_length` int32[U], `h_in` and `c_in` float32[U, L, 1, H];
      row u is prediction step u
    - joint: `encoder` float32[N, D, 1], `decoder` float32[N, P, 1]; row n is point n of `points`

    Sources whose declared shapes differ (a batch of one, a fixed window of frames) split the call and put
    the results together again, so that what comes back always has these leading axes.
    """

    component: Component
    feed: Mapping[str, Array]
    points: Points | None = None
    chained: bool = False
    """decoder only: True feeds each step with the source's own states of the step before it, and only
    row 0 of `h_in` and `c_in` is used; False feeds every step with the given states."""


@dataclass(frozen=True)
class Captured:
    """What one call produced."""

    outputs: Mapping[str, Array]
    """The component's outputs by their contract names (`mel`, `mel_length`, `encoder`, `encoder_length`,
    `decoder`, `h_out`, `c_out`, `logits`)."""
    tensors: Mapping[str, Array]
    """The tensors that were asked for, by the source's own names; absent where the source had none."""
    layouts: Mapping[str, str] = field(default_factory=dict)
    """Tensor name → how its layout was changed to agree with `Call`, in words; absent if unchanged."""


# ------------------------------------------------------------------ results


@dataclass(frozen=True)
class TensorSummary:
    """One side of a stage, over everything that was compared."""

    tensor: str
    """The source's own name of the tensor."""
    dtype: str
    """numpy name of the dtype the source declares."""
    shape: tuple[int | None, ...]
    """None where the length differs between inputs."""
    min: float | None
    """Smallest finite value; None if there is none."""
    max: float | None
    mean: float | None
    """Mean of the finite values, summed in float64."""


@dataclass(frozen=True)
class StageResult:
    """One row of the table: one stage of one candidate."""

    name: str
    component: str
    status: Status
    reason: str
    """Why the status is what it is; empty only for a plain pass."""
    reference: TensorSummary | None = None
    candidate: TensorSummary | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """Metric name → value, over the whole tensor; None where it is undefined."""
    own_error: float | None = None
    """Relative L2 error of the stage when it is fed the reference's tensors."""
    inherited_error: float | None = None
    """Relative L2 norm of what changes when the stage is fed the candidate's own tensors instead."""
    conversion_error: float | None = None
    """Relative L2 error of the program in float32 against the reference in float32."""
    precision_error: float | None = None
    """Relative L2 error of the program as declared against the program in float32."""
    runtime_error: float | None = None
    """Relative L2 error of the native engine against the portable one; None without a native engine."""
    conversion_limit: float | None = None
    """The largest `conversion_error` that passes."""
    total_limit: float | None = None
    """The largest total relative L2 error that passes."""
    layout: str = ""
    """How a layout was changed so that the two sides agree; empty if it was not."""
    alignment_method: str = "map"
    """How the pair was found: `map` (the configuration's stage map), `name`, `weights`, `structure` or `values`."""
    alignment_confidence: float | None = None
    """In [0, 1]: how sure the pair is."""
    error_gain: float | None = None
    """Total error over the largest total error among the compared tensors that it is computed from; None where
    these have no error."""
    placement: str = ""
    """Where Core ML plans to run the op, e.g. `NeuralEngine`; empty without a native engine."""
    confirmed_own_error: float | None = None
    """Of a stage under suspicion: its own error, measured once more by giving the program the reference's tensors."""
    worst: Mapping[str, Any] | None = None
    """The row with the largest relative L2 error: clip, row, and, on the joint, frame, time_s, step."""
    profile: Profile | None = field(default=None, repr=False)
    """How its values and errors are distributed."""


@dataclass(frozen=True)
class Missing:
    """A stage that was asked for and not compared."""

    stage: str
    reason: str


@dataclass(frozen=True)
class Coverage:
    """What was asked for against what was done; a missing stage is never a pass."""

    asked: int
    captured: int
    compared: int
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True)
class Unpaired:
    """A computed tensor that has no counterpart on the other side."""

    side: str
    """`reference` or `candidate`."""
    tensor: str
    op: str
    reason: str


@dataclass(frozen=True)
class AlignmentSummary:
    """How the stages of a candidate were found; tensors that only move the values of others are not counted."""

    methods: Mapping[str, int]
    """Method → number of pairs."""
    reference_tensors: int
    reference_paired: int
    candidate_tensors: int
    candidate_paired: int
    unpaired: tuple[Unpaired, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A named cause with the numbers that support it."""

    cause: str
    """Stable identifier, e.g. `log_softmax_baked`."""
    stage: str
    confidence: float
    """In [0, 1]: the share of the error that the hypothesis explains."""
    summary: str
    """One sentence for the terminal."""
    evidence: Mapping[str, Any]
    advice: str
    """What to change, naming the line."""


@dataclass(frozen=True)
class Flip:
    """A point at which a decision differs between the two sides."""

    kind: Literal["token", "duration", "frame_advance"]
    clip: str
    frame: int
    time_s: float
    step: int
    reference: int
    """The reference's choice: a token id, an index into the durations, or a number of frames."""
    candidate: int
    margin: float
    """The reference's margin: its best logit minus its second best. Small means a near-tie."""


@dataclass(frozen=True)
class NegativePoint:
    """A point at which every duration logit of the candidate is negative."""

    clip: str
    frame: int
    time_s: float
    step: int
    reference: tuple[float, ...]
    """The reference's duration logits there."""
    candidate: tuple[float, ...]


@dataclass(frozen=True)
class DurationAnalysis:
    """What the error does to the decisions of a token-and-duration transducer (TDT)."""

    stage: str
    """The stage that holds the duration logits."""
    points: int
    durations: tuple[int, ...]
    reference_all_negative: int
    """Points at which every duration logit of the reference is negative."""
    candidate_all_negative: int
    first_all_negative: NegativePoint | None
    """The first point at which the candidate is all negative and the reference is not."""
    sign_lost_at: str | None
    """The first stage at which the candidate has no positive duration logit where the reference has one."""
    token_flips: int
    duration_flips: int
    frame_advance_flips: int
    flips: tuple[Flip, ...] = ()
    """The first flips in order of clip and point; the counts above are complete."""
    decisions: tuple[Mapping[str, Any], ...] = field(default=(), repr=False, compare=False)
    """The decisions at every point, one table per call: column → text, or array of one value per point."""
    near_ties: int = 0
    """Of all flips those at which the reference itself hardly prefers its choice."""
    reference_zero_durations: int = 0
    """Points at which the reference chooses the duration 0: it stays at its frame."""
    candidate_zero_durations: int = 0
    reference_frames_per_step: float | None = None
    """Mean number of frames by which a decision advances; None without points."""
    candidate_frames_per_step: float | None = None
    maps: tuple[DurationMap, ...] = field(default=(), repr=False)
    """The duration logits of a few clips, those with changed decisions first."""
    token_end_shift_s: float | None = None
    """By how much later tokens of the reference end for the candidate, on average, in s; None without tokens."""
    summary: str = ""


@dataclass(frozen=True)
class Check:
    """Something that is known of a package before it is run."""

    kind: str
    """Stable: `wrong_width`, `wrong_dtype`, `missing_bias`, `weights_differ`, or a hazard of `layerdiff inspect`."""
    place: str
    """A tensor of the package."""
    detail: str


@dataclass(frozen=True)
class CandidateResult:
    """Everything that was found out about one candidate."""

    name: str
    status: Status
    first_divergence: str | None
    """The first stage, in the order of the configuration, that fails."""
    coverage: Coverage
    stages: tuple[StageResult, ...]
    findings: tuple[Finding, ...] = ()
    tdt: DurationAnalysis | None = None
    description: Mapping[str, Any] = field(default_factory=dict)
    """Engine, package paths, declared precision, recipe."""
    alignment: AlignmentSummary | None = None
    """None where the stages were given."""
    checks: tuple[Check, ...] = ()
    """What its packages are known for before they run; not all of it does harm."""
    graph: tuple[OpNode, ...] = field(default=(), repr=False)
    """The ops around the first divergence, in order of execution."""
    audit: Mapping[str, Any] | None = field(default=None, repr=False)
    """Its weights held to the reference's: `counts` by verdict, and `weights` one by one."""


@dataclass(frozen=True)
class Report:
    """The result of one run; what every output file and the terminal are rendered from."""

    status: Status
    environment: Mapping[str, Any]
    reference: Mapping[str, Any]
    """What the reference is and the state it was put in."""
    inputs: Mapping[str, Any]
    """The clips: names, lengths in seconds, notes, number of points."""
    candidates: Mapping[str, CandidateResult]
    request: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The configuration's `path` and what it came to, `resolved`."""
    waveforms: tuple[Waveform, ...] = field(default=(), repr=False)
    """Of the clips that are drawn."""
    pieces: Mapping[int, str] = field(default_factory=dict, repr=False)
    """Token id → its text, of the tokens that are decided for."""

    @property
    def ok(self) -> bool:
        """True if everything asked for was compared and is within its thresholds."""
        return self.status == "pass"

    @property
    def first_divergence(self) -> str | None:
        """The first failing stage of the first candidate that has one."""
        return next((c.first_divergence for c in self.candidates.values() if c.first_divergence), None)

    @property
    def findings(self) -> list[Finding]:
        """The findings of all candidates, the most confident first."""
        found = [f for c in self.candidates.values() for f in c.findings]
        return sorted(found, key=lambda f: -f.confidence)

    @property
    def exit_code(self) -> int:
        """0 all compared and within thresholds, 1 something fails, 3 something could not be compared."""
        return {"pass": 0, "fail": 1}.get(self.status, 3)

    def to_frame(self) -> pd.DataFrame:
        """One row per candidate and stage, with the columns of `stages.csv`."""
        from layerdiff.report.rows import stage_frame

        return stage_frame(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: verdict, findings and stages."""
        from layerdiff.report import page

        return page.fragment(self)


def worst_status(statuses: list[Status]) -> Status:
    """The status of a whole: `fail` over `unknown` over `pass`; `skipped` does not count."""
    worse: tuple[Status, ...] = ("fail", "unknown")
    return next((status for status in worse if status in statuses), "pass")
