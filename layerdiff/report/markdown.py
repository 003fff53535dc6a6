"""`report.md`: a summary that can be pasted into an issue, in GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from layerdiff.records import CandidateResult, DurationAnalysis, Finding, Report
from layerdiff.report import cells, sections
from layerdiff.report.rows import SHOWN, Row, candidate_rows

_SPECIAL = re.compile(r"[\\`*\[\]<>|#~]|(?<!\w)_|_(?!\w)")


def render(report: Report) -> str:
    """The file's text."""
    lines = [f"# layerdiff: {cells.status(report.status)}", ""]
    lines += bullets(sections.verdict_of(candidate) for candidate in report.candidates.values())
    lines += ["", *facts("Versions", sections.versions(report.environment))]
    lines += facts("Reference", list(cells.facts(report.reference)))
    for label, items in sections.inputs(report.inputs):
        lines += facts("Inputs", items) if label else [f"  - {escaped(' · '.join(items))}"]
    for candidate in report.candidates.values():
        lines += ["", *candidate_lines(candidate)]
    return "\n".join(lines) + "\n"


def candidate_lines(candidate: CandidateResult) -> Iterator[str]:
    """One candidate: what it is, what was covered, the table, and what was found out."""
    rows, entry = candidate_rows(candidate), candidate.coverage
    yield f"## {escaped(candidate.name)}: {cells.status(candidate.status)}"
    yield ""
    yield from facts("Candidate", sections.candidate_facts(candidate.description))
    done = f"{entry.asked} asked, {entry.captured} captured, {entry.compared} compared"
    yield f"- **Coverage**: {done}, {len(entry.missing)} skipped"
    for missing in entry.missing:
        yield f"  - {code(missing.stage)}: {escaped(missing.reason)}"
    if candidate.alignment is not None:
        yield from facts("Alignment", sections.alignment_facts(candidate.alignment))
        yield from (f"  - {escaped(sections.unpaired_fact(left))}" for left in candidate.alignment.unpaired)
    yield from ("", *table(rows), "", sections.LEGEND)
    yield from ("", *bullets(sections.failures(rows))) if any(row["status"] == "fail" for row in rows) else ()
    if candidate.tdt is not None:
        yield from ("", "### Durations", "", *duration_lines(candidate.tdt))
    for found in candidate.findings:
        yield from ("", *finding_lines(found))


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The table of stages, with the cells of the terminal's."""
    yield line(shown.header for shown in SHOWN)
    yield line("---:" if shown.is_number else "---" for shown in SHOWN)
    for row in rows:
        name, *others = (shown.cell(row) for shown in SHOWN)
        bold = "**" if row["first_divergence"] else ""
        yield line([f"{bold}{code(name)}{bold}", *(escaped(other) if other[:1] != "[" else other for other in others)])


def line(texts: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(texts)} |"


def duration_lines(tdt: DurationAnalysis) -> Iterator[str]:
    """The analysis of the durations, with the first all-negative point as a table."""
    yield escaped(tdt.summary or sections.decided(tdt))
    yield ""
    yield from bullets(sections.duration_facts(tdt))
    if point := tdt.first_all_negative:
        yield from bullets([f"first all-negative point: {sections.place(point)}"])
        yield from ("", line(["duration", *map(str, tdt.durations)]), line(["---", *["---:"] * len(tdt.durations)]))
        for side, values in (("reference", point.reference), ("candidate", point.candidate)):
            yield line([side, *map(cells.number, values)])
    if tdt.flips:
        yield ""
        yield from bullets(" · ".join(sections.flip_facts(flip)) for flip in tdt.flips[: sections.SHOWN_FLIPS])


def finding_lines(entry: Finding) -> Iterator[str]:
    """A cause, its numbers and what to do."""
    explained = f"explains {cells.share(entry.confidence)} of the error"
    yield f"### Cause: {code(entry.cause)} at {code(entry.stage)}, {explained}"
    yield ""
    yield f"{prose(entry.summary)}."
    yield ""
    yield from facts("Evidence", list(cells.facts(entry.evidence)))
    yield f"- **Advice**: {prose(entry.advice)}"


def facts(label: str, items: Sequence[str]) -> list[str]:
    """One labelled bullet."""
    return [f"- **{label}**: {escaped(' · '.join(items) or cells.NOTHING)}"]


def bullets(texts: Iterable[str]) -> list[str]:
    """One bullet per text."""
    return [f"- {escaped(text)}" for text in texts]


def escaped(text: str) -> str:
    """A text on one line in which nothing acts as Markdown or HTML."""
    return _backslashed(cells.clean(text))


def _backslashed(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text)


def code(text: str) -> str:
    """A name in a code span, also inside a table."""
    return f"`{cells.clean(text).replace('`', chr(39)).replace('|', chr(92) + '|') or ' '}`"


def prose(text: str) -> str:
    """A sentence of ours, in which backticks mark code."""
    parts = cells.clean(text).split("`")
    if len(parts) % 2 == 0:
        return escaped(text)
    return "".join(code(part) if position % 2 else _backslashed(part) for position, part in enumerate(parts))
