"""Files inside of installed Python packages, which a configuration names as `package:path`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from layerdiff.errors import ConfigError


def package_path(text: str, *, where: str = "coreml") -> Path:
    """The path that a text is; `name:path` is a path inside the installed Python package `name`.

    Raises:
        ConfigError: there is no such Python package.
    """
    path = Path(text).expanduser()
    name, colon, inside = text.partition(":")
    if path.exists() or not colon or not name.isidentifier() or len(name) == 1:
        return path
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the Python package '{name}' of '{text}' is not installed.",
            where=where,
            action=f"pip install --no-deps {name}, or give the path of the file",
        )
    return Path(next(iter(spec.submodule_search_locations))) / inside
