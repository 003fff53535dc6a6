"""What a model holds, and whether it holds a checkpoint's weights, on a terminal of 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from layerdiff.audit import Audit, Extra, WeightAudit
from layerdiff.inspection import Hazard, Inspection, Island, Part, Tensor
from layerdiff.report import cells, sections
from layerdiff.report.tables import STYLES, folded

SHOWN_TENSORS = 24
"""Tensors that are listed without --all: outputs, and what ops with weights make."""
SHOWN_HAZARDS = 6
"""Tensors that are named per hazard."""
SHOWN_EXTRA = 8

_WORST = {"changed": "fail", "missing": "fail", "unknown": "unknown", "matched": "pass"}


def render(inspection: Inspection, audit: Audit | None, console: Console, *, show_all: bool) -> None:
    """Prints everything.

    Args:
        inspection: what the model holds.
        audit: of its weights against a checkpoint; None if there is none.
        console: where to; its width decides where lines break.
        show_all: list every tensor and every weight.
    """
    console.print(view(inspection, audit, width=console.width, show_all=show_all))


def view(inspection: Inspection, audit: Audit | None, *, width: int, show_all: bool) -> Group:
    """The whole output for a console of `width` columns."""
    parts: list[RenderableType] = [*_header(inspection, width=width)]
    for part in inspection.parts:
        if len(inspection.parts) > 1:
            parts += [Text(), Rule(Text(cells.clean(part.name)), align="left", style="dim")]
        parts += _part(part, width=width, show_all=show_all)
    if audit is not None:
        parts += [Text(), Rule(Text("weights"), align="left", style="dim")]
        parts += _audit(audit, width=width, show_all=show_all)
    return Group(*parts)


def _header(inspection: Inspection, *, width: int) -> Iterator[RenderableType]:
    yield Text(f"{cells.clean(inspection.name)}: {inspection.kind}", style="bold")
    yield sections.sentence("path", inspection.path, width=width)
    yield sections.labelled("holds", list(cells.facts(inspection.facts)), width=width)
    if inspection.claims:
        yield sections.labelled("claims", [cells.clean(claim) for claim in inspection.claims], width=width)
    for note in inspection.notes:
        yield sections.sentence("", note, width=width, style="yellow")


# ------------------------------------------------------------------ a part


def _part(part: Part, *, width: int, show_all: bool) -> Iterator[RenderableType]:
    if part.precision:
        yield sections.labelled("precision", [f"{part.precision}, by the ops"], width=width)
    for label in ("inputs", "outputs", "states"):
        for position, port in enumerate(getattr(part, label)):
            note = f" ({port.note})" if port.note else ""
            text = f"{cells.clean(port.name)} {port.type}{note}"
            yield sections.sentence(label if position == 0 else "", text, width=width)
    if part.ops:
        yield sections.labelled("ops", _op_words(part), width=width)
    if part.storage:
        yield from (Text(), _storage_table(part))
    if part.islands:
        yield Text()
        yield from (_island(island, width=width) for island in part.islands)
    if part.hazards:
        yield Text()
        yield from _hazards(part.hazards, width=width, show_all=show_all)
    if part.tensors:
        yield Text()
        yield from _tensors(part.tensors, width=width, show_all=show_all)


def _op_words(part: Part) -> list[str]:
    """`41 ops`, `conv 6`, `cast 2 (float32 1, float16 1)`: dtypes where they are not those of the whole."""
    total = sum(entry.count for entry in part.ops)
    by_type: dict[str, Counter[str]] = {}
    for entry in part.ops:
        by_type.setdefault(entry.op, Counter())[entry.dtype] += entry.count
    words = [cells.plural(total, "tensor")]
    for op, dtypes in sorted(by_type.items(), key=lambda item: -item[1].total()):
        other = dict(dtypes) if set(dtypes) != {part.precision} else {}
        shown = ", ".join(f"{dtype} {count}" if len(other) > 1 else dtype for dtype, count in other.items())
        words.append(f"{op} {dtypes.total()}{f' ({shown})' if shown else ''}")
    return words


def _storage_table(part: Part) -> Table:
    table = _plain_table()
    for header in ("weights", "constants", "values", "size", "bits per value"):
        table.add_column(header, justify="left" if header == "weights" else "right")
    for stored in part.storage:
        bits = cells.number(round(stored.bits_per_value, 2))
        numbers = (str(stored.constants), f"{stored.values:,}", cells.size(stored.size_bytes), bits)
        table.add_row(Text(cells.clean(stored.stored)), *numbers)
    return table


def _plain_table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", show_edge=False)


def _island(island: Island, *, width: int) -> Text:
    kinds = ", ".join(dict.fromkeys(island.ops))
    where = f"'{cells.clean(island.first)}'"
    where += f" to '{cells.clean(island.last)}'" if island.last != island.first else ""
    text = f"{island.dtype}: {cells.plural(len(island.ops), 'op')} ({kinds}) at {where}"
    return sections.sentence("island", text, width=width)


def _hazards(hazards: Sequence[Hazard], *, width: int, show_all: bool) -> Iterator[RenderableType]:
    """Hazards of one kind and cause share a line."""
    grouped: dict[str, list[str]] = {}
    for hazard in hazards:
        grouped.setdefault(hazard.detail, []).append(cells.clean(hazard.tensor))
    for detail, tensors in grouped.items():
        shown = tensors if show_all else tensors[:SHOWN_HAZARDS]
        more = f" and {len(tensors) - len(shown)} more" if len(tensors) > len(shown) else ""
        yield sections.sentence("hazard", f"{detail}: {', '.join(shown)}{more}", width=width, style="yellow")


def _tensors(tensors: Sequence[Tensor], *, width: int, show_all: bool) -> Iterator[RenderableType]:
    """The tensors that can be stages; folded to landmarks unless all are wanted."""
    landmarks = [tensor for tensor in tensors if tensor.is_landmark]
    shown = list(tensors) if show_all else landmarks[:SHOWN_TENSORS]
    table = _plain_table()
    rows = [(cells.clean(t.name), t.op, f"{t.dtype}{cells.shape(t.shape)}") for t in shown]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (1, 2)]
    name_width = max(width - sum(widths) - 4, 16)
    table.add_column("can be a stage", overflow="fold")
    table.add_column("op", no_wrap=True)
    table.add_column("type", no_wrap=True)
    for name, op, kind in rows:
        table.add_row(Text("\n".join(folded(name, width=name_width))), Text(op), Text(kind))
    yield table
    if len(shown) < len(tensors):
        yield Text(f"… and {cells.plural(len(tensors) - len(shown), 'more tensor')}; --all lists them", style="dim")


# ------------------------------------------------------------------ the audit


def _audit(audit: Audit, *, width: int, show_all: bool) -> Iterator[RenderableType]:
    counts = [f"{count} {verdict}" for verdict, count in audit.counts.items()]
    yield sections.labelled("audit", [cells.plural(len(audit.weights), "weight"), *counts], width=width)
    for entry in audit.weights:
        if entry.verdict in ("changed", "missing", "unknown") or (show_all and entry.verdict != "matched"):
            yield from _entry(entry, width=width)
    yield from _elsewhere(audit.weights, width=width)
    matched = [entry for entry in audit.weights if entry.verdict == "matched"]
    if show_all:
        for entry in matched:
            yield from _entry(entry, width=width)
    elif matched:
        yield from (Text(), _matched_table(matched))
        yield from _transforms(matched, width=width)
    yield from _extra(audit.extra, width=width, show_all=show_all)
    yield from (Text(), _verdict(audit, width=width))


def _entry(entry: WeightAudit, *, width: int) -> Iterator[Text]:
    style = STYLES.get(_WORST.get(entry.verdict, ""), "dim")
    symbol = cells.SYMBOLS.get(_WORST.get(entry.verdict, ""), cells.NOTHING)
    shape = cells.shape(entry.shape)
    head = f"{symbol} {cells.clean(entry.name)} {shape} {entry.verdict}"
    yield sections.paragraph(head, width=width, style=style if entry.verdict != "matched" else "")
    details = [detail for detail in (_in_words(entry), *_numbers(entry)) if detail]
    if details:
        yield sections.labelled("", details, width=width, style="dim" if entry.verdict == "matched" else "")


def _in_words(entry: WeightAudit) -> str:
    words = cells.clean(entry.reason)
    held = f"in '{cells.clean(', '.join(entry.constants))}'" if entry.constants else ""
    return "; ".join(part for part in (words, held, cells.clean(entry.transform)) if part)


def _numbers(entry: WeightAudit) -> Iterator[str]:
    found = entry.difference
    if found is None:
        return
    yield f"stored as {cells.clean(entry.stored)}"
    yield f"relative L2 error {cells.number(found.relative_l2_error)}, allowed {cells.number(found.allowed_error)}"
    if found.relative_l2_error:
        yield f"SNR {cells.number(round(found.snr_db, 1))} dB, {cells.number(round(found.effective_bits, 1))} bits"
    if abs(found.scale - 1) > found.allowed_error:
        yield f"best scale {cells.number(found.scale)}"


def _elsewhere(entries: Sequence[WeightAudit], *, width: int) -> Iterator[Text]:
    """Parts of the checkpoint that the model is not, one line each."""
    reasons = Counter(entry.reason for entry in entries if entry.verdict == "elsewhere")
    for reason, count in reasons.items():
        yield sections.paragraph(f"– {reason} ({cells.plural(count, 'weight')})", width=width, style="dim")


def _matched_table(entries: Sequence[WeightAudit]) -> Table:
    """Per way of storing: how many match, and the largest errors."""
    table = _plain_table()
    for header in ("matched", "weights", "largest rel L2", "smallest SNR dB", "bits"):
        table.add_column(header, justify="left" if header == "matched" else "right")
    for stored in dict.fromkeys(entry.stored for entry in entries):
        same = [entry for entry in entries if entry.stored == stored]
        found = [entry.difference for entry in same if entry.difference is not None]
        error = max((one.relative_l2_error for one in found), default=None)
        snr = min((one.snr_db for one in found), default=None)
        bits = min((one.effective_bits for one in found), default=None)
        numbers = (cells.number(None if value is None else float(f"{value:.3g}")) for value in (error, snr, bits))
        table.add_row(Text(cells.clean(stored)), str(len(same)), *numbers)
    return table


def _transforms(entries: Sequence[WeightAudit], *, width: int) -> Iterator[Text]:
    """What converters did to weights that match, each with how often."""
    words = Counter(entry.transform.split(", plus")[0] for entry in entries if entry.transform)
    if words:
        items = [f"{count} {cells.clean(word)}" for word, count in words.items()]
        yield sections.labelled("of these", items, width=width)


def _extra(extra: Sequence[Extra], *, width: int, show_all: bool) -> Iterator[RenderableType]:
    """Constants that are no weights of the checkpoint; those of one value only counted."""
    plain = Counter(entry.note for entry in extra if entry.note)
    items = [f"{cells.plural(count, 'constant')} of {note}" for note, count in plain.items()]
    own = [entry for entry in extra if not entry.note]
    shown = own if show_all else own[:SHOWN_EXTRA]
    items += [f"{cells.clean(e.name)} {e.dtype}{cells.shape(e.shape)} ({', '.join(e.ops) or 'unread'})" for e in shown]
    items += [f"and {len(own) - len(shown)} more"] if len(own) > len(shown) else []
    if items:
        yield sections.labelled("not in it", items, width=width, style="dim")


def _verdict(audit: Audit, *, width: int) -> Text:
    words = {
        0: ("pass", "✓ every weight is there, within what storing it costs"),
        1: ("fail", "✗ weights are changed or missing"),
        3: ("unknown", "? some weights could not be judged"),
    }
    if not audit.counts.get("matched") and not audit.counts.get("unknown"):
        words[1] = ("fail", "✗ none of the checkpoint's weights is there: it is of another model")
    status, text = words[audit.exit_code]
    return sections.paragraph(text, width=width, style=STYLES[status])
