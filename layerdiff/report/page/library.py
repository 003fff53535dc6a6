"""Vega-Lite with its runtime as one script, as vl-convert carries it: nothing is fetched."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from layerdiff.errors import OutputError
from layerdiff.store import Cache


def vega() -> str:
    """The script; it defines `vegaEmbed`. Bundling takes seconds, so that it is kept in the cache."""
    key = {"what": "vega", "vl_convert": version("vl-convert-python")}
    try:
        return Cache.default().entry(key, "vega.js", _build).read_text("utf-8")
    except OutputError:  # a cache that can't be written is no reason to have no page
        return _bundled()


def _build(path: Path) -> None:
    path.write_text(_bundled(), "utf-8")


def _bundled() -> str:
    import vl_convert

    script: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its annotation lacks the default
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
