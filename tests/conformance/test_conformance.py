"""A fixed sample of coremltools' own tests, through the command line; `make conformance` runs all of them."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from conformance import records
from conformance.suites import suite_of

ROOT = Path(__file__).parents[2]
SUITES = ("ops", "torch", "stateful", "quant")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that have loaded torch")


def run(folder, *arguments):
    """Runs the command; its exit code, what it printed, and its records."""
    command = [sys.executable, "-m", "conformance", "run", *arguments, "-j", "2", "--out", str(folder)]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout, records.read([folder]).values()


def test_a_sample_passes(tmp_path):
    code, printed, found = run(tmp_path, *SUITES, "-k", "1", "--share", "0.25")
    assert code == 0, printed
    predicted = Counter(suite_of(record.test) for record in found if record.predictions)
    assert predicted["ops"] >= 50, printed
    assert predicted["torch"] >= 70, printed
    assert predicted["stateful"] >= 1, printed
    assert predicted["quant"] >= 1, printed


def test_wrong_predictions_are_noticed(tmp_path):
    code, printed, found = run(tmp_path, "ops", "-k", "1", "--share", "0.05", "--spoil")
    assert code == 1, printed
    outcomes = Counter(record.outcome for record in found if record.predictions)
    assert outcomes[records.FAILED] >= 10, printed
    assert outcomes[records.PASSED] <= 2, printed


def test_an_unknown_suite_is_refused(tmp_path):
    code, printed, _ = run(tmp_path / "unused", "opps")
    assert code == 2
    assert "'opps' is not a suite" in printed
    assert not (tmp_path / "unused").exists()
