"""The data of the page's plots.

A plot is `{"spec": NAME, "data": {NAME: COLUMNS}}`: the specification is one of `TEMPLATES`, whose named data sets are
filled with columns of equal length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, ldexp
from typing import Any

from layerdiff.pictures import DurationMap, OpNode, Profile, Waveform
from layerdiff.report import cells
from layerdiff.report.page.specifications import ERRORS
from layerdiff.report.rows import Row

FLOOR = 1e-9
"""Errors below this are drawn here: an axis of powers has no zero."""

Columns = dict[str, list[Any]]
Plot = dict[str, Any]


def short(value: float | None) -> float | None:
    """Four significant digits are more than a plot shows."""
    return None if value is None or not isfinite(value) else float(f"{value:.4g}")


def columns(rows: Iterable[Mapping[str, Any]]) -> Columns:
    """Rows of the same keys as columns."""
    found: Columns = {}
    for row in rows:
        for name, value in row.items():
            found.setdefault(name, []).append(short(value) if isinstance(value, float) else value)
    return found


def depth(rows: Sequence[Row], links: Sequence[str | None]) -> Plot | None:
    """The error of every stage along the depth of the model, and what it consists of.

    Args:
        rows: the stages.
        links: where in the page each one's details are; None for one that has none.
    """
    sources = dict(
        zip(
            ERRORS,
            ("relative_l2_error", "own_error", "inherited_error", "conversion_error", "precision_error"),
            strict=True,
        )
    )
    drawn = [
        {"place": place, "kind": kind, "error": max(float(row[name]), FLOOR)}
        for kind, name in sources.items()
        for place, row in enumerate(rows, 1)
        if row[name] is not None and isfinite(row[name])
    ]
    if not drawn:
        return None
    points = [
        {
            "place": place,
            "error": max(float(row["relative_l2_error"]), FLOOR),
            "measured": cells.number(row["relative_l2_error"]),
            "stage": row["label"],
            "status": row["status"],
            "link": link,
        }
        for place, (row, link) in enumerate(zip(rows, links, strict=True), 1)
        if row["relative_l2_error"] is not None and isfinite(row["relative_l2_error"])
    ]
    return {"spec": "depth", "data": {"errors": columns(drawn), "stages": columns(points)}}


def of_profile(profile: Profile) -> dict[str, Plot]:
    """The plots of one stage."""
    found = {"values": _values(profile), "errors": _errors(profile), "magnitude": _magnitudes(profile)}
    if (course := profile.course) is not None:
        unit = course.place_s or 1
        places = [{"place": p * unit, "error": e} for p, e in zip(course.places, course.errors, strict=True)]
        title = f"error along time in {course.clip}, s" if course.place_s else f"error along axis {course.axis}"
        found["course"] = {"spec": "course", "data": {"places": columns(places)}, "title": title}
    return {name: plot for name, plot in found.items() if plot is not None}


def _values(profile: Profile) -> Plot | None:
    values = profile.values
    rows = [
        {"value": values.low + place * values.width, "count": count, "side": side}
        for side in ("reference", "candidate")
        for place, count in enumerate((*getattr(values, side), 0))
    ]
    return {"spec": "values", "data": {"bins": columns(rows)}} if values.reference else None


def _errors(profile: Profile) -> Plot | None:
    rows = [
        {"low": ldexp(1.0, exponent), "high": ldexp(1.0, exponent + 1), "count": count}
        for exponent, count in profile.errors
        if exponent is not None
    ]
    return {"spec": "errors", "data": {"bins": columns(rows)}} if rows else None


def _magnitudes(profile: Profile) -> Plot | None:
    rows = [
        {"size": ldexp(1.0, size.exponent), "error": bound, "kind": kind, "count": size.count}
        for size in profile.magnitudes
        if size.exponent is not None
        for kind, bound in (("half of them", size.median), ("nine of ten", size.most), ("all", size.all))
        if bound
    ]
    return {"spec": "magnitude", "data": {"sizes": columns(rows)}} if rows else None


def duration_map(drawn: DurationMap, durations: Sequence[int]) -> Plot:
    """Frame × duration of both sides; points at one frame share its width."""
    starts = _spread(drawn.frames)
    ends = [*starts[1:], drawn.frames[-1] + 1.0] if drawn.frames else []
    rows = [
        {
            "frame": start,
            "end": end,
            "time": frame * drawn.frame_s,
            "step": step,
            "duration": duration,
            "logit": logit,
            "side": side,
        }
        for side in ("reference", "candidate")
        for start, end, frame, step, logits in zip(
            starts, ends, drawn.frames, drawn.steps, getattr(drawn, side), strict=True
        )
        for duration, logit in zip(durations, logits, strict=True)
    ]
    return {"spec": "map", "data": {"logits": columns(rows)}}


def _spread(frames: Sequence[int]) -> list[float]:
    """Frames, those that follow each other at the same one told apart by fractions."""
    together, seen = Counter(frames), Counter[int]()
    places: list[float] = []
    for frame in frames:
        places.append(frame + seen[frame] / together[frame])
        seen[frame] += 1
    return places


def timeline(
    wave: Waveform, table: Mapping[str, Any], *, pieces: Mapping[int, str], frame_s: float, blank: int | None
) -> Plot:
    """The decisions of both sides over the recording, and the reference's words."""
    size = wave.duration_s / max(len(wave.low), 1)
    outline = [
        {"time": place * size, "low": low, "high": high}
        for place, (low, high) in enumerate(zip(wave.low, wave.high, strict=True))
    ]
    data = {"wave": columns(outline), "words": columns(_words(table, pieces, blank))}
    data["decisions"] = columns(_decisions(table, pieces, frame_s=frame_s, blank=blank))
    return {"spec": "timeline", "data": data}


def _decisions(
    table: Mapping[str, Any], pieces: Mapping[int, str], *, frame_s: float, blank: int | None
) -> Iterable[dict[str, Any]]:
    """One bar per decision, as long as it advances; changed ones in the candidate's colour."""
    count = len(table["frame"])
    for side in ("reference", "candidate"):
        for point in range(count):
            token = int(table[f"{side}_token"][point])
            duration = int(table[f"{side}_duration"][point]) if f"{side}_duration" in table else 1
            keys = [key for key in ("token", "duration") if f"reference_{key}" in table]
            changed = any(table[f"reference_{key}"][point] != table[f"candidate_{key}"][point] for key in keys)
            kind = "changed" if changed and side == "candidate" else "blank" if token == blank else "token"
            time = float(table["time_s"][point])
            yield {
                "time": time,
                "end": time + max(duration, 0.4) * frame_s,
                "side": side,
                "kind": kind,
                "token": "blank" if token == blank else pieces.get(token, str(token)),
                "duration": duration,
                "step": int(table["step"][point]),
            }


def _words(table: Mapping[str, Any], pieces: Mapping[int, str], blank: int | None) -> list[dict[str, Any]]:
    """The reference's words where their first token is decided for; a piece that begins with ▁ begins a word."""
    words: list[dict[str, Any]] = []
    for token, time in zip(table["reference_token"], table["time_s"], strict=True):
        piece = pieces.get(int(token), "")
        if int(token) == blank or not piece:
            continue
        if not words or piece.startswith(("▁", " ")):
            words.append({"time": float(time), "word": ""})
        words[-1]["word"] += piece.strip("▁ ")
    return [word for word in words if word["word"]]


def graph(ops: Sequence[OpNode]) -> Plot | None:
    """The ops around the first divergence, one line per op in order of execution, and what each is computed from."""
    if not ops:
        return None
    lanes = _lanes(ops)
    places = {op.name: (lane, place) for place, (op, lane) in enumerate(zip(ops, lanes, strict=True))}
    nodes = [
        {
            "name": op.name,
            "op": op.op,
            "dtype": op.dtype,
            "shape": cells.shape(op.shape),
            "stage": op.stage,
            "status": op.status or "not compared",
            "label": f"{op.op} → {op.name}" + (f" = {op.stage}" if op.stage else ""),
            "lane": lane,
            "place": place,
            "label_lane": max(lanes) + 0.6,
        }
        for op, (lane, place) in zip(ops, places.values(), strict=True)
    ]
    edges = [
        dict(zip(("lane", "place", "lane2", "place2"), (*places[source], *places[op.name]), strict=True))
        for op in ops
        for source in op.inputs
    ]
    data = {"ops": columns(nodes), "edges": columns(edges), "ends": {"lane": [-0.5, max(lanes) + 16.0]}}
    return {"spec": "graph", "data": data, "height": 24 * len(ops) + 10}


def _lanes(ops: Sequence[OpNode]) -> list[int]:
    """A lane per op; it is free again after the last reader, so that no edge inside of a lane passes another op."""
    last_read = {source: place for place, op in enumerate(ops) for source in op.inputs}
    busy: dict[int, str] = {}
    lanes = []
    for place, op in enumerate(ops):
        busy = {lane: name for lane, name in busy.items() if last_read.get(name, -1) >= place}
        ending = [lane for lane, name in busy.items() if name in op.inputs and last_read[name] == place]
        lane = min(ending, default=next(lane for lane in range(len(ops) + 1) if lane not in busy))
        busy[lane] = op.name
        lanes.append(lane)
    return lanes
