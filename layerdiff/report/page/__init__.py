"""`report.html`: one file that needs nothing else, neither the network nor, for its tables, scripts.

`context` makes plain values of a report, `page.html` sets them, `charts` has the data of the plots, `specifications`
what they look like, `scripts.js` draws them with the Vega-Lite inside of the page, and sorts and filters the tables.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2

from layerdiff.records import Report
from layerdiff.report.page.context import context
from layerdiff.report.page.library import vega
from layerdiff.report.page.specifications import TEMPLATES

LARGEST = 2_900_000
"""Bytes that a page may have; plots of stages that matter less are left out of a larger one."""


def render(report: Report) -> str:
    """The page's text."""
    return _page(report, "page.html", with_plots=True)


def fragment(report: Report) -> str:
    """What a notebook shows of a report: verdict, tables and findings, without scripts."""
    return _page(report, "fragment.html", with_plots=False)


def _page(report: Report, template: str, *, with_plots: bool) -> str:
    values, plots = context(report)
    sheet, scripts = _text("page.css"), _text("scripts.js")
    values |= {"sheet": sheet, "scripts": scripts, "library": "", "data": ""}
    if not with_plots:
        return _templates().get_template(template).render(values)
    values["library"] = vega()
    room = LARGEST - len(_templates().get_template(template).render(values).encode())
    values["data"] = _fitted(plots, room)
    return _templates().get_template(template).render(values)


def _fitted(plots: list[tuple[str, dict[str, Any]]], room: int) -> str:
    """The plots' data as JSON, the most telling first, as many as there is room for."""
    texts = [json.dumps("templates") + ":" + _json(TEMPLATES)]
    left = room - len(texts[0])
    kept = []
    for name, plot in plots:
        text = json.dumps(name) + ":" + _json(plot)
        if len(text.encode()) + 1 <= left:
            left -= len(text.encode()) + 1
            kept.append(text)
    return "{" + texts[0] + ',"plots":{' + ",".join(kept) + "}}"


def _json(value: Any) -> str:
    """JSON that can stand inside of an HTML script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("layerdiff.report", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _text(name: str) -> str:
    return (files(__package__ or "") / name).read_text("utf-8")
