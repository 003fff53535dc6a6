"""Every way a request can be refused, each with one message in the house form.

A message answers: what (with the offending value in quotes), where (file and key, or op and tensor),
expected against got, and what to do. The command line prints `ClassName: message` and exits with 2;
a failed *comparison* is never one of these, it is data.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LISTED_NAMES = 12
"""How many known names a message lists before it says how many more there are."""


class LayerdiffError(Exception):
    """A request that could not be carried out.

    Args:
        what: the first line, a full sentence with the offending value in quotes.
        where: the place: file and key, or op name and tensor.
        detail: expected against got, or the known names; may hold several lines.
        action: the last line: what the reader can do.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        detail: str | None = None,
        action: str | None = None,
    ) -> None:
        self.what, self.where, self.detail, self.action = what, where, detail, action
        lines = [what]
        if where:
            lines.append(f"in {where}")
        for block in (detail, action):
            lines.extend(block.splitlines() if block else [])
        super().__init__("\n  ".join(lines))


class ConfigError(LayerdiffError):
    """The configuration is missing, malformed, or asks for something that does not exist."""


class AudioError(LayerdiffError):
    """An audio file is missing, empty, not audio, or holds samples that are not numbers."""


class CheckpointError(LayerdiffError):
    """A reference checkpoint (`.nemo`) is missing, damaged, or unsafe to open."""


class TraceError(LayerdiffError):
    """A recorded trace is missing, damaged, or of another model, or what is to be recorded contradicts itself."""


class PackageError(LayerdiffError):
    """A Core ML package is missing, damaged, or contradicts itself."""


class UnsupportedOpError(LayerdiffError):
    """A MIL program holds an op, or a use of one, that the portable engine does not execute."""


class FeedError(LayerdiffError):
    """Inputs given to a model do not match what it declares."""


class ConversionError(LayerdiffError):
    """coremltools could not convert a module."""


class RepairError(LayerdiffError):
    """A conversion can't be repaired: it is of another model, or no way of rebuilding it passes."""


class EngineError(LayerdiffError):
    """An engine failed, or is not available on this machine."""


class OutputError(LayerdiffError):
    """A result could not be written."""


class MissingExtraError(LayerdiffError):
    """An optional dependency is absent."""

    def __init__(self, module: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"'{module}' is not installed, and {purpose} needs it.",
            action=f'pip install "layerdiff[{extra}]"',
        )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None if none is close."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def known_names(title: str, name: str, known: Iterable[str]) -> str:
    """The detail line `title: a, b, c — did you mean 'b'?`; long lists are cut, the nearest never is."""
    names = list(known)
    shown = ", ".join(names[:LISTED_NAMES]) or "none"
    if len(names) > LISTED_NAMES:
        shown += f" … and {len(names) - LISTED_NAMES} more"
    guess = nearest(name, names)
    return f"{title}: {shown}" + (f" — did you mean '{guess}'?" if guess else "")
