"""`assert_conversion` for pytest: a test that fails with the table of the first stages that went wrong.

    def test_the_encoder_survives_conversion(assert_conversion):
        assert_conversion(module, "Encoder.mlpackage", {"x": x})

pytest loads this module at its start, so nothing heavy is imported before an assertion is made.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rich.console import RenderableType

    from layerdiff.records import Array, CandidateResult, Report

WIDTH = 100
"""Columns of the message: what pytest shows without wrapping on most screens and in most logs."""

SHOWN_STAGES = 5
"""How many of the stages that are not right are listed."""


def assert_conversion(module: Any, package: str | Path, feed: Mapping[str, Array], **options: Any) -> Report:
    """Asserts that a Core ML package computes what a module does, tensor by tensor.

    Args:
        module: the reference; whatever `layerdiff.diff` takes for one.
        package: the candidate.
        feed: input name → value.
        options: the other keywords of `layerdiff.diff`.

    Returns:
        The report, which is within its thresholds.

    Raises:
        AssertionError: a stage fails, or something could not be compared; the message is the verdict, the table of the
            first of these stages, and the first finding.
        LayerdiffError: the comparison could not be carried out at all.
    """
    __tracebackhide__ = True
    from layerdiff.run.diff import diff

    report = diff(reference=module, candidates={Path(package).stem: package}, feed=feed, **options)
    if not report.ok:
        raise AssertionError(failure(report))
    return report


@pytest.fixture(name="assert_conversion")
def _assert_conversion() -> Callable[..., Report]:
    """`assert_conversion(module, package, feed, **options)` without an import."""
    return assert_conversion


def failure(report: Report) -> str:
    """What an AssertionError says: for every candidate that is not right its verdict, stages and first finding."""
    from layerdiff.report.terminal import console_for

    text = io.StringIO()
    console = console_for(text, color=False, width=WIDTH)
    for candidate in report.candidates.values():
        if candidate.status != "pass":
            for part in _parts(candidate):
                console.print(part)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip()


def _parts(candidate: CandidateResult) -> Iterator[RenderableType]:
    from rich.text import Text

    from layerdiff.report import cells, sections
    from layerdiff.report.rows import candidate_rows
    from layerdiff.report.tables import stage_table

    rows = candidate_rows(candidate)
    bad = [row for row in rows if row["status"] in ("fail", "unknown")]
    shown = bad[:SHOWN_STAGES]
    yield Text(f"{cells.SYMBOLS[candidate.status]} {sections.verdict_of(candidate)}")
    yield Text()
    yield stage_table(shown, width=WIDTH)
    unknown = [f"{row['stage']}: {row['reason']}" for row in shown if row["status"] == "unknown"]
    for text in (*sections.failures(shown), *unknown):
        yield sections.paragraph(text, width=WIDTH, style="")
    tensors = [f"{row['stage']} is '{row['candidate_tensor']}'" for row in shown if row["candidate_tensor"]]
    if tensors:
        yield sections.labelled("candidate", tensors, width=WIDTH)
    right = cells.plural(sum(row["status"] == "pass" for row in rows), "stage passes", "stages pass")
    more = [f"… and {len(bad) - len(shown)} more"] if len(bad) > len(shown) else []
    yield Text("; ".join([*more, right]))
    for finding in candidate.findings[:1]:
        yield from (Text(), sections.finding(finding, width=WIDTH))
