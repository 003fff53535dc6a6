"""`report.json`: the machine-readable result, in the schema that scripts rely on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from layerdiff.records import METRICS, CandidateResult, DurationAnalysis, Report, StageResult
from layerdiff.report.rows import all_stages

SCHEMA = 1


def render(report: Report, *, ascii_only: bool = False) -> str:
    """The file's text; NaN and infinities, which JSON lacks, become null."""
    return dump(document(report), ascii_only=ascii_only)


def dump(value: Any, *, ascii_only: bool = False) -> str:
    """Indented JSON with a newline at its end."""
    return json.dumps(plain(value), indent=2, ensure_ascii=ascii_only, allow_nan=False) + "\n"


def document(report: Report) -> dict[str, Any]:
    """The report as plain JSON values."""
    return {
        "schema": SCHEMA,
        "status": report.status,
        "exit_code": report.exit_code,
        "environment": plain(report.environment),
        "reference": plain(report.reference),
        "inputs": plain(report.inputs),
        "candidates": {_text(name): candidate_document(candidate) for name, candidate in report.candidates.items()},
    }


def plain(value: Any, *, keeps_infinite: bool = False) -> Any:
    """`value` as what JSON knows: records and mappings as objects, sequences as arrays.

    Args:
        value: anything that a report holds.
        keeps_infinite: whether NaN and infinities stay; else they become null, as strict JSON wants it.
    """

    def inner(part: Any) -> Any:
        return plain(part, keeps_infinite=keeps_infinite)

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: inner(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_text(key): inner(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [inner(part) for part in value]
    if hasattr(value, "tolist"):
        return inner(value.tolist())
    if isinstance(value, float):
        return value if keeps_infinite or isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    return _text(value)


def _text(value: Any) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")  # a lone surrogate can't be written


def candidate_document(candidate: CandidateResult) -> dict[str, Any]:
    """One candidate as plain JSON values."""
    return {
        "status": candidate.status,
        "first_divergence": candidate.first_divergence,
        "coverage": plain(candidate.coverage),
        "stages": [_stage(stage) for stage in all_stages(candidate)],
        "findings": plain(candidate.findings),
        "tdt": _without_points(candidate.tdt),
        "alignment": plain(candidate.alignment),
        "checks": plain(candidate.checks),
        "description": plain(candidate.description),
    }


def _without_points(tdt: DurationAnalysis | None) -> Any:
    """The analysis without what it holds of every point, which decisions.csv and run.json have."""
    if tdt is None:
        return None
    few = plain(dataclasses.replace(tdt, decisions=(), maps=()))
    return {key: value for key, value in few.items() if key not in ("decisions", "maps")}


def _stage(stage: StageResult) -> dict[str, Any]:
    entry: dict[str, Any] = plain(dataclasses.replace(stage, profile=None))
    del entry["profile"]
    entry["metrics"] = {name: plain(stage.metrics.get(name)) for name in METRICS}
    return entry
