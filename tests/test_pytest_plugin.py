"""`assert_conversion`: what its failure says, and how it behaves inside a run of pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from layerdiff import pytest_plugin
from layerdiff.errors import LayerdiffError
from layerdiff.pytest_plugin import SHOWN_STAGES, WIDTH, failure
from layerdiff.records import CandidateResult, Coverage, Finding, Missing, Report, StageResult, TensorSummary
from tests.align import faults
from tests.align.networks import convert, feed_of, module_of

pytest_plugins = "pytester"

ROOT = Path(__file__).resolve().parent.parent


# ------------------------------------------------------------------ the message


def stage(name: str, status: Any, reason: str = "") -> StageResult:
    side = TensorSummary(name, "float32", (1, 4), -1.5, 2.25, 0.1)
    metrics = {"relative_l2_error": 0.125, "max_abs_error": 0.5, "cosine_similarity": 0.9921875, "snr_db": 18.06}
    return StageResult(name, "model", status, reason, side, side, metrics, own_error=0.0625, inherited_error=0.03125)


def report(status: Any, *stages: StageResult, missing: tuple[Missing, ...] = (), **rest: Any) -> Report:
    failing = next((s.name for s in stages if s.status == "fail"), None)
    coverage = Coverage(len(stages) + len(missing), len(stages), len(stages), missing)
    result = CandidateResult("package", status, failing, coverage, stages, **rest)
    return Report(status, {}, {}, {}, {"package": result})


def test_the_message_is_the_table_of_the_first_bad_stages() -> None:
    bad = [stage(f"layer_{i}", "fail", f"total error 0.{i + 1} is above 1e-3") for i in range(SHOWN_STAGES + 3)]
    finding = Finding("scale", "layer_0", 0.97, "the candidate is 1.01 times the reference", {"scale": 1.01}, "divide")
    text = failure(report("fail", stage("entry", "pass"), *bad, findings=(finding,)))
    first, *lines = text.splitlines()
    assert first == "✗ package fails first at layer_0 (scale)"
    assert max(map(len, lines)) <= WIDTH
    assert "total error 0.1 is above 1e-3" in text
    assert "0.125" in text
    assert "layer_4" in text
    assert "layer_5" not in text
    assert "entry" not in text
    assert "… and 3 more; 1 stage passes" in text
    assert "the candidate is 1.01 times the reference" in text
    assert "explains 97 % of the error" in text


def test_what_could_not_be_compared_is_said_with_its_reason() -> None:
    lost = Missing("logits", "ambiguous: it could be var_12, var_17")
    text = failure(report("unknown", stage("entry", "pass"), missing=(lost,)))
    assert text.splitlines()[0] == "? package unknown: 1 stage could not be compared"
    assert "logits: ambiguous: it could be var_12, var_17" in text


def test_the_message_has_no_control_characters() -> None:
    text = failure(report("fail", stage("bad\x1b[31m", "fail", "far\x07 off")))
    assert all(c.isprintable() or c == "\n" for c in text)


# ------------------------------------------------------------------ inside pytest

PASSING_AND_FAILING = """
from layerdiff.pytest_plugin import assert_conversion as imported
from tests.align.networks import feed_of, module_of

PACKAGES = {packages!r}


def test_right(assert_conversion):
    assert assert_conversion(module_of("functional"), PACKAGES["right"], feed_of("functional")).ok


def test_wrong():
    imported(module_of("functional"), PACKAGES["wrong"], feed_of("functional"))
"""


def test_pytest_starts_without_anything_heavy() -> None:
    code = (
        "import sys, layerdiff.pytest_plugin;"
        "print(sorted({'torch', 'numpy', 'coremltools', 'pandas', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A right conversion, and one whose key projection is transposed."""
    folder = tmp_path_factory.mktemp("packages")
    convert(module_of("functional"), feed_of("functional"), folder / "right.mlpackage", target="iOS16")
    key = faults.results(folder / "right.mlpackage", "linear")[1]
    wrong = faults.transposed(folder / "right.mlpackage", folder / "wrong.mlpackage", tensor=key)
    return {"right": str(folder / "right.mlpackage"), "wrong": str(wrong.package)}


def test_a_wrong_conversion_fails_its_test_with_the_first_bad_stage(
    pytester: pytest.Pytester, packages: dict[str, str]
) -> None:
    pytester.makepyfile(PASSING_AND_FAILING.format(packages=packages))
    pytester.syspathinsert(str(ROOT))
    result = pytester.runpytest_inprocess("-p", "layerdiff.pytest_plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E*AssertionError: ✗ wrong fails first at /linear_1*", "E*▶ /linear_1 *", "E*✗ fail*"])
    result.stdout.fnmatch_lines(["E*stages pass"])
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")  # the failure is the test's own, not somewhere in layerdiff


def test_options_reach_the_comparison(packages: dict[str, str]) -> None:
    stages = {"scores": {"reference": "/softmax", "candidate": "var_44"}}
    done = pytest_plugin.assert_conversion(
        module_of("functional"), packages["right"], feed_of("functional"), stages=stages
    )
    assert [stage.name for stage in done.candidates["right"].stages] == ["scores"]


def test_a_comparison_that_cannot_be_made_is_no_failed_assertion(packages: dict[str, str]) -> None:
    with pytest.raises(LayerdiffError, match="train mode"):
        pytest_plugin.assert_conversion(module_of("functional").train(), packages["right"], feed_of("functional"))
