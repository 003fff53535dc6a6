"""The JSON schema: what is shipped is what the code says, and every key is explained."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from layerdiff.cli import main
from layerdiff.config import schema

ROOT = Path(__file__).parents[2]


def test_the_file_is_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    shipped = (resources.files("layerdiff") / "assets" / "config.schema.json").read_text("utf-8")
    assert shipped == schema.render(), "write it anew: layerdiff schema > layerdiff/assets/config.schema.json"
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == shipped


def sections(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"Config": document, **document["$defs"]}


def test_every_key_is_explained() -> None:
    document = json.loads(schema.render())
    silent = [
        f"{name}.{key}"
        for name, section in sections(document).items()
        for key, entry in section["properties"].items()
        if not entry.get("description") and "$ref" not in json.dumps(entry)
    ]
    assert not silent


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_configurations_are_valid(path: Path) -> None:
    document = json.loads(schema.render())
    values = yaml.safe_load(path.read_text("utf-8"))
    jsonschema.validate(values, document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**values, "referense": {}}, document)
