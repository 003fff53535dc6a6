"""The stages of a report as one list of rows, which feeds the terminal, CSV, Markdown, HTML and pandas.

A row is a mapping from the column names below to plain values: numbers in full, None where there is none.
`COLUMNS` is what files hold, `SHOWN` is what people are shown of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerdiff.records import METRICS, CandidateResult, Report, StageResult
from layerdiff.report import cells

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of `stages.csv`."""

    name: str
    value: Callable[[CandidateResult, StageResult], Any]


@dataclass(frozen=True)
class Shown:
    """One column of a table that people read."""

    header: str
    cell: Callable[[Row], str]
    is_number: bool = True


def plain(value: Any) -> Any:
    """A scalar without its NumPy type, a text without what a reader would obey."""
    if isinstance(value, str):
        return cells.clean(value)
    return value.item() if hasattr(value, "item") else value


def _text(name: str) -> Column:
    return Column(name, lambda _, stage: cells.clean(getattr(stage, name)))


def _number(name: str) -> Column:
    return Column(name, lambda _, stage: plain(getattr(stage, name)))


def _metric(name: str) -> Column:
    return Column(name, lambda _, stage: plain(stage.metrics.get(name)))


def _worst(name: str) -> Column:
    return Column(f"worst_{name}", lambda _, stage: plain((stage.worst or {}).get(name)))


def first_divergence(candidate: CandidateResult) -> StageResult | None:
    """The stage of that name; of several components the first one that fails."""
    named = [stage for stage in candidate.stages if stage.name == candidate.first_divergence]
    return next((stage for stage in named if stage.status == "fail"), named[0] if named else None)


def _side(side: str) -> tuple[Column, ...]:
    """The columns of the reference or the candidate."""

    def column(name: str, of: Callable[[Any], Any]) -> Column:
        def value(_: CandidateResult, stage: StageResult) -> Any:
            summary = getattr(stage, side)
            return None if summary is None else of(getattr(summary, name))

        return Column(f"{side}_{name}", value)

    texts = (column("tensor", cells.clean), column("dtype", cells.clean), column("shape", cells.shape))
    return (*texts, *(column(name, plain) for name in ("min", "max", "mean")))


COLUMNS: tuple[Column, ...] = (
    Column("candidate", lambda candidate, _: cells.clean(candidate.name)),
    Column("stage", lambda _, stage: cells.clean(stage.name)),
    _text("component"),
    _text("status"),
    _text("reason"),
    Column("first_divergence", lambda candidate, stage: stage is first_divergence(candidate)),
    *_side("reference"),
    *_side("candidate"),
    *(_metric(name) for name in METRICS),
    *(
        _number(name)
        for name in (
            "own_error",
            "inherited_error",
            "conversion_error",
            "precision_error",
            "runtime_error",
            "conversion_limit",
            "total_limit",
            "error_gain",
            "confirmed_own_error",
        )
    ),
    _text("layout"),
    _text("alignment_method"),
    _number("alignment_confidence"),
    _text("placement"),
    *(_worst(name) for name in ("clip", "row", "frame", "time_s", "step")),
)

SHOWN: tuple[Shown, ...] = (
    Shown("stage", lambda row: row["label"], is_number=False),
    Shown("status", lambda row: cells.status(row["status"]), is_number=False),
    Shown("reference", lambda row: cells.interval(row["reference_min"], row["reference_max"])),
    Shown("candidate", lambda row: cells.interval(row["candidate_min"], row["candidate_max"])),
    Shown("cosine", lambda row: cells.cosine(row["cosine_similarity"])),
    Shown("max abs", lambda row: cells.number(row["max_abs_error"])),
    Shown("rel L2", lambda row: cells.number(row["relative_l2_error"])),
    Shown("SNR dB", lambda row: cells.number(row["snr_db"])),
    Shown("conversion", lambda row: cells.number(row["conversion_error"])),
    Shown("precision", lambda row: cells.number(row["precision_error"])),
    Shown("own", lambda row: cells.number(row["own_error"])),
    Shown("inherited", lambda row: cells.number(row["inherited_error"])),
)
"""Ranges are [min, max]; conversion, precision, own and inherited are relative L2 errors."""


def all_stages(candidate: CandidateResult) -> tuple[StageResult, ...]:
    """The stages of a candidate, and an `unknown` one for each that was asked for and left no result."""
    named = {stage.name for stage in candidate.stages}
    absent = (missing for missing in candidate.coverage.missing if missing.stage not in named)
    return (*candidate.stages, *(StageResult(m.stage, component="", status="unknown", reason=m.reason) for m in absent))


def candidate_rows(candidate: CandidateResult) -> list[Row]:
    """One row per stage: `COLUMNS`, and a `label` that tells equal names of several components apart."""
    stages = all_stages(candidate)
    counts = Counter(stage.name for stage in stages)
    return [
        {column.name: column.value(candidate, stage) for column in COLUMNS}
        | {"label": cells.clean(f"{stage.component}: {stage.name}" if counts[stage.name] > 1 else stage.name)}
        for stage in stages
    ]


def stage_rows(report: Report) -> list[Row]:
    """One row per candidate and stage, in the order of the configuration."""
    return [row for candidate in report.candidates.values() for row in candidate_rows(candidate)]


def stage_frame(report: Report) -> pd.DataFrame:
    """The rows as a pandas frame with the columns of `stages.csv`."""
    import pandas as pd

    return pd.DataFrame(stage_rows(report), columns=[column.name for column in COLUMNS])
