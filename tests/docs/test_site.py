"""The documentation builds strictly, its navigation has every page, its generated pages are what the code says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tools.docs import reference as generated

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def navigation(entries: list | dict | str) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    parts = entries if isinstance(entries, list) else entries.values()
    return [page for part in parts for page in navigation(part)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    place = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", place)
    shutil.copytree(DOCS, place / "docs")
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "outputs" / "site"


def test_generated_pages_are_what_the_code_says() -> None:
    for name, text in generated.pages().items():
        assert (DOCS / "reference" / name).read_text("utf-8") == text, "make docs writes it anew"


def test_every_page_is_in_the_navigation_and_is_built(site: Path) -> None:
    named = navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
    assert sorted(named) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    assert all((site / name).with_suffix(".html").is_file() for name in named)


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [values[name] or "" for name in ("href", "src") if name in values]
        self.anchors |= {values["id"] or ""} if "id" in values else set()


def test_links_images_and_anchors_lead_somewhere(site: Path) -> None:
    pages: dict[Path, Page] = {}
    for path in site.rglob("*.html"):
        pages[path] = Page()
        pages[path].feed(path.read_text("utf-8"))
    broken = []
    for path, page in pages.items():
        for link in page.links if path.name != "404.html" else ():
            if re.match(r"https?:|mailto:|data:|javascript:", link) or not link:
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            target = target / "index.html" if target.is_dir() else target
            known = pages.get(target)
            if not target.exists() or (anchor and known is not None and anchor not in known.anchors | {"__skip"}):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_the_workflow_that_is_shown_is_the_one_in_the_repository() -> None:
    (shown,) = re.findall(
        r"^```yaml\n(.*?)^```$", (DOCS / "gate.md").read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    assert shown == (DOCS / "examples" / "conversion-gate.yml").read_text("utf-8")
    assert yaml.safe_load(shown)["jobs"]["gate"]["runs-on"] == "ubuntu-latest"


def test_the_pictures_are_of_the_page() -> None:
    shown = {
        name
        for page in DOCS.rglob("*.md")
        for name in re.findall(r"\]\([^)]*?([\w-]+\.png)\)", page.read_text("utf-8"))
    }
    assert shown <= {path.name for path in (DOCS / "images").glob("*.png")}
    assert {"page.png", "stage.png", "durations.png"} <= shown
