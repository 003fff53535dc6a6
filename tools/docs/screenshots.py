"""Takes the pictures of the documentation: `python -m tools.docs.screenshots outputs/joint/report.html`.

They are what a headless Chromium shows of a real page; `make demo` makes that page.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "images"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main(page: str) -> None:
    """Writes the pictures."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, CHROMIUM)))
    FOLDER.mkdir(exist_ok=True)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"] if root else [])
        url = Path(page).resolve().as_uri()
        take(browser, url, "page", width=1200, height=1000)
        take(browser, url, "stage", width=1100, height=860, scheme="dark", place="c0-s4", plots=("c0-s4-course",))
        take(browser, url, "durations", width=1000, height=620, scroll="#c0-timeline-3", plots=("c0-map-0",))
        take(browser, url, "phone", width=390, height=800, scroll="#c0 h3")
        browser.close()


def take(
    browser: Any,
    url: str,
    name: str,
    *,
    width: int,
    height: int,
    scheme: str = "light",
    place: str = "",
    scroll: str = "",
    plots: tuple[str, ...] = (),
) -> None:
    """One picture.

    Args:
        browser: Playwright's.
        url: the page.
        name: of the picture.
        width: of the window, in pixels.
        height: the same.
        scheme: light or dark.
        place: what is opened.
        scroll: what stands at the top.
        plots: what has to be drawn.
    """
    view = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce")
    view.goto(f"{url}#{place}" if place else url)
    for plot in (*plots, "c0-depth"):
        view.locator(f"#{plot}").scroll_into_view_if_needed()
        view.locator(f"#{plot} svg").first.wait_for()
    if place or scroll:
        view.locator(f"#{place}" if place else scroll).first.evaluate("(e) => e.scrollIntoView()")
    else:
        view.evaluate("scrollTo(0, 0)")
    view.wait_for_timeout(800)
    view.screenshot(path=FOLDER / f"{name}.png")
    view.close()


if __name__ == "__main__":
    main(sys.argv[1])
