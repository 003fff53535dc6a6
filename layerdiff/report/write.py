"""Writes a run directory: every file is either the previous or the complete one, never half of one."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff import store
from layerdiff.errors import OutputError
from layerdiff.records import Report
from layerdiff.report import complete, csv, json, junit, markdown, page

if TYPE_CHECKING:
    from layerdiff.config import OutputsConfig

FILES: Mapping[str, tuple[str, Callable[[Report], str]]] = {
    "csv": ("stages.csv", csv.render),
    "json": ("report.json", json.render),
    "markdown": ("report.md", markdown.render),
    "html": ("report.html", page.render),
    "junit": ("junit.xml", junit.render),
}
"""Key of `outputs` → name of the file and what renders it."""

MANIFEST = "manifest.json"


def check_writable(folder: str | Path) -> Path:
    """Creates the run directory and proves that files can be written into it, before anything heavy runs.

    Raises:
        OutputError: they can't.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise OutputError(
            f"The run directory '{folder}' cannot be written to: {getattr(error, 'strerror', None) or error}.",
            where="outputs.dir",
            action="Name another folder with --dir, or give yourself write permission there.",
        ) from error
    return folder


@contextmanager
def run_directory(folder: str | Path) -> Iterator[Path]:
    """The run directory, proved to be writable; one that was made for a run that is then refused goes again.

    Raises:
        OutputError: nothing can be written into it.
    """
    existed = Path(folder).exists()
    try:
        yield check_writable(folder)
    except BaseException:
        if not existed:
            with suppress(OSError):
                Path(folder).rmdir()
        raise


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """What a run directory's manifest says beside the hashes of its files; nothing if it has none."""
    try:
        found = loads((Path(folder) / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in found.items() if key != "files"} if isinstance(found, dict) else {}


def write_run(report: Report, outputs: OutputsConfig, *, manifest: Mapping[str, Any] | None = None) -> tuple[Path, ...]:
    """Writes the files that `outputs` asks for, and `manifest.json` last.

    Everything is rendered before the first file is replaced. The manifest holds what the caller hands over
    (hashes of the inputs, versions, the resolved configuration, seeds) and the hash of every written file, so
    that a file left by an earlier run can be told from this run's.

    Args:
        report: the result.
        outputs: which files, and where.
        manifest: further plain JSON values for the manifest.

    Returns:
        The paths that were written.

    Raises:
        OutputError: the folder can't be written to.
    """
    folder = check_writable(outputs.dir)
    texts = {name: render(report) for key, (name, render) in FILES.items() if getattr(outputs, key)}
    if outputs.csv and (decisions := csv.render_decisions(report)):
        texts["decisions.csv"] = decisions
    texts[complete.NAME] = complete.render(report)
    hashes = {name: hashlib.sha256(text.encode("utf-8")).hexdigest() for name, text in texts.items()}
    texts[MANIFEST] = json.dump({**(manifest or {}), "schema": json.SCHEMA, "files": hashes})
    return tuple(store.write_atomically(folder / name, text) for name, text in texts.items())
