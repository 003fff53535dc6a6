"""Records on disk: appended, read back, merged, and kept apart by what they were made with."""

import json

from conformance import records
from conformance.records import Record

ONE = Record("x.py::test_a[1]", records.PASSED, predictions=2, seconds=0.25)
TWO = Record("x.py::test_b", records.FAILED, error="AssertionError: ä", place="x.py:3 f")


def test_what_is_appended_is_read(tmp_path):
    for record in (ONE, TWO):
        records.append(tmp_path, record)
    assert records.read([tmp_path]) == {ONE.test: ONE, TWO.test: TWO}


def test_a_line_cut_off_by_an_interruption_is_left_out(tmp_path):
    records.append(tmp_path, ONE)
    with (tmp_path / records.RECORDS).open("a") as file:
        file.write('{"test": "x.py::test_b", "outc')
    assert records.read([tmp_path]) == {ONE.test: ONE}


def test_a_run_continues_after_a_line_that_was_cut_off(tmp_path):
    (tmp_path / records.RECORDS).write_text('{"test": "x.py::te')
    records.append(tmp_path, ONE)
    records.append(tmp_path, TWO)
    assert records.read([tmp_path]) == {ONE.test: ONE, TWO.test: TWO}


def test_the_last_word_counts_within_and_across_folders(tmp_path):
    early, late = tmp_path / "early", tmp_path / "late"
    for folder in (early, late):
        folder.mkdir()
    records.append(early, TWO)
    records.append(early, ONE)
    records.append(late, Record(TWO.test, records.PASSED))
    assert records.read([early, late])[TWO.test].outcome == records.PASSED
    assert records.read([late, early])[TWO.test].outcome == records.FAILED


def test_a_folder_without_records_holds_none(tmp_path):
    assert records.read([tmp_path, tmp_path / "absent"]) == {}


def test_records_of_other_settings_are_not_continued(tmp_path):
    folder = tmp_path / "new"
    assert records.conflict(folder, {"torch": "2.7", "strict": 0.01}) is None
    assert records.conflict(folder, {"torch": "2.7", "strict": 0.01}) is None
    assert records.conflict(folder, {"torch": "2.8", "strict": 0.01}) == "torch '2.7', not '2.8'"
    assert records.settings_of(folder) == {"torch": "2.7", "strict": 0.01}
    assert json.loads((folder / records.SETTINGS).read_text())["torch"] == "2.7"
