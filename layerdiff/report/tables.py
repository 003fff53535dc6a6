"""The table of stages in the layout that a width allows; a number is never cut or wrapped.

Four layouts, the first that fits is taken: one line per stage; two lines per stage, related numbers one above
the other; the same as two tables; one block per stage. Names may be folded, numbers may not, so the widths
are computed here and rich is only told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from layerdiff.report.rows import SHOWN, Row

FIRST = "▶"
"""Stands before the first divergence."""

STYLES = {"pass": "green", "fail": "bold red", "unknown": "yellow", "skipped": "dim"}

_NAME_MIN = 16
"""The narrowest column of names that is still readable."""

_SINGLES = tuple((shown.header,) for shown in SHOWN)


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn: texts by line, the first column holds the names."""

    headers: Sequence[Sequence[str]]
    """Column → lines."""
    rows: Sequence[Sequence[Sequence[str]]]
    """Row → column → lines."""
    statuses: Sequence[str]
    notes: Mapping[int, Sequence[Text]]
    """Row → what stands before it: its component where another one begins, how many stages are left out."""
    gap: int = 2

    def widths(self) -> list[int]:
        """The width of every column."""
        columns = zip(self.headers, *self.rows, strict=True)
        name, *numbers = [max(cell_len(line) for cell in column for line in cell) for column in columns]
        return [max([name, *(cell_len(note.plain) for notes in self.notes.values() for note in notes)]), *numbers]

    def room(self, width: int) -> int:
        """What `width` leaves for the names."""
        numbers = self.widths()[1:]
        return width - sum(numbers) - self.gap * len(numbers)


def stage_table(every: Sequence[Row], places: Sequence[int] | None = None, *, width: int) -> RenderableType:
    """Rows of one candidate in the best layout for `width` columns, grouped by component.

    Args:
        every: all rows.
        places: those to show, in order; None shows all.
        width: columns.
    """
    places = range(len(every)) if places is None else places
    rows, notes = [every[place] for place in places], _notes(every, places)
    grids = [_grid(rows, notes, _SINGLES, gap) for gap in (3, 2)]
    grids += [_grid(rows, notes, _PAIRS, gap) for gap in (3, 2, 1)]
    for grid in grids:
        if grid.room(width) >= grid.widths()[0]:
            return _draw(grid, width)
    if grids[-1].room(width) >= _NAME_MIN:
        return _draw(grids[-1], width)
    halves = [_grid(rows, notes, pairs, 2) for pairs in (_PAIRS[:3], (_PAIRS[0], *_PAIRS[3:]))]
    if all(half.room(width) >= _NAME_MIN for half in halves):
        return Group(_draw(halves[0], width), Text(), _draw(halves[1], width))
    blocks = [(*notes.get(number, ()), _block(row, width)) for number, row in enumerate(rows)]
    return Group(*(part for parts in blocks for part in parts), *notes.get(len(rows), ()))


def _notes(every: Sequence[Row], places: Sequence[int]) -> dict[int, list[Text]]:
    """What stands between the rows that are shown: components, and how many stages are left out."""
    found: dict[int, list[Text]] = {}
    is_grouped = len({row["component"] for row in every}) > 1
    before, component = -1, None
    for number, place in enumerate([*places, len(every)]):
        if left := place - before - 1:
            found.setdefault(number, []).append(Text(f"  … {left} more", style="dim"))
        if place < len(every) and is_grouped and every[place]["component"] != component:
            component = every[place]["component"]
            found.setdefault(number, []).append(Text(component, style="bold"))
        before = place
    return found


_PAIRS = (
    ("stage", "status"),
    ("reference", "candidate"),
    ("cosine", "max abs"),
    ("rel L2", "SNR dB"),
    ("conversion", "precision"),
    ("own", "inherited"),
)
"""What stands above what in two lines per stage."""


def _texts(row: Row) -> dict[str, str]:
    texts = {shown.header: shown.cell(row) for shown in SHOWN}
    texts["stage"] = f"{FIRST if row['first_divergence'] else ' '} {texts['stage']}"
    return texts


def _grid(rows: Sequence[Row], notes: Mapping[int, Sequence[Text]], columns: Sequence[Sequence[str]], gap: int) -> Grid:
    texts = [_texts(row) for row in rows]
    headers = [list(column) for column in columns]
    headers[0] = [f"  {name}" for name in headers[0]]
    lines = [[[text[name] for name in column] for column in columns] for text in texts]
    for row in lines:
        row[0] = [row[0][0], *(f"  {line}" for line in row[0][1:])]
    statuses = [row["status"] for row in rows]
    return Grid(headers, lines, statuses, notes, gap)


def _draw(grid: Grid, width: int) -> Table:
    name, *numbers = grid.widths()
    name = min(name, grid.room(width))
    table = Table(
        box=box.Box(_RULED) if len(grid.headers[0]) > 1 else box.SIMPLE_HEAD,
        show_edge=False,
        show_lines=len(grid.headers[0]) > 1,
        padding=(0, grid.gap - 1, 0, 0),
        pad_edge=False,
        header_style="bold",
        border_style="dim",
    )
    for position, (header, column_width) in enumerate(zip(grid.headers, [name, *numbers], strict=True)):
        is_number = position > 0 and header[0] not in ("status",)
        table.add_column(
            Text("\n".join(header)),
            width=column_width,
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
            vertical="middle",
        )
    for number, (row, status) in enumerate(zip(grid.rows, grid.statuses, strict=True)):
        for note in grid.notes.get(number, ()):
            table.add_row(note)
        names = [part for line in row[0] for part in folded(line, width=name)]
        table.add_row(
            *(_cell(lines, status, headers) for lines, headers in zip([names, *row[1:]], grid.headers, strict=True))
        )
    for note in grid.notes.get(len(grid.rows), ()):
        table.add_row(note)
    return table


_RULED = "\n".join(["    ", "    ", " ── ", "    ", " ── ", " ── ", "    ", "    "]) + "\n"
"""rich's notation for a box that has nothing but lines between rows."""


def _cell(lines: Sequence[str], status: str, headers: Sequence[str]) -> Text:
    """A cell in the colour of its row's status; of a pass, only the word is coloured."""
    text = Text(overflow="fold")
    for position, line in enumerate(lines):
        # a folded name has more lines than its header; the status stands in the last one
        loud = status != "pass" or (headers[-1].strip() == "status" and position == len(lines) - 1)
        text.append("\n" * (position > 0) + line, style=STYLES.get(status, "") if loud else "")
    return text


def folded(text: str, *, width: int) -> list[str]:
    """A name in lines of at most `width` columns, broken after an underscore or a dot where there is one."""
    lines = [text]
    while cell_len(lines[-1]) > width:
        rest = lines.pop()
        end = max(width - 2, 3)
        end = max(rest.rfind("_", 3, end), rest.rfind(".", 3, end)) + 1 or end
        lines += [rest[:end], f"  {rest[end:]}"]
    return lines


def _block(row: Row, width: int) -> Text:
    """One stage as a heading and its numbers, for very narrow terminals."""
    texts, status = _texts(row), row["status"]
    block = Text(f"{texts['stage']}  {texts['status']}", style=STYLES.get(status, ""), overflow="fold")
    items = [f"{shown.header} {shown.cell(row)}" for shown in SHOWN[2:]]
    for line in flow(items, width=width - 2):
        block.append(f"\n  {line}", style="" if status == "pass" else STYLES.get(status, ""))
    return block


def flow(items: Sequence[str], *, width: int, separator: str = " · ") -> list[str]:
    """Items in lines of at most `width` columns, broken between items, and inside one only if it is longer."""
    lines: list[str] = []
    for item in items:
        joined = f"{lines[-1]}{separator}{item}" if lines else item
        if cell_len(joined) <= width:
            lines[-1:] = [joined]
        elif separator != " ":
            lines += flow(item.split(" "), width=width, separator=" ")
        else:
            lines.append(item)
    return lines
