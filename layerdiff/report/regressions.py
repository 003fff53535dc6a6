"""A result beside its baseline: on a terminal, and as JUnit XML, which every CI system shows."""

from __future__ import annotations

from collections.abc import Iterator

from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite
from rich.console import Console, Group, RenderableType
from rich.text import Text

from layerdiff.regressions import Check, Comparison
from layerdiff.report import cells, sections

STYLES = {"regression": "bold red", "missing": "yellow", "improvement": "green", "new": "dim"}
SYMBOLS = {"regression": "✗", "missing": "?", "improvement": "✓", "new": "+"}


def render(check: Check, console: Console) -> None:
    """Prints what is not the same, and the counts."""
    console.print(Group(*view(check, width=console.width)))


def view(check: Check, *, width: int) -> Iterator[RenderableType]:
    """One line per change, the worst kinds first, then how many there are."""
    for verdict, style in STYLES.items():
        for found in check.of(verdict):  # type: ignore[arg-type]
            said = f"{SYMBOLS[verdict]} {verdict}: {sentence(found)}"
            yield sections.paragraph(said, width=width, style=style)
    yield Text(counts(check), style="bold")


def counts(check: Check) -> str:
    """How many numbers were compared, and what became of them."""
    total = len(check.comparisons)
    kinds = ("regression", "improvement", "new")
    parts = [cells.plural(len(check.of(kind)), kind, None if kind != "new" else "new") for kind in kinds]  # type: ignore[arg-type]
    return (
        f"{cells.plural(total, 'number')} beside the baseline: {', '.join(parts)}, {len(check.of('missing'))} missing"
    )


def sentence(found: Comparison) -> str:
    """`raw_logits, logits: relative_l2_error 1.2e-7 → 3.4e-3, at most 1.8e-7`."""
    values = " → ".join(_value(value) for value in (found.baseline, found.now))
    limit = f", at most {cells.number(found.limit)}" if found.limit is not None else ""
    return f"{cells.clean(found.candidate)}, {cells.clean(found.subject)}: {found.measure} {values}{limit}"


def _value(value: float | str | None) -> str:
    return value if isinstance(value, str) else cells.number(value)


def junit(check: Check) -> str:
    """JUnit XML: a suite per candidate, a case per number; a regression is a failure, what is missing is skipped."""
    root = JUnitXml("layerdiff")
    for candidate in dict.fromkeys(found.candidate for found in check.comparisons):
        suite = TestSuite(candidate)
        for found in check.comparisons:
            if found.candidate == candidate:
                suite.add_testcase(_case(found))
        root.add_testsuite(suite)
    root.update_statistics()
    return str(root.tostring().decode("utf-8"))


def _case(found: Comparison) -> TestCase:
    case = TestCase(f"{found.subject}: {found.measure}", f"layerdiff.{found.candidate}")
    if found.verdict == "regression":
        case.result = [Failure(sentence(found), found.verdict)]
    elif found.verdict == "missing":
        case.result = [Skipped(sentence(found))]
    else:
        case.system_out = f"{found.verdict}: {sentence(found)}"
    return case
