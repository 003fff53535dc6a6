"""The code of docs/engine.md runs as it is written, on the bundled model's joint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff.config import ConvertConfig
from layerdiff.convert import build
from layerdiff.sources.nemo import NemoSource

PAGE = Path(__file__).parent.parent / "docs" / "engine.md"


@pytest.fixture(scope="module")
def scope(reference: NemoSource) -> dict[str, Any]:
    """What the page's code has at the end; its blocks are run in order."""
    rng = np.random.default_rng(0)
    feed = {
        "encoder": rng.standard_normal((2, 96, 3)).astype(np.float32),
        "decoder": rng.standard_normal((2, 64, 4)).astype(np.float32),
    }
    package = build(reference.model, "joint", ConvertConfig(precision="float32"))
    names: dict[str, Any] = {"package": package, "feed": feed}
    for body in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL):
        exec(body, names)
    return names


def test_the_code_of_the_page_runs(scope: dict[str, Any]) -> None:
    assert scope["outputs"]["logits"].shape == (2, 3, 4, 102)
    assert not np.allclose(scope["after"]["logits"], scope["outputs"]["logits"])
    assert {"relu_hidden", "logits"} <= set(scope["names"])
    exact = scope["exact"].predict(scope["feed"])["logits"]
    np.testing.assert_allclose(scope["outputs"]["logits"], exact, rtol=1e-4, atol=1e-4)


def test_the_source_shown_is_that_of_the_joint(scope: dict[str, Any]) -> None:
    shown = re.findall(
        r"^    (\S.*)$", PAGE.read_text(encoding="utf-8").split("```text")[1].split("```")[0], re.MULTILINE
    )
    generated = [line.strip() for line in scope["model"].generated_source().splitlines()]
    assert [line for line in shown if line != "…" and line not in generated] == []
