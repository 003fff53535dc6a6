"""`layerdiff headroom` on the bundled front-end, whose float16 conversion fails where it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from layerdiff.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def configuration(tmp_path: Path) -> str:
    path = tmp_path / "mel.yaml"
    values = {
        "reference": {"nemo": "parakeet-tdt-mini", "component": "preprocessor"},
        "candidates": {"float16": {"convert": {"precision": "float16"}}},
        "inputs": {"audio": str(ROOT / "audio" / "call_peter_on_three_two.wav")},
        "outputs": {"dir": str(tmp_path / "out")},
    }
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_it_predicts_where_float16_fails(configuration: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["headroom", configuration, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    assert any(name.endswith("featurizer/log") for name in found["keep_in_float32"])
    assert main(["headroom", configuration, "--no-color"]) == 0
    shown = capsys.readouterr().out
    assert "logarithms of what float16 hardly holds" in shown
    assert main(["headroom", configuration, "--quiet"]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_bad_input_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["headroom", str(tmp_path / "absent.yaml")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "absent.yaml" in shown.err
