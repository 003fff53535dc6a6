"""The page in a real browser: it opens in silence, sorts, filters, draws; on a phone too, and by keyboard."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from layerdiff.records import Report
from layerdiff.report import page as report_page
from layerdiff.report.rows import candidate_rows
from tests.report.conftest import HOSTILE
from tests.report.page.conftest import Shown

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

TABLE = "#c0-stages"


def column(page: Page, number: int) -> list[str]:
    cells: list[str] = page.locator(f"{TABLE} tbody tr:visible").evaluate_all(
        "(rows, number) => rows.map((row) => row.cells[number].textContent.replace('▶ ', ''))", number
    )
    return cells


def svg(place: Locator) -> Locator:
    place.scroll_into_view_if_needed()
    drawn = place.locator("svg.marks")
    drawn.wait_for(timeout=20_000)
    return drawn


def test_every_plot_is_drawn(drawn: Report, shown: Shown) -> None:
    page = shown(report_page.render(drawn))
    for name in ("depth", "graph", "timeline-0", "map-0"):
        marks = svg(page.locator(f"#c0-{name}")).locator("path, rect, text")
        assert marks.count() > 10, name
    page.locator("#c0-s2 > summary").click()
    for name in ("values", "errors", "magnitude", "course"):
        assert svg(page.locator(f"#c0-s2-{name}")).locator("path").count() > 2, name
    words = page.locator("#c0-timeline-0 svg text").all_text_contents()
    assert {"call", "pe"} <= set(words)


def test_columns_sort_by_number_and_back(drawn: Report, shown: Shown) -> None:
    page = shown(report_page.render(drawn))
    before = column(page, 0)
    errors = [row["relative_l2_error"] for row in candidate_rows(drawn.candidates["cpu_traced"])]
    head = page.locator(f"{TABLE} th", has_text="rel L2")
    for direction, expected in (("ascending", sorted(errors)), ("descending", sorted(errors, reverse=True))):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == direction
        assert [float(text) for text in column(page, 6)] == pytest.approx(expected, rel=1e-3)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert column(page, 0) == before
    page.locator(f"{TABLE} th", has_text="stage").get_by_role("button").click()
    alphabetical = page.evaluate("(names) => [...names].sort((a, b) => a.localeCompare(b))", before)
    assert column(page, 0) == alphabetical != before


def test_rows_are_filtered_by_status_and_name(drawn: Report, shown: Shown) -> None:
    page = shown(report_page.render(drawn))
    form = page.locator(f"form[data-table='{TABLE[1:]}']")
    assert form.locator("output").text_content() == "4 stages"
    form.get_by_label("pass").uncheck()
    assert column(page, 0) == ["logits", "duration_logits"]
    form.get_by_label("Find").fill("DURATION")
    assert column(page, 0) == ["duration_logits"]
    assert form.locator("output").text_content() == "1 of 4 stages"
    assert form.get_by_label("unknown").count() == 0  # nothing of it is there


def test_it_can_be_used_by_keyboard(drawn: Report, shown: Shown) -> None:
    page = shown(report_page.render(drawn))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    link = page.locator(f"{TABLE} a", has_text=re.compile("^logits$"))
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('c0-s2').open")
    assert page.evaluate("document.activeElement.parentElement.id") == "c0-s2"
    page.keyboard.press("Space")
    assert not page.evaluate("document.getElementById('c0-s2').open")
    head = page.locator(f"{TABLE} th", has_text="max abs").get_by_role("button")
    head.focus()
    page.keyboard.press("Enter")
    assert page.locator(f"{TABLE} th[aria-sort=ascending]").text_content() == "max abs"
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, button, [role]')].filter((e) => "
        "!(e.getAttribute('aria-label') || e.textContent || e.labels?.length || e.closest('svg'))).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_nothing_is_wider_than_the_window(drawn: Report, shown: Shown, width: int) -> None:
    page = shown(report_page.render(drawn), viewport={"width": width, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    svg(page.locator("#c0-depth"))
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def contrast(one: list[float], other: list[float]) -> float:
    """WCAG's contrast ratio of two colours given as 0 to 255."""

    def luminance(color: list[float]) -> float:
        parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_light_and_dark(drawn: Report, shown: Shown, scheme: Any) -> None:
    page = shown(report_page.render(drawn), color_scheme=scheme)
    svg(page.locator("#c0-depth"))
    rgb = "(e, p) => getComputedStyle(e)[p].match(/[0-9.]+/g).slice(0, 3).map(Number)"
    ground = page.locator("body").evaluate(rgb, "backgroundColor")
    assert (sum(ground) < 200) == (scheme == "dark")
    for place in ("body", "h1 .status", ".facts", ".failure", f"{TABLE} a", ".note", "h2 .status.pass"):
        assert contrast(page.locator(place).first.evaluate(rgb, "color"), ground) >= 4.5, place
    label = page.locator("#c0-depth svg text").first
    assert contrast(label.evaluate(rgb, "fill"), ground) >= 4.5
    for line in page.locator("#c0-depth svg .mark-line path").all():
        assert contrast(line.evaluate(rgb, "stroke"), ground) >= 2


def test_without_scripts_there_are_tables(drawn: Report, shown: Shown) -> None:
    page = shown(report_page.render(drawn), java_script_enabled=False)
    assert page.locator(f"{TABLE} tbody tr").count() == 4
    assert page.locator("form.filters").first.is_hidden()
    assert page.locator(".plot").first.is_hidden()
    assert page.locator("#c0-s2 table tbody tr").count() == 10  # the worst elements
    assert page.get_by_text("rows 3 to 5 differ").count() == 1
    assert page.get_by_text("pip install layerdiff==0.1.0").count() == 1


def test_no_text_of_a_model_becomes_a_part_of_the_page(drawn: Report, shown: Shown) -> None:
    page = shown(report_page.render(drawn))
    assert page.locator("img").count() == 0
    assert page.locator(f"{TABLE} tbody th").first.text_content() == HOSTILE
    svg(page.locator("#c0-graph"))
    assert any(HOSTILE[:9] in text for text in page.locator("#c0-graph svg text").all_text_contents())
    assert "49" not in (page.locator("pre").last.text_content() or "")


def test_the_fragment_of_a_notebook_is_styled_and_does_not_reach_beyond_itself(drawn: Report, shown: Shown) -> None:
    page = shown(f"<!DOCTYPE html><p id=own style='color: rgb(1, 2, 3)'>own</p>{drawn._repr_html_()}")
    assert page.locator(".layerdiff table.stages").count() == 3
    assert page.locator("#own").evaluate("(e) => getComputedStyle(e).color") == "rgb(1, 2, 3)"
    assert page.locator("body").evaluate("(e) => getComputedStyle(e).maxWidth") == "none"
    assert page.locator("script").count() == 0
