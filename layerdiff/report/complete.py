"""`run.json`: a whole result, from which every other file of a run directory can be made again.

Unlike `report.json` it is not for scripts: it holds the records as they are, profiles and decisions included, and goes
with the version that wrote it. Numbers that are not finite are written as NaN and Infinity.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from layerdiff.errors import ConfigError
from layerdiff.records import CandidateResult, Report
from layerdiff.report.json import plain

NAME = "run.json"
SCHEMA = 1


def render(report: Report) -> str:
    """The file's text."""
    document = {"schema": SCHEMA, "report": plain(report, keeps_infinite=True)}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"


def load(folder: str | Path) -> Report:
    """The result of a run directory.

    Raises:
        ConfigError: the folder is no run directory, or was written by another version.
    """
    path = Path(folder) / NAME
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"'{folder}' is no run directory: {NAME} cannot be read.",
            where=str(path),
            detail=error.strerror or str(error),
            action="Name the folder that `layerdiff run` wrote; it is `outputs.dir` of the configuration.",
        ) from error
    except ValueError as error:
        raise _unknown(path, str(error)) from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise _unknown(path, f"expected an object with schema {SCHEMA}")
    try:
        report = TypeAdapter(Report).validate_python(found.get("report"))
    except ValidationError as error:
        raise _unknown(
            path, f"{error.error_count()} values are not as expected, first {error.errors()[0]['loc']}"
        ) from None
    return dataclasses.replace(report, candidates={n: _with_arrays(c) for n, c in report.candidates.items()})


def _with_arrays(candidate: CandidateResult) -> CandidateResult:
    """The candidate with its decisions as arrays again."""
    if candidate.tdt is None:
        return candidate
    tables = tuple(
        {name: np.asarray(value) if isinstance(value, list) else value for name, value in table.items()}
        for table in candidate.tdt.decisions
    )
    return dataclasses.replace(candidate, tdt=dataclasses.replace(candidate.tdt, decisions=tables))


def _unknown(path: Path, detail: str) -> ConfigError:
    return ConfigError(
        f"'{path}' is not what this version of layerdiff writes.",
        where=str(path),
        detail=detail,
        action="Run the comparison again.",
    )
