"""The constant of an app that names a model: literals of a Swift file that are exactly the old package's name."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from layerdiff.errors import ConfigError, OutputError
from layerdiff.store import write_atomically

EXTENSIONS = (".mlmodelc", ".mlpackage", ".mlmodel", "")
"""With what a model's name may end in the source of an app."""

_LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"')


@dataclass(frozen=True)
class SwiftChange:
    """A Swift file before and after."""

    path: Path
    before: str
    after: str

    @property
    def diff(self) -> list[str]:
        """The change as a unified diff, line by line."""
        lines = (self.before.splitlines(), self.after.splitlines())
        return list(difflib.unified_diff(*lines, str(self.path), str(self.path), lineterm="", n=2))

    def write(self) -> None:
        """Writes the file, unless it has been edited in the meantime.

        Raises:
            OutputError: it has, or it can't be written; it is as it was.
        """
        if _read(self.path) != self.before:
            raise OutputError(f"'{self.path}' has changed since it was read.", action="Run the command again.")
        write_atomically(self.path, self.after.encode())


def renamed(path: str | Path, *, old: str, new: str) -> SwiftChange:
    """The file with another model's name in every literal that is the old one's; folder and extension stay.

    Args:
        path: a Swift file in UTF-8.
        old: the name of the old package without its extension: `RNNTJoint`.
        new: that of the new one.

    Raises:
        ConfigError: the file can't be read, or names no such model.
    """
    path = Path(path)
    text = _read(path)

    def exchanged(literal: re.Match[str]) -> str:
        folder, slash, name = literal[1].rpartition("/")
        extension = next((e for e in EXTENSIONS if name == old + e), None)
        return literal[0] if extension is None else f'"{folder}{slash}{new}{extension}"'

    after = _LITERAL.sub(exchanged, text)
    if after == text:
        models = [name for name in dict.fromkeys(_LITERAL.findall(text)) if "joint" in name.lower()]
        raise ConfigError(
            f"'{path}' does not name the model '{old}'.",
            detail=f"its literals with 'joint': {', '.join(models)}" if models else "no literal in it has 'joint'",
            action="Change the constant by hand, or give the file that holds it.",
        )
    return SwiftChange(path, text, after)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)
        raise ConfigError(f"'{path}' can't be read: {reason}.", action="Give a Swift file as --swift.") from error
