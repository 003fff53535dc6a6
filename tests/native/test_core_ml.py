"""What only a Mac can answer: Core ML itself on the packages that layerdiff builds.

Run by the macOS job of the workflow (`pytest -m native`); everywhere else these tests are deselected.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layerdiff import config, run
from layerdiff.progress import SILENT
from layerdiff.sources.nemo import NemoSource

pytestmark = pytest.mark.native


def joint_config(tmp_path: Path, precision: str, recipe: str) -> config.Config:
    values = {
        "reference": {"nemo": "parakeet-tdt-mini", "component": "joint"},
        "candidates": {"core_ml": {"convert": {"recipe": recipe, "precision": precision}, "engine": "native"}},
        "inputs": {"audio": "audio/turn_off_the_radio_in_the_kitchen.wav"},
        "outputs": {"dir": str(tmp_path)},
    }
    return config.from_mapping(values)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_core_ml_agrees_with_the_portable_engine(reference: NemoSource, tmp_path: Path, precision: str) -> None:
    report = run.execute(joint_config(tmp_path, precision, "raw_logits"), progress=SILENT, reference=reference)
    rows = report.candidates["core_ml"].stages
    assert report.candidates["core_ml"].description["engine"] == "native"
    assert all(row.runtime_error is not None and row.runtime_error < 0.01 for row in rows)


def test_core_ml_shows_the_baked_log_softmax(reference: NemoSource, tmp_path: Path) -> None:
    report = run.execute(joint_config(tmp_path, "float32", "cpu_traced"), progress=SILENT, reference=reference)
    result = report.candidates["core_ml"]
    assert result.first_divergence == "logits"
    assert result.findings[0].cause == "log_softmax_baked"
    assert result.tdt is not None
    assert np.isclose(result.tdt.candidate_all_negative, result.tdt.points)
