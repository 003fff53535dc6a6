"""The code of docs/cases.md runs as it is written, and prints what stands under it, numbers apart."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "cases.md"
BLOCK = re.compile(
    r"^## (?P<title>.*?)$|^```python\n(?P<code>.*?)^```$(?:\n\n```text\n(?P<said>.*?)^```$)?", re.M | re.S
)
CASES = {
    "A slice that begins one column early": "slice_shift",
    "Every duration the first one": "log_softmax_baked",
    "-45440": "underflow_log_zero",
    "No layer beyond 65504, and still infinite": "overflow",
    "Softplus on the Neural Engine": "overflow",
    "An output without the blank": "wrong_output_width",
    "A length that tracing baked in": "length_mask",
    "A mask of -1e9": "overflow",
}
"""Section → the cause that is named first."""


def sections() -> Iterator[tuple[str, str, str]]:
    """Title, code and printed text of every block, in order."""
    title = ""
    for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        if found["title"] is not None:
            title = found["title"]
        else:
            yield title, found["code"], found["said"] or ""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Title → what its code prints, and what the page says that it prints."""
    names: dict[str, Any] = {
        "folder": tmp_path_factory.mktemp("cases"),
        "audio": str(PAGE.parents[1] / "audio" / "*.wav"),
    }
    found: dict[str, tuple[str, str]] = {}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("LAYERDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        warnings.simplefilter("ignore")  # tracing warns of what the cases do on purpose
        for title, code, said in sections():
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                exec(compile(code, title, "exec"), names)
            found[title] = text.getvalue(), said
    return found


def without_numbers(text: str) -> str:
    return re.sub(r"-?\d[\d.]*(?:e[+-]?\d+)?", "#", text)


@pytest.mark.parametrize("title", CASES)
def test_a_case_prints_what_the_page_says(printed: dict[str, tuple[str, str]], title: str) -> None:
    got, said = printed[title]
    assert said
    assert without_numbers(got) == without_numbers(said)
    causes = re.findall(r"^(\w+)(?:: |$)", got, flags=re.M)
    assert next(cause for cause in causes if cause != "check") == CASES[title]


def test_every_section_is_a_case() -> None:
    assert {title for title, _, said in sections() if said} == set(CASES)
