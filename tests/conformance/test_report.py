"""Records added up, and the document made of them."""

import pytest

from conformance import records, report
from conformance.document import document
from conformance.excused import KINDS, Excuse
from conformance.records import Record

OPS = "converters/mil/mil/ops/tests/iOS17/test_conv.py"
TORCH = "converters/mil/frontend/torch/test/test_torch_ops.py"

FOUND = [
    Record(f"{OPS}::TestConv::test_a[1]", records.PASSED, predictions=1),
    Record(f"{OPS}::TestConv::test_a[2]", records.PASSED, predictions=3),
    Record(f"{OPS}::TestConv::test_shape[1]", records.PASSED, predictions=1),
    Record(f"{OPS}::TestConv::test_a[3]", records.SKIPPED),
    Record(f"{OPS}::TestConv::test_a[4]", records.UNPREDICTED),
    Record(f"{TORCH}::TestX::test_b", records.FAILED, error="ValueError: odd", predictions=1),
    Record(f"{TORCH}::TestX::test_c", records.FAILED, error="ValueError: odd", predictions=1),
    Record(f"{TORCH}::TestX::test_d", records.UNCONVERTED),
    Record(f"{TORCH}::TestX::test_e", records.CRASHED),
]
EXCUSES = [Excuse("*::test_b", "random", "because"), Excuse("*::test_d", "conversion", "because")]


@pytest.fixture
def result():
    return report.judged(FOUND, EXCUSES, toothless={f"{OPS}::TestConv::test_shape"})


def test_each_test_counts_once(result):
    assert result.tallies[OPS].counts == {"predicted": 3, "passed": 2, "toothless": 1}
    assert result.tallies[TORCH].counts == {"predicted": 2, "random": 1, "conversion": 1, "failed": 2}


def test_what_is_not_excused_is_listed(result):
    assert [record.test.rpartition("::")[2] for record in result.failures] == ["test_c", "test_e"]


def test_columns_add_up(result):
    counts = result.total.counts
    counted = sum(record.outcome not in (records.SKIPPED, records.UNPREDICTED) for record in FOUND)
    assert sum(counts[name] for name in ("passed", "toothless", *KINDS, "failed")) == counted


def test_rows_are_suites_above_their_files_and_the_sum(result):
    rows = report.rows(result)
    assert [row[0] for row in rows] == ["ops", "  iOS17/test_conv.py", "torch", "  test/test_torch_ops.py", "all"]
    assert {len(row) for row in rows} == {1 + len(report.COLUMNS)}
    assert rows[0][1:4] == ("3", "2", "1")
    assert rows[-1][1] == "5"


def test_only_the_asked_suites_are_reported():
    assert {record.test.partition("::")[0] for record in report.of_suites(FOUND, ["torch"])} == {TORCH}


def test_the_document_says_versions_numbers_and_excuses(result):
    text = document(result, settings={"coremltools": "9.0", "torch": "2.7", "strict": 0.01}, excuses=EXCUSES)
    assert "Measured with coremltools 9.0, torch 2.7: 9 tests ran." in text
    assert "| `iOS17/test_conv.py` | 3 | 2 | 1 |" in text
    assert "here at\n  0.01 each" in text
    assert "- `*::test_b` (random): because" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {len(report.COLUMNS) + 2}
