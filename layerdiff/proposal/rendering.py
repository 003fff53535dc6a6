"""A proposal as a commented YAML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import yaml

from layerdiff.proposal import SPEECH, Proposal


def render(proposal: Proposal, path: str) -> str:
    """The file's text.

    Args:
        proposal: what it says.
        path: where it will be, for the comment that tells how to run it.
    """
    values = proposal.values
    models = [Path(str(next(iter(values["reference"].values())))).name]
    built = any("convert" in entry for entry in values["candidates"].values())
    template = jinja2.Environment(  # YAML: every value is written by PyYAML
        loader=jinja2.PackageLoader("layerdiff.proposal", ""),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    ).get_template("config.yaml.txt")
    return template.render(
        title=f"Compares {', '.join(values['candidates'])} with {models[0]}.".replace("\n", " "),
        path="CONFIG" if path == "-" else path,
        reference=[(key, _flow(value)) for key, value in values["reference"].items()],
        candidates=[(_flow(name), _flow(entry)) for name, entry in values["candidates"].items()],
        inputs=[(key, _flow(value)) for key, value in values["inputs"].items()],
        bundled=values["inputs"].get("audio") == SPEECH,
        stages=[(_flow(entry.name), _flow(entry.values), entry.remark) for entry in proposal.stages],
        further=proposal.further,
        origin="those of the recipes that convert the model" if built else "found by alignment",
        dir=_flow(values["outputs"]["dir"]),
    )


def _flow(value: Any) -> str:
    """A value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    text = text.removesuffix("\n...\n").strip()
    return text if "\n" not in text else json.dumps(value)  # which is YAML too
