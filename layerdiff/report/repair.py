"""A repair on a terminal: every stage before and after, then what was done and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from layerdiff.records import CandidateResult, StageResult, TensorSummary
from layerdiff.repairs import Repair
from layerdiff.report import cells, sections
from layerdiff.report.json import candidate_document
from layerdiff.report.tables import STYLES, folded

NAME_MIN = 12
"""The narrowest column of stage names."""
GAP = 2


def document(repair: Repair) -> dict[str, Any]:
    """The repair as plain JSON values."""
    from layerdiff.report.json import plain

    known = {name: value for name, value in vars(repair).items() if name not in ("before", "after")}
    sides = {"before": candidate_document(repair.before), "after": candidate_document(repair.after)}
    return {"schema": 1, **plain(known), **sides}


def render(repair: Repair, console: Console) -> None:
    """Prints it."""
    console.print(view(repair, width=console.width))


def view(repair: Repair, *, width: int) -> Group:
    """The table, decisions, and what was done, for `width` columns."""
    return Group(
        Text(),
        before_and_after(repair.before, repair.after, width=width),
        sections.paragraph("ranges are [min, max]; below them the largest absolute error", width=width, style="dim"),
        Text(),
        *_decisions(repair, width=width),
        *_facts(repair, width=width),
        Text(),
        sections.paragraph(f"✓ {repair.before.name} is repaired: {repair.package}", width=width, style="bold green"),
        sections.paragraph(
            f"compare it with  {repair.before.name}: {{coreml: {repair.package}}}", width=width, style=""
        ),
    )


def before_and_after(before: CandidateResult, after: CandidateResult, *, width: int) -> Table:
    """One row per stage; stages that only one side has are shown too."""
    old, new = ({stage.name: stage for stage in side.stages} for side in (before, after))
    rows = [_row(name, old.get(name), new.get(name)) for name in dict.fromkeys([*old, *new])]
    numbers = [cell_len(line) for row in rows for text in row[2:] for line in text.plain.splitlines()]
    room = max(width - 3 * (max(numbers, default=0) + GAP), NAME_MIN)
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        header_style="bold",
        border_style="dim",
    )
    table.add_column("stage", overflow="fold")
    for name in ("reference", "before", "after"):
        table.add_column(name, justify="right", no_wrap=True)
    for heading, status, *sides in rows:
        folds = Text("\n".join(folded(heading.plain, width=room)))
        table.add_row(folds.append("\n").append(status), *sides)
    return table


def _row(name: str, old: StageResult | None, new: StageResult | None) -> list[Text]:
    """Name, what became of the status, and the numbers of the reference, before and after."""
    words = " → ".join(cells.status(side.status) for side in (old, new) if side is not None)
    last = new or old
    style = STYLES[last.status] if last is not None else ""
    reference = last.reference if last is not None else None
    texts = [Text(cells.clean(name)), Text(f"  {words}", style=style), Text(_range(reference))]
    for side in (old, new):
        lines = [_range(side.candidate if side is not None else None)]
        lines += [cells.number(side.metrics.get("max_abs_error"))] if side is not None and side.metrics else []
        texts.append(Text("\n".join(lines), style=STYLES["fail"] if side is not None and side.status == "fail" else ""))
    return texts


def _range(side: TensorSummary | None) -> str:
    return cells.number(None) if side is None else cells.interval(side.min, side.max)


def _decisions(repair: Repair, *, width: int) -> Iterator[RenderableType]:
    """What became of the decisions, where the joint has durations."""
    old, new = repair.before.tdt, repair.after.tdt
    if old is None or new is None:
        return
    counts = [
        ("all durations negative", old.candidate_all_negative, new.candidate_all_negative),
        ("token decisions changed", old.token_flips, new.token_flips),
        ("duration decisions changed", old.duration_flips, new.duration_flips),
        ("frame advances changed", old.frame_advance_flips, new.frame_advance_flips),
    ]
    facts = [f"{what} {before} → {after}" for what, before, after in counts]
    facts.append(f"of {cells.plural(new.points, 'point')}, {new.reference_all_negative} all negative in the reference")
    yield sections.labelled("decisions", facts, width=width)


def _facts(repair: Repair, *, width: int) -> Iterator[RenderableType]:
    last = repair.attempts[-1]
    failed = [
        f"{one.way}: {one.reason}" for one in repair.attempts[:-1] if not one.float32_ops and one.status != "pass"
    ]
    for found in repair.before.findings[:1]:
        yield sections.labelled("cause", [f"{found.cause} at {cells.clean(found.stage)}"], width=width)
    yield sections.labelled("rebuilt", [*_way(last.way), f"{len(repair.attempts)} built"], width=width)
    if failed:
        yield sections.labelled("tried", failed, width=width)
    if repair.float32_ops:
        yield sections.labelled("in float32", list(repair.float32_ops), width=width)
        cost = f"{cells.size(repair.bytes_of_float32_ops)} more than without; none of them can be left out"
        yield sections.labelled("", [cost], width=width)
    held, needed = repair.weights
    yield sections.labelled("weights", [f"{held} of {needed} as in the checkpoint"], width=width)
    same = "as the old package's: it can take its place"
    yield sections.labelled("interface", list(repair.interface) or [same], width=width)
    yield sections.labelled(
        "size", [f"{cells.size(repair.bytes_before)} → {cells.size(repair.bytes_after)}"], width=width
    )


WORDS: Mapping[str, str] = {
    "raw_logits": "from the checkpoint's weights, raw logits",
    "separate_heads": "from the checkpoint's weights, vocabulary and durations as outputs of their own",
    "log_softmax": "from the checkpoint's weights, log-softmax of vocabulary and of durations, each by itself",
}
"""Way of rebuilding → what it is."""


def _way(way: str) -> list[str]:
    return [way, WORDS[way]]
