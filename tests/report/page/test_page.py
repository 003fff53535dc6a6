"""The page as a text: one file that loads nothing, small enough, its plots as many as there is room for."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

from layerdiff.records import Report
from layerdiff.report import page
from layerdiff.report.page.charts import short
from layerdiff.report.page.specifications import TEMPLATES
from tests.report.conftest import profile_of


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]


def data_of(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_it_needs_nothing_else(drawn: Report) -> None:
    text = page.render(drawn)
    links = Links()
    links.feed(text)
    assert links.found
    assert all(link.startswith(("#", "data:")) for link in links.found)
    sheet = text.partition("<style>")[2].partition("</style>")[0]
    assert "@import" not in sheet
    assert "url(" not in sheet
    assert len(text.encode()) < 3_000_000


def test_every_plot_has_a_specification_and_a_place(drawn: Report) -> None:
    text = page.render(drawn)
    plots = data_of(text)["plots"]
    assert {plot["spec"] for plot in plots.values()} == set(TEMPLATES)
    for name, plot in plots.items():
        assert f'id="{name}"' in text
        for columns in plot["data"].values():
            assert len({len(values) for values in columns.values()}) == 1, name


def test_a_page_of_many_stages_stays_small_and_draws_what_fails(drawn: Report) -> None:
    broken = drawn.candidates["cpu_traced"]
    profile = profile_of(3)
    good = [replace(broken.stages[1], name=f"layer_{n}", profile=profile) for n in range(2500)]
    candidate = replace(broken, stages=(*good, *broken.stages[2:]))
    text = page.render(replace(drawn, candidates={"cpu_traced": candidate}))
    assert len(text.encode()) < 3_000_000
    plots = data_of(text)["plots"]
    assert text.count('<details class="stage"') == 200
    assert {"c0-depth", "c0-s2500-values", "c0-s2501-values"} <= set(plots)
    assert 1000 < text.count('<tr class="pass"') < 2500
    assert "stages that pass are not listed here" in text


def test_numbers_of_plots_are_short() -> None:
    assert [short(value) for value in (1 / 3, None, float("nan"), float("inf"), 0.0)] == [0.3333, None, None, None, 0.0]
