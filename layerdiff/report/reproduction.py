"""What a bundle of `layerdiff repro` says: the script that shows the difference, and the text of an issue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import jinja2

from layerdiff.records import Report
from layerdiff.report import cells, markdown
from layerdiff.report.rows import Row

ISSUE = "ISSUE.md"
LISTED_OPS = 12
PINNED = ("coremltools", "numpy")
"""What the script needs."""


@dataclass(frozen=True)
class Bundle:
    """A part of a package that shows the error of a stage, with its inputs and what should come out."""

    folder: Path
    candidate: str
    stage: str
    clip: str
    """The feed on which the stage is furthest off."""
    ops: tuple[str, ...]
    """The types of the ops of the part, in order."""
    output: str
    """The name of what the part returns."""
    part: str
    """The part of the output that is compared, as NumPy writes it; empty for all of it."""
    inputs: Mapping[str, str]
    """Input → dtype and shape."""
    fed_by_reference: tuple[str, ...]
    """The stages whose tensors the part is fed, the reference's; empty if it is fed the inputs of the model."""
    relative_l2_error: float
    """Of the part on the portable engine."""
    limit: float
    """The error from which on the script says that there is a difference."""

    @property
    def counted_ops(self) -> list[str]:
        """The ops in order, or, of many, how many there are of each type."""
        if len(self.ops) <= LISTED_OPS:
            return list(self.ops)
        return [f"{count} {op}" for op, count in Counter(self.ops).most_common(LISTED_OPS)] + ["…"]

    @property
    def files(self) -> tuple[Path, ...]:
        """What lies in the folder."""
        return tuple(sorted(self.folder.iterdir()))

    def at(self, folder: Path) -> Bundle:
        """The same bundle in another place."""
        return replace(self, folder=folder)


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.PackageLoader("layerdiff.report", "templates")
    return jinja2.Environment(  # plain texts: what comes from a model is cleaned before
        loader=loader, trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )


def title(bundle: Bundle) -> str:
    """One line that says what is wrong."""
    error = cells.number(bundle.relative_l2_error)
    return f"{cells.clean(bundle.stage)} of {cells.clean(bundle.candidate)}: relative L2 error {error}"


def script(bundle: Bundle) -> str:
    """`repro.py`: loads the package, runs it where Core ML runs, and compares."""
    return (
        _templates()
        .get_template("repro.py.txt")
        .render(
            title=title(bundle).replace("\\", "/").replace('"', "'"),
            output=repr(bundle.output),
            part=bundle.part,
            limit=repr(float(bundle.limit)),
            allowed=cells.number(float(bundle.limit)),
        )
    )


def write_issue(folder: Path, bundle: Bundle, report: Report, row: Row, ran: str) -> None:
    """Writes `ISSUE.md`.

    Args:
        folder: the bundle's.
        bundle: what is in it.
        report: the result that it is made of.
        row: the stage's row.
        ran: what the script printed.
    """
    candidate = report.candidates[bundle.candidate]
    finding = next((found for found in candidate.findings if found.stage == row["stage"]), None)
    package = folder / "model.mlpackage"
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    known = {name: str(report.environment.get(name, "")).partition("+")[0] for name in PINNED}
    fed = ", ".join(f"`{name}` {text}" for name, text in bundle.inputs.items())
    whose = "the reference's tensors of " + ", ".join(map(markdown.code, bundle.fed_by_reference))
    text = (
        _templates()
        .get_template("ISSUE.md.txt")
        .render(
            title=markdown.escaped(title(bundle)),
            size=cells.size(size),
            package=markdown.code(_package_of(candidate.description, row)),
            ops=", ".join(bundle.counted_ops),
            fed=f"{whose if bundle.fed_by_reference else 'the inputs of the model'} ({fed})",
            reference=markdown.code(str(report.reference.get("name", "the reference"))),
            clip=cells.clean(bundle.clip),
            ran=ran.strip(),
            pins=" ".join(f"{name}=={version}" for name, version in known.items() if version),
            facts=[(name, markdown.escaped(cells.fact(value))) for name, value in report.environment.items() if value],
            table="\n".join(markdown.table([row])),
            failure=markdown.escaped(row["reason"] or ""),
            finding="\n".join(markdown.finding_lines(finding)) if finding is not None else "",
        )
    )
    (folder / ISSUE).write_text(text, encoding="utf-8")


def _package_of(description: Mapping[str, object], row: Row) -> str:
    """The name of the package that holds the stage."""
    packages = description.get("packages")
    path = packages.get(row["component"]) if isinstance(packages, Mapping) else description.get("package")
    return Path(str(path or "the package")).name


def render(bundle: Bundle) -> list[str]:
    """What the terminal says: what is in the bundle, and how to run it."""
    lines = [title(bundle), f"{len(bundle.ops)} ops: {', '.join(bundle.counted_ops)}"]
    fed = ", ".join(bundle.fed_by_reference) or "the inputs of the model"
    lines.append(f"fed: {fed}; {', '.join(f'{name} {text}' for name, text in bundle.inputs.items())}")
    lines.append(f"files in {cells.clean(bundle.folder)}:")
    return [*lines, *(f"  {path.name}" for path in bundle.files)]
