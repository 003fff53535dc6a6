"""What the page's templates set: plain texts and numbers of a report, and the data of its plots."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from markupsafe import Markup, escape

from layerdiff.environment import PACKAGES
from layerdiff.pictures import Element, OpNode, Profile
from layerdiff.records import CandidateResult, Check, DurationAnalysis, Finding, Report
from layerdiff.report import cells, sections
from layerdiff.report.page import charts
from layerdiff.report.rows import SHOWN, Row, candidate_rows
from layerdiff.report.selection import telling

Plots = list[tuple[str, charts.Plot]]
"""Name of a place in the page → its plot, the most telling first."""

LISTED_WEIGHTS = 200
"""How many weights that are simply there are listed."""
MOST_ROWS, MOST_DETAILS = 1500, 200
"""So many stages are listed, and so many have details: the most telling ones."""


def context(report: Report) -> tuple[dict[str, Any], Plots]:
    """The values of the templates, and the plots."""
    parts = [_candidate(report, candidate, number) for number, candidate in enumerate(report.candidates.values())]
    first: Plots = [plot for _, plots, _ in parts for plot in plots]
    later: Plots = [plot for _, _, plots in parts for plot in plots]
    values = {
        "title": f"layerdiff: {report.status}",
        "status": report.status,
        "symbol": cells.SYMBOLS.get(report.status, "?"),
        "summary": [
            {"status": c.status, "symbol": cells.SYMBOLS.get(c.status, "?"), "text": sections.verdict_of(c)}
            for c in report.candidates.values()
        ],
        "columns": [{"header": shown.header, "is_number": shown.is_number} for shown in SHOWN],
        "legend": sections.LEGEND,
        "candidates": [part for part, _, _ in parts],
        "facts": _facts(report),
        "reproduce": _reproduce(report),
    }
    return values, [*first, *later]


def _candidate(report: Report, candidate: CandidateResult, number: int) -> tuple[dict[str, Any], Plots, Plots]:
    """One candidate's values, the plots of the whole, and those of its stages."""
    anchor = f"c{number}"
    rows = candidate_rows(candidate)
    profiles = {(stage.component, stage.name): stage.profile for stage in candidate.stages}
    places = telling(rows)
    listed, detailed = set(places[:MOST_ROWS]), set(places[:MOST_DETAILS])
    stages = [
        _stage(row, profiles.get((row["component"], row["stage"])), f"{anchor}-s{place}", place in detailed)
        for place, row in enumerate(rows)
        if place in listed
    ]
    general: Plots = []
    links = [f"#{anchor}-s{place}" if place in detailed else None for place in range(len(rows))]
    if (depth := charts.depth(rows, links)) is not None:
        general.append((f"{anchor}-depth", depth))
    if (graph := charts.graph(candidate.graph)) is not None:
        general.append((f"{anchor}-graph", graph))
    general += _decision_plots(report, candidate, anchor)
    values = {
        "anchor": anchor,
        "name": cells.clean(candidate.name),
        "status": candidate.status,
        "symbol": cells.SYMBOLS.get(candidate.status, "?"),
        "facts": sections.candidate_facts(candidate.description),
        "coverage": candidate.coverage,
        "missing": [{"stage": m.stage, "reason": m.reason} for m in candidate.coverage.missing],
        "failures": list(sections.failures(rows)),
        "findings": [_finding(entry) for entry in candidate.findings],
        "stages": stages,
        "left_out": len(rows) - len(stages),
        "without_details": len(rows) - len(detailed),
        "graph": [_op(op) for op in candidate.graph],
        "decisions": _decisions(candidate.tdt) if candidate.tdt is not None else None,
        "plots": [name for name, _ in general],
        "audit": _audit(candidate.audit) if candidate.audit else None,
        "checks": [_check(check) for check in candidate.checks],
        "alignment": sections.alignment_facts(candidate.alignment) if candidate.alignment is not None else [],
        "unpaired": [sections.unpaired_fact(left) for left in candidate.alignment.unpaired]
        if candidate.alignment is not None
        else [],
    }
    order = sorted(stages, key=lambda stage: stage["status"] == "pass")
    return values, general, [plot for stage in order for plot in stage.pop("drawn")]


def _stage(row: Row, profile: Profile | None, anchor: str, is_detailed: bool) -> dict[str, Any]:
    """One stage: its line of the table, and what its details say."""
    line = {
        "label": row["label"],
        "status": row["status"],
        "is_first": bool(row["first_divergence"]),
        "cells": [shown.cell(row) for shown in SHOWN],
        "keys": [_key(row, shown.header) for shown in SHOWN],
    }
    if not is_detailed:
        return line | {"anchor": "", "drawn": []}
    drawn = charts.of_profile(profile) if profile is not None else {}
    said = [row["reason"] or "", sections.worst(row).removeprefix("; "), row["layout"]]
    if row["confirmed_own_error"] is not None:
        said.append(sections.confirmation(row))
    sides = {
        side: f"{row[f'{side}_tensor']} · {row[f'{side}_dtype']} {row[f'{side}_shape']}"
        for side in ("reference", "candidate")
        if row[f"{side}_tensor"]
    }
    return line | {
        "anchor": anchor,
        "said": [text for text in said if text],
        "sides": sides,
        "alignment": sections.pair_fact(row) if row["candidate_tensor"] else "",
        "worst": [_element(element) for element in profile.worst] if profile is not None else [],
        "plots": [f"{anchor}-{name}" for name in drawn],
        "drawn": [(f"{anchor}-{name}", plot) for name, plot in drawn.items()],
    }


_KEYS = {
    "reference": "reference_max",
    "candidate": "candidate_max",
    "cosine": "cosine_similarity",
    "max abs": "max_abs_error",
    "rel L2": "relative_l2_error",
    "SNR dB": "snr_db",
    "conversion": "conversion_error",
    "precision": "precision_error",
    "own": "own_error",
    "inherited": "inherited_error",
}
"""Column → the number by which it is sorted."""


def _key(row: Row, header: str) -> str:
    value = row[_KEYS[header]] if header in _KEYS else None
    return "" if value is None else f"{value:.6g}".replace("inf", "Infinity")


def _element(element: Element) -> dict[str, str]:
    return {
        "clip": cells.clean(element.clip),
        "index": f"[{', '.join(map(str, element.index))}]",
        "time": cells.seconds(element.time_s) if element.time_s is not None else cells.NOTHING,
        "reference": cells.number(element.reference),
        "candidate": cells.number(element.candidate),
        "error": cells.number(element.candidate - element.reference),
    }


def _finding(entry: Finding) -> dict[str, Any]:
    return {
        "cause": cells.clean(entry.cause),
        "stage": cells.clean(entry.stage),
        "share": cells.share(entry.confidence),
        "summary": _prose(entry.summary),
        "advice": _prose(entry.advice),
        "evidence": [(cells.clean(key), cells.fact(value)) for key, value in entry.evidence.items()],
    }


def _prose(text: str) -> Markup:
    """A sentence of ours, in which backticks mark code."""
    parts = cells.clean(text).split("`")
    marked = (Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts))
    return Markup("").join(marked) if len(parts) % 2 else escape(cells.clean(text))


def _op(op: OpNode) -> dict[str, str]:
    return {
        "name": cells.clean(op.name),
        "op": cells.clean(op.op),
        "inputs": ", ".join(map(cells.clean, op.inputs)),
        "dtype": op.dtype,
        "shape": cells.shape(op.shape),
        "stage": cells.clean(op.stage),
        "status": op.status,
    }


def _check(check: Check) -> str:
    return f"{check.kind} at {cells.clean(check.place)}: {cells.clean(check.detail)}"


# ------------------------------------------------------------------ decisions


def _decisions(tdt: DurationAnalysis) -> dict[str, Any]:
    point = tdt.first_all_negative
    return {
        "summary": tdt.summary or sections.decided(tdt),
        "facts": sections.duration_facts(tdt),
        "durations": list(tdt.durations),
        "negative": None
        if point is None
        else {
            "place": sections.place(point),
            "sides": [
                (side, [cells.number(value) for value in getattr(point, side)]) for side in ("reference", "candidate")
            ],
        },
        "flips": [sections.flip_facts(flip) for flip in tdt.flips],
    }


def _decision_plots(report: Report, candidate: CandidateResult, anchor: str) -> Iterator[tuple[str, charts.Plot]]:
    """The timelines and the duration maps of the clips that are drawn."""
    tdt = candidate.tdt
    if tdt is None:
        return
    blank, frame_s = report.reference.get("blank"), float(report.reference.get("frame_s") or 0.08)
    tables = {table["clip"]: table for table in tdt.decisions}
    is_changed = bool(tdt.token_flips or tdt.duration_flips or tdt.candidate_all_negative > tdt.reference_all_negative)
    shown = None if is_changed else 1
    for number, wave in enumerate(report.waveforms[:shown]):
        if wave.clip in tables:
            plot = charts.timeline(wave, tables[wave.clip], pieces=report.pieces, frame_s=frame_s, blank=blank)
            yield f"{anchor}-timeline-{number}", plot | {"title": f"decisions in {cells.clean(wave.clip)}"}
    for number, drawn in enumerate(tdt.maps[:shown]):
        plot = charts.duration_map(drawn, tdt.durations)
        yield f"{anchor}-map-{number}", plot | {"title": f"duration logits in {cells.clean(drawn.clip)}"}


# ------------------------------------------------------------------ the rest


def _audit(found: Mapping[str, Any]) -> dict[str, Any]:
    """Weights that are not simply there first."""
    weights = [
        {
            "name": cells.clean(weight["name"]),
            "verdict": weight["verdict"],
            "shape": cells.shape(weight["shape"]),
            "constants": ", ".join(map(cells.clean, weight["constants"])),
            "stored": cells.clean(weight["stored"]),
            "error": cells.number(weight["relative_l2_error"]),
            "reason": cells.clean(weight["reason"] or weight["transform"]),
        }
        for weight in found["weights"]
    ]
    odd = [weight for weight in weights if weight["verdict"] in ("changed", "missing", "unknown")]
    rest = [weight for weight in weights if weight["verdict"] not in ("changed", "missing", "unknown")]
    return {
        "counts": [f"{count} {verdict}" for verdict, count in found["counts"].items()],
        "odd": odd,
        "rest": rest[:LISTED_WEIGHTS],
        "left_out": max(0, len(rest) - LISTED_WEIGHTS),
    }


def _facts(report: Report) -> list[tuple[str, list[str]]]:
    """Versions, the reference and its state, the inputs."""
    inputs = [(label or "clip", items) for label, items in sections.inputs(report.inputs)]
    return [
        ("versions", sections.versions(report.environment)),
        ("reference", list(cells.facts(report.reference))),
        *inputs,
    ]


def _reproduce(report: Report) -> dict[str, str] | None:
    """The command and the configuration; None where there was none."""
    if not report.request:
        return None
    known = {name: report.environment.get(name) for name in ("layerdiff", *PACKAGES)}
    versions = {name: str(version).partition("+")[0] for name, version in known.items() if version}
    pinned = " ".join(f"{name}=={version}" for name, version in versions.items())
    return {
        "install": f"pip install {pinned}",
        "command": f"layerdiff run {shlex.quote(str(report.request.get('path') or 'config.yaml'))}",
        "config": yaml.safe_dump(report.request["resolved"], sort_keys=False, allow_unicode=True, width=100),
    }
