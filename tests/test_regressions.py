from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from layerdiff.config import CheckConfig
from layerdiff.errors import ConfigError
from layerdiff.regressions import Results, band, baseline_document, compared, read_baseline

BANDS = CheckConfig()


def one(baseline: object, now: object, measure: str = "relative_l2_error") -> str:
    """The verdict on one number."""

    def results(value: object) -> Results:
        return {"a": {"logits": {measure: value}}} if value is not None else {}  # type: ignore[dict-item]

    (found,) = compared(results(baseline), results(now), BANDS).comparisons
    return found.verdict


@pytest.mark.parametrize(
    ("baseline", "now", "verdict"),
    [
        (1e-3, 1.4e-3, "same"),
        (1e-3, 1.6e-3, "regression"),
        (1e-3, 0.8e-3, "same"),
        (1e-3, 0.5e-3, "improvement"),
        (0.0, 1e-6, "same"),
        (1e-8, 2e-8, "same"),
        (0.0, 1e-4, "regression"),
        (1e-3, None, "missing"),
        (None, 1e-3, "new"),
        ("pass", "fail", "regression"),
        ("fail", "pass", "improvement"),
        ("fail", "fail", "same"),
        ("pass", "unknown", "missing"),
        ("unknown", "fail", "regression"),
    ],
)
def test_stages(baseline: object, now: object, verdict: str) -> None:
    assert one(baseline, now, "status" if isinstance(baseline, str) else "relative_l2_error") == verdict


@pytest.mark.parametrize(
    ("measure", "width"), [("wer", 0.002), ("wer_text", 0.002), ("flips", 0.002), ("end_shift_ms", 5.0)]
)
def test_bands_of_rates(measure: str, width: float) -> None:
    high, low = band(measure, 10.0, BANDS)
    assert (high, low) == (pytest.approx(10 + width), pytest.approx(10 - width))
    assert one(10.0, 10 + 0.9 * width, measure) == "same"
    assert one(10.0, 10 + 1.1 * width, measure) == "regression"
    assert one(10.0, 10 - 1.1 * width, measure) == "improvement"


def test_exit_codes() -> None:
    good: Results = {"a": {"x": {"status": "pass"}, "y": {"status": "pass"}}}
    assert compared(good, good, BANDS).exit_code == 0
    assert compared(good, {"a": {"x": {"status": "pass"}}}, BANDS).exit_code == 3
    assert compared(good, {"a": {"x": {"status": "fail"}}}, BANDS).exit_code == 1
    assert compared({}, good, BANDS).exit_code == 0


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    results: Results = {"a": {"x": {"status": "pass", "relative_l2_error": 1.5e-7, "wer": math.nan, "flips": None}}}
    file = tmp_path / "b.json"
    file.write_text(json.dumps(baseline_document(results)))
    assert read_baseline(file) == {"a": {"x": {"status": "pass", "relative_l2_error": 1.5e-7}}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "no baseline of this version"),
        ('{"schema": 2, "candidates": {}}', "no baseline of this version"),
        ('{"schema": 1, "candidates": {"a": {"x": [1]}}}', "no baseline of this version"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "b.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_baseline(file)
