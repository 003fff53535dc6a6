"""The JSON schema of a configuration: what editors complete, explain and check."""

from __future__ import annotations

import json

from layerdiff.config.models import Config

TITLE = "layerdiff configuration"


def render() -> str:
    """The schema as indented JSON; draft 2020-12, with every key's meaning and default."""
    found = Config.model_json_schema()
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": TITLE}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
