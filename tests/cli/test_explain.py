"""`layerdiff explain` from a table, from options, and from what is neither."""

from __future__ import annotations

import subprocess
import sys

import pytest

from layerdiff.cli import main
from layerdiff.cli.explain import parsed

FOUNDING = ("vocabulary: [−61.816, −0.456] [−61.567, −1.025]", "durations: [-9.765, 7.443] [-11.275, -1.025]")


def run(capsys, *arguments):
    code = main(["explain", *arguments])
    return code, capsys.readouterr()


def test_the_founding_report_as_it_was_pasted(capsys):
    code, shown = run(capsys, "--range", FOUNDING[0], "--range", FOUNDING[1])
    assert code == 0
    assert shown.out.startswith("1. slice_shift  vocabulary, durations  (100%)\n  'vocabulary' and 'durations' have")
    assert max(map(len, shown.out.splitlines())) <= 100
    assert "2. log_softmax_baked  durations  (20%)" in shown.out


def test_a_table(capsys, tmp_path):
    table = tmp_path / "stages.csv"
    table.write_text(
        "candidate,stage,reference_min,reference_max,candidate_min,candidate_max\n"
        "a,durations,-9.765,7.443,-7.443,9.765\nb,durations,-9.765,7.443,-9.765,7.443\na,none,,,,\n"
    )
    code, shown = run(capsys, str(table))
    assert code == 0
    assert shown.out.startswith("1. sign_flip  durations")
    assert "2. bias_changed  durations" in shown.out  # what is mirrored is moved too
    assert "3. " not in shown.out


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("a:b: [1, 2] [-3e-1, .5]", (1.0, 2.0, -0.3, 0.5)),
        ("x: -inf 0 nan 1", (float("-inf"), 0.0, float("nan"), 1.0)),
    ],
)
def test_numbers_are_read_in_any_notation(text, numbers):
    found = parsed(text)
    assert found.stage == text.rpartition(":")[0]
    assert repr((*found.reference, *found.candidate)) == repr(numbers)


@pytest.mark.parametrize("text", ["durations", "durations: 1 2 3", ": 1 2 3 4", "d: [1, 2] [3, 4, 5]"])
def test_a_range_without_its_four_numbers_is_refused(capsys, text):
    code, shown = run(capsys, "--range", text)
    assert code == 2
    assert f"'{text}' does not hold a stage and two ranges" in shown.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "could not be read"),
        (b"stage,reference_min\n", "has no column 'reference_max'"),
        (b"stage,reference_min,reference_max,candidate_min,candidate_max\na,1,2,3,x\n", "is no table of ranges"),
        (b"\xff\xfe\x00", "is no table of ranges"),
    ],
)
def test_a_table_that_is_none_is_refused(capsys, tmp_path, content, message):
    table = tmp_path / "stages.csv"
    if content is not None:
        table.write_bytes(content)
    code, shown = run(capsys, str(table))
    assert code == 2
    assert message in shown.err


def test_nothing_is_refused(capsys):
    code, shown = run(capsys)
    assert code == 2
    assert "there are no ranges to explain" in shown.err


def test_nothing_heavy_is_imported():
    code = f"""
import sys
from layerdiff.cli import main
assert main(['explain', '--range', {FOUNDING[1]!r}]) == 0
heavy = set(sys.modules) & {{'torch', 'coremltools', 'pandas', 'nemo', 'onnxruntime'}}
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
