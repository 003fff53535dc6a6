"""`manifest.json`: what a result was made from, so that it can be made again and compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff import store

if TYPE_CHECKING:
    from layerdiff.config import Config
    from layerdiff.records import Report


def manifest(report: Report, config: Config, *, inputs: Mapping[str, str], seeds: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, the resolved configuration, the seeds, and the hash of everything that was read.

    Args:
        report: the result, which describes the reference and the candidates.
        config: the configuration with the options of the command line applied.
        inputs: path → sha256 of every recording or tensor file.
        seeds: what is drawn at random → the seeds of it.
    """
    return {
        "environment": dict(report.environment),
        "config": {"path": config.path, **hashed(config.path), "resolved": config.model_dump(exclude_none=True)},
        "reference": dict(report.reference),
        "inputs": dict(inputs),
        "seeds": dict(seeds),
        "packages": {name: packages(result.description) for name, result in report.candidates.items()},
    }


def packages(description: Mapping[str, Any]) -> dict[str, Any]:
    """Component → path and hash of the package that a candidate ran."""
    paths = description.get("packages")
    return {name: {"path": path, **hashed(path)} for name, path in paths.items()} if isinstance(paths, Mapping) else {}


def hashed(path: str | Path | None) -> dict[str, str]:
    """The sha256 of a file, or of the names and hashes of all files of a folder; nothing if it is not there."""
    if path is None or not Path(path).exists():
        return {}
    if Path(path).is_file():
        return {"sha256": store.sha256_file(path)}
    files = sorted(file for file in Path(path).rglob("*") if file.is_file())
    listing = {file.relative_to(path).as_posix(): store.sha256_file(file) for file in files}
    return {"sha256": store.sha256_json(listing)}
