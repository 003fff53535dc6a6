"""Everything around the table of stages: header, coverage, durations, findings and verdict, as texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from layerdiff.records import (
    AlignmentSummary,
    CandidateResult,
    Check,
    Coverage,
    DurationAnalysis,
    Finding,
    Flip,
    NegativePoint,
    Report,
    Unpaired,
)
from layerdiff.report import cells
from layerdiff.report.rows import Row
from layerdiff.report.selection import sparks
from layerdiff.report.tables import STYLES, flow

SHOWN_FLIPS = 10
"""How many changed decisions are listed; all of them are in report.json."""

SHOWN_PAIRS = 12
"""How many pairs, and how many unpaired tensors, are listed; all of them are in report.json."""

_LABEL_WIDTH = 11


LEGEND = "ranges are [min, max]; conversion, precision, own and inherited are relative L2 errors"


def labelled(label: str, items: Sequence[str], *, width: int, style: str = "", separator: str = " · ") -> Text:
    """A label and items set in lines beside it."""
    lines = flow(items, width=width - _LABEL_WIDTH, separator=separator) or [cells.NOTHING]
    text = Text(overflow="fold")
    for position, line in enumerate(lines):
        text.append("\n" if position else "")
        text.append(f"{'' if position else label:<{_LABEL_WIDTH}}", style="bold")
        text.append(line, style=style)
    return text


def header(report: Report, *, width: int) -> Group:
    """What was compared with what: versions, the reference and its state, the inputs."""
    return Group(
        labelled("versions", versions(report.environment), width=width),
        labelled("reference", list(cells.facts(report.reference)), width=width),
        *(labelled(label, items, width=width) for label, items in inputs(report.inputs)),
    )


def versions(environment: Mapping[str, Any]) -> list[str]:
    """`layerdiff 0.1.0`, `torch 2.13.0`, …; what is not installed is left out."""
    return [f"{cells.clean(key)} {cells.fact(value)}" for key, value in environment.items() if value is not None]


def inputs(entry: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Label and texts: totals first, then one line per clip that was changed before use."""
    clips = [clip for clip in entry.get("clips", ()) if isinstance(clip, Mapping)]
    totals = [cells.plural(len(clips), "clip")] if clips else []
    rest = {key: value for key, value in entry.items() if key != "clips"}
    if isinstance(rest.get("duration_s"), int | float):
        totals.append(cells.seconds(rest.pop("duration_s")))
    if isinstance(rest.get("points"), int):
        origin = f" ({cells.clean(rest.pop('points_from'))})" if "points_from" in rest else ""
        totals.append(cells.plural(rest.pop("points"), "point") + origin)
    yield "inputs", [*totals, *cells.facts(rest)]
    for clip in clips:
        if clip.get("notes"):
            yield "", [f"{cells.clean(clip.get('name'))}: {', '.join(map(cells.clean, clip['notes']))}"]


def candidate_facts(description: Mapping[str, Any]) -> list[str]:
    """Engine, recipe and precision; of packages the file names, the whole paths are in report.json."""
    shown = dict(description)
    if isinstance(packages := shown.get("packages"), Mapping):
        shown["packages"] = [Path(str(path)).name for path in packages.values()]
    return list(cells.facts(shown))


def coverage(entry: Coverage, *, width: int) -> Text:
    """How much of what was asked for was done, and why the rest was not."""
    counts = [f"{entry.asked} asked", f"{entry.captured} captured", f"{entry.compared} compared"]
    text = labelled("coverage", [*counts, f"{len(entry.missing)} skipped"], width=width)
    for missing in entry.missing[:SHOWN_PAIRS]:
        why = f"? {cells.clean(missing.stage)}: {cells.clean(missing.reason)}"
        text.append("\n").append_text(sentence("", why, width=width, style="yellow"))
    if len(entry.missing) > SHOWN_PAIRS:
        rest = f"… and {len(entry.missing) - SHOWN_PAIRS} more, in report.json"
        text.append("\n").append_text(sentence("", rest, width=width, style="yellow"))
    return text


def checks(entries: Sequence[Check], *, width: int) -> Text:
    """What the packages are known for before they run, each kind with its first places."""
    kinds: dict[str, list[Check]] = {}
    for entry in entries:
        kinds.setdefault(entry.kind, []).append(entry)
    lines = []
    for kind, found in kinds.items():
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        lines.append(f"{kind} at {cells.clean(found[0].place)}: {cells.clean(found[0].detail)}{more}")
    text = sentence("checks", lines[0], width=width, style="yellow")
    for line in lines[1:]:
        text.append("\n").append_text(sentence("", line, width=width, style="yellow"))
    return text


def alignment(entry: AlignmentSummary, rows: Sequence[Row], *, width: int, whole: bool = False) -> Iterator[Text]:
    """How the stages were found, which tensor is which, and what has no counterpart.

    Args:
        entry: the alignment.
        rows: the stages.
        width: columns.
        whole: whether to list everything; else only the first few.
    """
    yield labelled("alignment", alignment_facts(entry), width=width)
    pairs = [pair_fact(row) for row in rows if row["candidate_tensor"]]
    for label, items in (("pairs", pairs), ("unpaired", [unpaired_fact(left) for left in entry.unpaired])):
        shown = items if whole else items[:SHOWN_PAIRS]
        rest = [f"… and {len(items) - len(shown)} more, in report.json"] if len(items) > len(shown) else []
        for position, item in enumerate([*shown, *rest]):
            yield sentence("" if position else label, item, width=width, style="dim")


def alignment_facts(entry: AlignmentSummary) -> list[str]:
    """`17 by name`, `8 by structure`, and how much of either side that is."""
    found = [f"{count} by {method}" for method, count in entry.methods.items()]
    of = "{} of the {}'s {} tensors"
    return [
        *found,
        of.format(entry.reference_paired, "reference", entry.reference_tensors),
        of.format(entry.candidate_paired, "candidate", entry.candidate_tensors),
    ]


def pair_fact(row: Row) -> str:
    """`joint.enc = linear_0_cast_fp16 (weights 0.97)`."""
    sure = row["alignment_confidence"]
    how = f"{row['alignment_method']} {cells.share(sure)}" if sure is not None else row["alignment_method"]
    return f"{row['reference_tensor']} = {row['candidate_tensor']} ({how})"


def unpaired_fact(left: Unpaired) -> str:
    """Which tensor of which side, its op, and why."""
    return f"{left.side}'s {cells.clean(left.tensor)} ({cells.clean(left.op)}): {cells.clean(left.reason)}"


def errors(rows: Sequence[Row], *, width: int) -> Iterator[Text]:
    """The errors of all stages along the depth of the model, in one line per component."""
    bars = list(sparks(rows, width=width - 2 * _LABEL_WIDTH - 2))
    if len(rows) < 2 or not any(line.strip() for _, line in bars):
        return
    named = len(bars) > 1
    longest = max(len(component) for component, _ in bars)
    for position, (component, line) in enumerate(bars):
        text = Text(f"{'' if position else 'errors':<{_LABEL_WIDTH}}", style="bold", overflow="fold")
        text.append(f"{component:<{longest}}  " if named else "", style="dim")
        yield text.append(line, style="")


def reasons(rows: Sequence[Row], *, width: int) -> Iterator[Text]:
    """Why stages fail, and which layouts were changed; the coverage has the unknown ones."""
    for text in failures(rows):
        yield paragraph(f"✗ {text}", width=width, style="red")
    confirmed = [row for row in rows if row["confirmed_own_error"] is not None]
    for row in confirmed:
        yield paragraph(f"· {row['label']}: {confirmation(row)}", width=width, style="dim")
    for row in rows:
        if row["layout"]:
            yield paragraph(f"· {row['label']}: {row['layout']}", width=width, style="dim")


def confirmation(row: Row) -> str:
    """What a second measurement says of a stage's own error."""
    again, own = row["confirmed_own_error"], row["own_error"]
    verdict = "confirms" if own and abs(again - own) <= 0.1 * own else "contradicts"
    measured = f"{cells.number(again)}, which {verdict} {cells.number(own)}"
    return f"given the reference's tensors alone, its own error is {measured}"


def failures(rows: Sequence[Row]) -> Iterator[str]:
    """Why each failing stage fails and where it is worst; those that only inherit their error share a sentence."""
    heirs = [row["label"] for row in rows if only_inherits(row)]
    for row in rows:
        if row["status"] == "fail" and not only_inherits(row):
            first = "first divergence: " if row["first_divergence"] else ""
            yield f"{first}{row['label']}: {row['reason'] or 'it fails'}{worst(row)}"
    if heirs:
        verb = "fails" if len(heirs) == 1 else "fail"
        yield f"{', '.join(heirs)}: {verb} by the error inherited from the stages before"


def only_inherits(row: Row) -> bool:
    """Whether a stage fails but would not if it were fed the reference's tensors."""
    own, limit = row["own_error"], row["total_limit"]
    return row["status"] == "fail" and not row["first_divergence"] and None not in (own, limit) and own <= limit


def paragraph(text: str, *, width: int, style: str) -> Text:
    """A text wrapped at spaces, with everything after its first line indented."""
    return Text("\n  ".join(flow(text.split(" "), width=width - 2, separator=" ")), style=style, overflow="fold")


def worst(row: Row) -> str:
    """`; worst in a.wav at frame 17 (1.36 s), step 3`."""
    if not row["worst_clip"]:
        return ""
    if row["worst_frame"] is None:
        return f"; worst in {cells.clean(row['worst_clip'])}, row {row['worst_row']}"
    time = cells.seconds(row["worst_time_s"] or 0.0)
    return (
        f"; worst in {cells.clean(row['worst_clip'])} at frame {row['worst_frame']} ({time}), step {row['worst_step']}"
    )


# ------------------------------------------------------------------ durations


def durations(tdt: DurationAnalysis, *, width: int) -> Group:
    """Where duration logits are negative, and whether any decision changes because of it."""
    return Group(
        sentence("durations" if tdt.durations else "decisions", tdt.summary or decided(tdt), width=width, style="bold"),
        labelled("", duration_facts(tdt), width=width),
        *(first_negative(tdt.first_all_negative, tdt.durations, width=width) if tdt.first_all_negative else ()),
        *(flip_lines(tdt, width=width)),
    )


def duration_facts(tdt: DurationAnalysis) -> list[str]:
    """The counts in words."""
    total = cells.plural(tdt.points, "point")
    if not tdt.durations:
        return [f"{decided(tdt)} of {total}"]
    facts = [
        f"all negative: reference {tdt.reference_all_negative}, candidate {tdt.candidate_all_negative} of {total}",
        f"sign lost at: {cells.clean(tdt.sign_lost_at) if tdt.sign_lost_at else 'no stage'}",
        decided(tdt),
    ]
    if 0 in tdt.durations:
        facts.append(f"duration 0: reference {tdt.reference_zero_durations}, candidate {tdt.candidate_zero_durations}")
    if tdt.reference_frames_per_step is not None and tdt.candidate_frames_per_step is not None:
        ours, theirs = (f"{mean:.3g}" for mean in (tdt.reference_frames_per_step, tdt.candidate_frames_per_step))
        facts.append(f"frames per step: reference {ours}, candidate {theirs}")
    return facts


def decided(tdt: DurationAnalysis) -> str:
    """`changed decisions: token 0, duration 0, frame advance 0`."""
    counts = f"token {tdt.token_flips}"
    if tdt.durations:
        counts += f", duration {tdt.duration_flips}"
    if tdt.reference_frames_per_step is not None:
        counts += f", frame advance {tdt.frame_advance_flips}"
    return f"changed decisions: {counts}" + (f" ({tdt.near_ties} near-ties)" if tdt.near_ties else "")


def place(point: NegativePoint | Flip) -> str:
    """`a.wav, frame 17 (1.36 s), step 3`."""
    return f"{cells.clean(point.clip)}, frame {point.frame} ({cells.seconds(point.time_s)}), step {point.step}"


def first_negative(point: NegativePoint, values: Sequence[int], *, width: int) -> Iterator[RenderableType]:
    """The first point at which the sign is lost, with both sides' logits."""
    yield labelled("", [f"first all-negative point: {place(point)}"], width=width)
    sides = {"reference": point.reference, "candidate": point.candidate}
    texts = {side: [cells.number(value) for value in logits] for side, logits in sides.items()}
    column = max(len(text) for side in texts.values() for text in side) + 2
    if _LABEL_WIDTH + 11 + column * len(values) > width:
        for side, numbers in texts.items():
            items = [f"{value}: {text}" for value, text in zip(values, numbers, strict=True)]
            yield labelled("", [side, *items], width=width)
        return
    table = Table(box=None, show_header=False, padding=0, pad_edge=False)
    table.add_column(width=_LABEL_WIDTH + 11)
    for name, line in {"duration": map(str, values), **texts}.items():
        table.add_row(Text(f"{'':<{_LABEL_WIDTH}}{name}"), *(Text(f"{text:>{column}}", no_wrap=True) for text in line))
    yield table


def flip_lines(tdt: DurationAnalysis, *, width: int) -> Iterator[Text]:
    """The first changed decisions, each with the reference's margin."""
    for flip in tdt.flips[:SHOWN_FLIPS]:
        yield labelled("", flip_facts(flip), width=width)
    left = tdt.token_flips + tdt.duration_flips + tdt.frame_advance_flips - len(tdt.flips[:SHOWN_FLIPS])
    if left > 0 and tdt.flips:
        yield labelled("", [f"… and {left} more"], width=width)


def flip_facts(flip: Flip) -> list[str]:
    """What changed, where, and how close the reference's decision was."""
    change = f"{flip.kind.replace('_', ' ')} {flip.reference} → {flip.candidate}"
    return [change, f"margin {cells.number(flip.margin)}", place(flip)]


# ------------------------------------------------------------------ findings and verdict


def finding(entry: Finding, *, width: int) -> Group:
    """A cause in words, its numbers, and what to do."""
    explained = f"explains {cells.share(entry.confidence)} of the error"
    title = f"{cells.clean(entry.cause)} at {cells.clean(entry.stage)}, {explained}"
    return Group(
        labelled("cause", [title], width=width, style="bold"),
        sentence("", entry.summary, width=width),
        labelled("evidence", list(cells.facts(entry.evidence)), width=width),
        sentence("advice", entry.advice, width=width),
    )


def sentence(label: str, text: str, *, width: int, style: str = "") -> Text:
    """A label and a text that is wrapped at spaces beside it."""
    return labelled(label, cells.clean(text).split(), width=width, style=style, separator=" ")


def verdict(report: Report, *, width: int) -> Text:
    """One line over all candidates, broken between them where it has to be."""
    items = [f"{cells.SYMBOLS[c.status]} {verdict_of(c)}" for c in report.candidates.values()]
    return Text("\n".join(flow(items, width=width)), style=STYLES[report.status], overflow="fold")


def verdict_of(candidate: CandidateResult) -> str:
    """`cpu_traced fails first at logits (log_softmax_baked)`."""
    name = cells.clean(candidate.name)
    if candidate.status == "fail":
        cause = f" ({cells.clean(candidate.findings[0].cause)})" if candidate.findings else ""
        return f"{name} fails first at {cells.clean(candidate.first_divergence or 'an unnamed stage')}{cause}"
    if candidate.status == "unknown":
        missing = cells.plural(len(candidate.coverage.missing), "stage")
        return f"{name} unknown: {missing} could not be compared"
    return f"{name} passes"
