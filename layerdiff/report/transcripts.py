"""The result of decoding a corpus on a terminal: rates, durations, what each component costs, and the worst clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from layerdiff.decode.result import CandidateDecoding, DecodeReport, LengthAudit, shift_ms
from layerdiff.decode.swaps import ComponentCost, Cost, component_costs
from layerdiff.decode.tally import Tally
from layerdiff.decode.words import Edits, differences
from layerdiff.report import cells, sections
from layerdiff.report.tables import STYLES

CLIPS_SHOWN = 3
"""So many of the clips that differ most are shown with their words."""
REFERENCE = "reference"

Row = Mapping[str, Any]
Piece = Callable[[int], str]
"""Token id → its text."""


def render(report: DecodeReport, console: Console, *, rows: Mapping[int, Row], piece: Piece) -> None:
    """Prints the report.

    Args:
        report: the counts.
        console: where to.
        rows: the worst clips by their index.
        piece: names tokens.
    """
    console.print(view(report, rows=rows, piece=piece, width=console.width))


def render_verdict(report: DecodeReport, console: Console) -> None:
    """Prints only the last lines of the report."""
    console.print(Group(*verdicts(report, width=console.width)))


def view(report: DecodeReport, *, rows: Mapping[int, Row], piece: Piece, width: int) -> Group:
    """The whole report for `width` columns."""
    return Group(
        *header(report, width=width),
        Text(),
        rates(report),
        sections.paragraph(LEGEND, width=width, style="dim"),
        *durations(report),
        *(part for found in report.candidates.values() for part in candidate_view(found, report, rows, piece, width)),
        *problems(report, width=width),
        Text(),
        Rule(style="dim"),
        *verdicts(report, width=width),
    )


LEGEND = (
    "text: against the manifest · ref: against the reference's transcripts · same: clips with its transcript, and with "
    "every decision of it · ends: by how much tokens end elsewhere, on average"
)


def header(report: DecodeReport, *, width: int) -> Iterator[RenderableType]:
    """Versions, the reference, the corpus."""
    tally = report.reference_tally
    asked = tally.clips + tally.problems
    corpus = [cells.plural(asked, "clip"), cells.seconds(report.seconds)]
    corpus += [f"{tally.problems} not decoded"] if tally.problems else []
    corpus += [f"{tally.with_text} with a transcript"] if tally.with_text else ["no transcripts"]
    yield sections.labelled("versions", sections.versions(report.environment), width=width)
    yield sections.labelled("reference", list(cells.facts(report.reference)), width=width)
    yield sections.labelled("corpus", corpus, width=width)


def new_table(*headings: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold",
        border_style="dim",
    )  # fmt: skip
    table.add_column(headings[0], overflow="fold", min_width=9)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def rates(report: DecodeReport) -> Table:
    """One row per model: word and character errors, clips that are the same, by how much tokens move."""
    table = new_table("", "WER text", "CER text", "WER ref", "same text", "same path", "ends", "status")
    table.add_row(REFERENCE, *_rates(report.reference_tally), "", "", "", "", "")
    for name, found in report.candidates.items():
        tally, moved = found.tally, shift_ms(found.tally, report.frame_s)
        same = [
            f"{count}/{tally.clips}" if tally.clips else cells.NOTHING for count in (tally.same_text, tally.same_path)
        ]
        ends = cells.NOTHING if moved is None else f"{moved:.1f} ms"
        status = Text(cells.status(found.status), style=STYLES[found.status])
        table.add_row(cells.clean(name), *_rates(tally), percent(tally.words.rate), *same, ends, status)
    return table


def _rates(tally: Tally) -> tuple[str, str]:
    return percent(tally.text_words.rate), percent(tally.text_characters.rate)


def percent(value: float | None) -> str:
    """Hundredths of a per cent: one word in ten thousand."""
    return cells.NOTHING if value is None else f"{100 * value:.2f} %"


def durations(report: DecodeReport) -> Iterator[RenderableType]:
    """The share of every duration among the tokens, where the model has durations."""
    tallies = {REFERENCE: report.reference_tally, **{name: c.tally for name, c in report.candidates.items()}}
    known = sorted({duration for tally in tallies.values() for duration in tally.durations})
    if not report.reference.get("durations"):
        return
    yield Text()
    table = new_table("duration", *(f"{duration}" for duration in known))
    for name, tally in tallies.items():
        total = sum(tally.durations.values())
        shares = [cells.share(tally.durations.get(d, 0) / total) if total else cells.NOTHING for d in known]
        table.add_row(cells.clean(name), *shares)
    yield table


# ------------------------------------------------------------------ one candidate


def candidate_view(
    found: CandidateDecoding, report: DecodeReport, rows: Mapping[int, Row], piece: Piece, width: int
) -> Iterator[RenderableType]:
    """What is known of one candidate beyond its rates."""
    title = Text(f"{cells.clean(found.name)}  {cells.status(found.status)}", style=STYLES[found.status])
    yield from (Text(), Rule(title, align="left", style="dim"))
    if found.description:
        yield sections.labelled("candidate", sections.candidate_facts(found.description), width=width)
    if found.tally.clips:
        yield sections.labelled("signal", signal_facts(found.tally), width=width)
        yield sections.labelled("forced", forced_facts(found.tally), width=width)
    costs = component_costs(found.mixtures, report.reference_tally, frame_s=report.frame_s)
    if costs:
        words = report.reference_tally.text_words.length
        yield from (Text(), component_table(costs, words=words), sections.paragraph(COSTS, width=width, style="dim"))
    for audit in found.lengths:
        yield from (Text(), *length_view(audit, width=width))
    for row in shown_rows(found.tally, rows):
        if "problem" not in row.get("candidates", {}).get(found.name, {"problem": ""}):
            yield from (Text(), *clip_view(row, found.name, piece, width=width))


def shown_rows(tally: Tally, rows: Mapping[int, Row]) -> list[Row]:
    """The clips that differ most; of few clips all."""
    if tally.clips <= CLIPS_SHOWN:
        return list(rows.values())
    return [rows[bad.index] for bad in tally.worst[:CLIPS_SHOWN] if bad.index in rows]


COSTS = (
    "what each component costs: alone, all others being the reference's · share: on average over all mixtures, so that "
    "the shares add up to the whole"
)


def signal_facts(tally: Tally) -> list[str]:
    """The signal-to-noise ratio of what the candidate computes."""
    ratios = {name: found.snr_db for name, found in tally.signals.items()}
    return [f"{name} {'not finite' if snr is None else cells.number(snr) + ' dB'}" for name, snr in ratios.items()]


def forced_facts(tally: Tally) -> list[str]:
    """What the candidate decides on the reference's path."""
    forced = tally.forced
    facts = [f"on the reference's path {forced.token_flips + forced.duration_flips} decisions differ"]
    facts.append(f"{cells.plural(forced.token_flips, 'token')}, {cells.plural(forced.duration_flips, 'duration')}")
    facts.append(f"{forced.near_ties} at near-ties")
    facts.append(f"of {cells.plural(forced.points, 'point')}")
    return facts + ([f"{forced.missing} beyond its last frame"] if forced.missing else [])


def component_table(costs: Sequence[ComponentCost], *, words: int) -> Table:
    """One row per component.

    Args:
        costs: of every component.
        words: of the manifest's texts.
    """
    has_text = words and any(cost.wrong_words for cost in costs)
    table = new_table(
        "component", *(("WER text", "share") if has_text else ()), "other words", "share", "ends", "share"
    )
    for cost in costs:
        wrong = _pair(cost.wrong_words, 100 / words, 2, " %") if has_text and cost.wrong_words else ()
        table.add_row(cost.component, *wrong, *_pair(cost.changed_words), *_pair(cost.end_shift_ms, unit=" ms"))
    return table


def _pair(cost: Cost, scale: float = 1.0, digits: int = 1, unit: str = "") -> tuple[str, str]:
    """What a component costs alone, and its share, with their signs."""
    alone, share = (round(scale * value, digits) for value in (cost.alone, cost.share))
    return tuple(f"{value:+.{digits}f}{unit}" if value else "0" for value in (alone, share))  # type: ignore[return-value]


def length_view(audit: LengthAudit, *, width: int) -> Iterator[RenderableType]:
    """A clip at other lengths: frames and their errors, and what they point to."""
    yield sections.labelled("lengths", [cells.clean(audit.clip)], width=width)
    table = new_table("presented", "frames", "ref", "first frames", "last", "by padding")
    for error in audit.variations:
        frames = str(error.candidate_frames), str(error.reference_frames)
        errors = cells.number(error.head), cells.number(error.tail)
        own = cells.number(error.own_change) if error.kind in ("padded", "again") else ""
        table.add_row(error.variation, *frames, *errors, own)
    yield table
    for finding in audit.findings:
        said = f"✗ {finding.cause}: {finding.summary} ({finding.variation})"
        yield sections.paragraph(said, width=width, style="bold red")
    if not audit.findings:
        yield sections.paragraph("✓ no length, mask or state is wrong", width=width, style="green")


def clip_view(row: Row, name: str, piece: Piece, *, width: int) -> Iterator[RenderableType]:
    """One clip: what differs, where it begins, and the two transcripts with their differences."""
    found = row["candidates"][name]
    errors, moved = Edits(**found["words"]).errors, found["shift"]["ends_moved"]
    facts = [cells.clean(row["clip"]), f"{errors} word{'s differ' if errors != 1 else ' differs'}"]
    facts.append(f"{moved} token{'s end' if moved != 1 else ' ends'} elsewhere")
    yield sections.labelled("clip", facts, width=width)
    if found["divergence"]:
        yield sections.labelled("first", divergence_facts(found["divergence"], piece), width=width)
    if row.get("text") is not None:
        yield sections.labelled("text", [cells.clean(row["text"])], width=width)
    diff = Text("words       ", style="bold")
    yield diff.append_text(word_diff(row["reference"]["transcript"], found["transcript"]))


def divergence_facts(divergence: Mapping[str, Any], piece: Piece) -> list[str]:
    """Where two decodings part: time, step, what was chosen, the reference's margin."""

    def chosen(side: Sequence[int] | None) -> str:
        return "its end" if side is None else f"'{cells.clean(piece(side[0]))}' for {cells.plural(side[1], 'frame')}"

    facts = [f"{divergence['kind']} differs at {cells.seconds(divergence['time_s'])}"]
    facts.append(f"frame {divergence['frame']}, step {divergence['step']}")
    facts.append(f"{chosen(divergence['reference'])} → {chosen(divergence['candidate'])}")
    if divergence["margin"] is not None:
        near = ", a near-tie" if divergence["near_tie"] else ""
        facts.append(f"margin {cells.number(divergence['margin'])}{near}")
    return facts


def word_diff(reference: str, candidate: str) -> Text:
    """The words of both: `[-` what only the reference has `-]`, `{+` what only the candidate has `+}`."""
    parts: list[Text] = []
    for found in differences(cells.clean(reference).split(), cells.clean(candidate).split()):
        if found.kind == "equal":
            parts.append(Text(" ".join(found.reference)))
            continue
        if found.reference:
            parts.append(Text(f"[-{' '.join(found.reference)}-]", style="red"))
        if found.candidate:
            parts.append(Text("{+" + " ".join(found.candidate) + "+}", style="green"))
    return Text(" ").join(parts)


# ------------------------------------------------------------------ the end


def problems(report: DecodeReport, *, width: int) -> Iterator[RenderableType]:
    """The clips that were not decoded, with the reasons."""
    if not report.problems:
        return
    yield Text()
    yield Text("not decoded", style="bold")
    for problem in report.problems:
        who = f"{cells.clean(problem.clip)}" + (f", {cells.clean(problem.candidate)}" if problem.candidate else "")
        yield sections.paragraph(f"  {who}: {cells.clean(problem.reason)}", width=width, style="")


def verdicts(report: DecodeReport, *, width: int) -> Iterator[RenderableType]:
    """One line per candidate, and one for clips that the reference could not decode."""
    for name, found in report.candidates.items():
        said = f"{cells.SYMBOLS[found.status]} {cells.clean(name)}: {cells.clean(found.reason) or passed(found.tally)}"
        yield sections.paragraph(said, width=width, style=f"bold {STYLES[found.status]}")
    lost = report.reference_tally.problems
    if lost or not report.reference_tally.clips:
        asked = lost + report.reference_tally.clips
        said = f"? {lost} of {cells.plural(asked, 'clip')} could not be decoded at all"
        yield sections.paragraph(said, width=width, style=f"bold {STYLES['unknown']}")


def passed(tally: Tally) -> str:
    """Why a candidate passes."""
    if tally.same_path == tally.clips:
        return "every decision in every clip is the reference's"
    if tally.same_text == tally.clips:
        return "every transcript is the reference's"
    return (
        f"{tally.same_text} of {cells.plural(tally.clips, 'transcript')} are the reference's, the others within limits"
    )
