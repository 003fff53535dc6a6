"""The result of a sweep: `sweep.json`, `sweep.csv`, a table on the terminal, and the plot of size against quality."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from layerdiff import store
from layerdiff.decode.result import shift_ms
from layerdiff.decode.variants import MEASURES, SweepReport, Variant, front
from layerdiff.report import cells, csv, json, sections
from layerdiff.report.decoding import side
from layerdiff.report.transcripts import new_table, percent

if TYPE_CHECKING:
    from layerdiff.config import OutputsConfig

PLOT = "sweep.svg"
AXES: Mapping[str, tuple[str, float]] = {
    "snr_db": ("signal to noise, dB", 1.0),
    "flips": ("decisions that differ, %", 100.0),
    "wer": ("word error rate, %", 100.0),
}
"""Measure → what its axis says, and what it is multiplied by there."""

COLUMNS = ("variant", "precision", "weights", "float32_ops", "target", "size_bytes", "problem", "snr_db", "flips",
           "wer_text", "wer", "end_shift_ms", "front_snr_db", "front_flips", "front_wer")  # fmt: skip
"""The columns of `sweep.csv`; `front_*`: whether no other variant is smaller and better."""


def fronts(report: SweepReport) -> dict[str, tuple[str, ...]]:
    """Measure → the variants that no other one beats in size and in it."""
    return {measure: front(report, measure) for measure in MEASURES}


def measured(report: SweepReport, variant: Variant) -> dict[str, float | None]:
    """What a variant does to the transcripts; None where nothing is known."""
    found = report.decoded(variant)
    if found is None or report.decoding is None or not found.tally.clips:
        return dict.fromkeys([*MEASURES, "wer_text", "wer_reference", "end_shift_ms"])
    return {
        **{name: take(found) for name, (take, _) in MEASURES.items()},
        "wer_text": found.tally.text_words.rate if found.tally.with_text else None,
        "wer_reference": found.tally.words.rate,
        "end_shift_ms": shift_ms(found.tally, report.decoding.frame_s),
    }


def document(report: SweepReport) -> dict[str, Any]:
    """The report as plain JSON values."""
    decoding = report.decoding
    variants = {
        variant.name: {
            **json.plain(variant),
            **json.plain(measured(report, variant)),
            "decoded": side(found.tally, decoding) if decoding and (found := report.decoded(variant)) else None,
        }
        for variant in report.variants
    }
    reference = (
        None if decoding is None else {**decoding.reference, "decoded": side(decoding.reference_tally, decoding)}
    )
    return {
        "schema": json.SCHEMA,
        "exit_code": report.exit_code,
        "reference": json.plain(reference),
        "variants": variants,
        "fronts": json.plain(fronts(report)),
    }


def table_rows(report: SweepReport) -> list[list[Any]]:
    """The rows of `sweep.csv`, its heading first."""
    found = fronts(report)
    rows: list[list[Any]] = [list(COLUMNS)]
    for variant in report.variants:
        values = measured(report, variant)
        settings = {**variant.settings, "float32_ops": " ".join(variant.settings["float32_ops"])}
        row = {
            "variant": variant.name,
            **settings,
            "size_bytes": variant.size_bytes,
            "problem": variant.problem or None,
            **values,
            "wer": values["wer_reference"],
            **{f"front_{measure}": variant.name in names for measure, names in found.items()},
        }
        rows.append([row[column] for column in COLUMNS])
    return rows


def write_sweep(report: SweepReport, outputs: OutputsConfig) -> tuple[Path, ...]:
    """The files of a sweep, each the previous or the complete one.

    Raises:
        OutputError: a file can't be written.
    """
    folder, files = Path(outputs.dir), list[Path]()
    if outputs.csv:
        files.append(store.write_atomically(folder / "sweep.csv", "".join(csv.lines(table_rows(report)))))
    if outputs.json:
        files.append(store.write_atomically(folder / "sweep.json", json.dump(document(report))))
    if report.decoding is not None:
        files.append(store.write_atomically(folder / PLOT, plot(report)))
    return tuple(files)


# ------------------------------------------------------------------ terminal


def render(report: SweepReport, console: Console) -> None:
    """Prints it."""
    console.print(Group(*view(report, width=console.width)))


def view(report: SweepReport, *, width: int) -> list[RenderableType]:
    """The table, the smallest variant first, and what could not be built."""
    found = fronts(report)
    table = new_table("variant", "size", "SNR", "flips", "WER text", "WER ref", "ends", "front")
    decoding = report.decoding
    if decoding is not None:
        table.add_row("reference", "", "", "", percent(decoding.reference_tally.text_words.rate), "", "", "")
    for variant in sorted(report.variants, key=lambda variant: variant.size_bytes or 0):
        if variant.problem:
            continue
        values = measured(report, variant)
        marks = "".join("✓" if variant.name in names else "·" for names in found.values())
        ends, snr = values["end_shift_ms"], values["snr_db"]
        table.add_row(
            cells.clean(variant.name),
            cells.size(variant.size_bytes or 0),
            cells.NOTHING if snr is None else f"{snr:.1f} dB",
            *(percent(values[name]) for name in ("flips", "wer_text", "wer_reference")),
            cells.NOTHING if ends is None else f"{ends:.1f} ms",
            Text(marks, style="bold green" if "✓" in marks else "dim"),
        )
    parts: list[RenderableType] = [table, sections.paragraph(LEGEND, width=width, style="dim")]
    for variant in report.variants:
        if variant.problem:
            said = f"? {cells.clean(variant.name)}: {cells.clean(variant.problem)}"
            parts += [Text(), sections.paragraph(said, width=width, style="yellow")]
    return parts


LEGEND = (
    "flips: decisions that differ on the reference's path · ref: against the reference's transcripts · front: ✓ if no "
    "other variant is smaller and better in SNR, flips, WER"
)


# ------------------------------------------------------------------ plot


def plot(report: SweepReport) -> bytes:
    """SVG: size against each measure, the front as a line; the same report gives the same bytes."""
    import vl_convert

    views = [_view(report, measure) for measure in MEASURES]
    config = {"background": "white", "axis": {"gridOpacity": 0.5, "titleFontWeight": "normal"}}
    svg: str = vl_convert.vegalite_to_svg({"hconcat": views, "config": config})
    return svg.encode()


def _view(report: SweepReport, measure: str) -> dict[str, Any]:
    """One measure over the size."""
    label, scale = AXES[measure]
    best = front(report, measure)
    points: list[dict[str, Any]] = [
        {"name": variant.name, "size": variant.size_bytes / 1e6, "value": value * scale, "best": variant.name in best}
        for variant in report.variants
        if variant.size_bytes is not None
        and (value := measured(report, variant)[measure]) is not None
        and isfinite(value)
    ]
    line = sorted((point for point in points if point["best"]), key=lambda point: point["size"])
    axis = {"type": "quantitative", "scale": {"zero": False, "padding": 14}}
    places = {"x": {**axis, "field": "size", "title": "size, MB"}, "y": {**axis, "field": "value", "title": label}}
    color = {"condition": {"test": "datum.best", "value": "#3b82c4"}, "value": "#8a8a8a"}
    return {
        "width": 270,
        "height": 270,
        "layer": [
            {"data": {"values": line}, "mark": {"type": "line", "color": "#3b82c4"}, "encoding": places},
            {
                "data": {"values": points},
                "mark": {"type": "point", "filled": True, "opacity": 1, "size": 36},
                "encoding": {**places, "color": color},
            },
            # two variants of one size would be written over each other
            *(
                {
                    "data": {"values": [point for point in points if point["best"] == is_best]},
                    "mark": {"type": "text", "align": "left", "dx": 3, "dy": -7 if is_best else 10, "fontSize": 9},
                    "encoding": {**places, "text": {"field": "name"}},
                }
                for is_best in (True, False)
            ),
        ],
    }
