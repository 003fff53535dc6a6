"""`junit.xml`: the stages as test cases, for what shows the results of a CI system."""

from __future__ import annotations

from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

from layerdiff.records import CandidateResult, Report
from layerdiff.report import sections
from layerdiff.report.rows import SHOWN, Row, candidate_rows


def render(report: Report) -> str:
    """The file's text: a suite per candidate, a case per stage; what could not be compared is skipped."""
    root = JUnitXml("layerdiff")
    for candidate in report.candidates.values():
        root.add_testsuite(_suite(candidate))
    root.update_statistics()
    return str(root.tostring().decode("utf-8"))


def _suite(candidate: CandidateResult) -> TestSuite:
    rows = candidate_rows(candidate)
    name = rows[0]["candidate"] if rows else sections.verdict_of(candidate)
    suite = TestSuite(name)
    for row in rows:
        suite.add_testcase(_case(row))
    return suite


def _case(row: Row) -> TestCase:
    case = TestCase(row["label"], f"layerdiff.{row['candidate']}")
    said = f"{row['reason'] or 'it fails'}{sections.worst(row)}"
    if row["status"] == "fail":
        case.result = [Failure(said, "first divergence" if row["first_divergence"] else "stage")]
    elif row["status"] != "pass":
        case.result = [Skipped(said)]
    case.system_out = "\n".join(f"{shown.header}: {shown.cell(row)}" for shown in SHOWN)
    return case
