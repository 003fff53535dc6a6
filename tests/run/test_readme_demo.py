"""The README shows what `make demo` prints: every line of it, but for rules and what was left out."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from layerdiff import config, run
from layerdiff.progress import SILENT
from layerdiff.report import terminal
from layerdiff.sources.nemo import NemoSource

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def printed(reference: NemoSource) -> str:
    """The demo's output at 80 columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        report = run.execute(config.load("configs/joint.yaml"), progress=SILENT, reference=reference)
    stream = io.StringIO()
    terminal.render(report, terminal.console_for(stream, color=False, width=80))
    return stream.getvalue()


def shown() -> list[str]:
    """The lines of the README's one text block."""
    (block,) = re.findall(r"^```text\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [line for line in block.splitlines() if line.strip() not in ("", "…")]


def test_the_readme_shows_the_demos_own_lines(printed: str) -> None:
    lines = {line.rstrip(" ─") for line in printed.splitlines()}
    missing = [line for line in shown() if line.rstrip() not in lines]
    assert len(shown()) > 20
    assert not missing
