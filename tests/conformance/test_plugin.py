"""How the plugin chooses tests, and what it calls how they ended."""

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from conformance import plugin, records
from conformance.plugin import Request, Run
from conformance.sampling import Sample
from conformance.watch import Watch

PREFIX = "lib/python3/site-packages/coremltools/"
IDLE, BUSY, REFUSED = Watch(), Watch(predictions=1), Watch(refusals=[ValueError("no such op")])
ERROR = SimpleNamespace(excinfo=SimpleNamespace(type=ValueError, value="odd"))
QUIET = SimpleNamespace(excinfo=None)


def report(outcome, **more):
    ended = {f"{name}": name == outcome for name in ("passed", "failed", "skipped")}
    return SimpleNamespace(**ended, longrepr="[XPASS(strict)] rdar://1", **more)


def item(name, **parameters):
    return SimpleNamespace(nodeid=PREFIX + name, callspec=SimpleNamespace(params=parameters))


@pytest.mark.parametrize(
    ("ended", "call", "watch", "expected"),
    [
        (report("passed"), QUIET, BUSY, records.PASSED),
        (report("passed"), QUIET, IDLE, records.UNPREDICTED),
        (report("passed", wasxfail="rdar"), QUIET, BUSY, records.XPASSED),
        (report("passed", wasxfail="rdar"), QUIET, IDLE, records.UNPREDICTED),
        (report("failed"), QUIET, BUSY, records.XPASSED),
        (report("failed"), ERROR, BUSY, records.FAILED),
        (report("failed"), ERROR, REFUSED, records.FAILED),
        (report("failed"), ERROR, IDLE, records.UNCONVERTED),
        (report("skipped"), ERROR, BUSY, records.SKIPPED),
        (report("skipped", wasxfail="rdar"), ERROR, BUSY, records.SKIPPED),
    ],
)
def test_outcomes(ended, call, watch, expected):
    assert plugin.outcome(ended, call, watch) == expected


def test_the_message_tells_why_a_model_was_refused():
    assert plugin.message(report("failed"), ERROR, REFUSED) == "ValueError: odd; a model was refused: no such op"
    assert plugin.message(report("passed"), QUIET, BUSY) == ""


def test_ids_begin_below_coremltools_whatever_their_parameters_say():
    assert plugin.below_coremltools(PREFIX + "test/a.py::t[x=<class 'coremltools/y'>]") == (
        "test/a.py::t[x=<class 'coremltools/y'>]"
    )


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"backend": ("neuralnetwork", "fp32")}, True),
        ({"backend": ("mlprogram", "fp16")}, False),
        ({"b": SimpleNamespace(backend="neuralnetwork")}, True),
        ({"b": SimpleNamespace(backend="mlprogram")}, False),
        ({"shape": (1, 2), "empty": (), "kind": "neuralnetwork"}, False),
    ],
)
def test_parametrisations_of_the_older_kind_are_left_out(parameters, expected):
    assert plugin.of_neural_network(item("a.py::t[0]", **parameters)) is expected


def test_a_run_continues_where_the_last_one_ended(tmp_path):
    tests = [item(f"a.py::{name}[{i}]") for name in "fgh" for i in range(10)]
    wanted = Sample(per_function=3)
    first = list(tests)
    Run(Request(tmp_path, wanted), print).pytest_collection_modifyitems(first)
    done = {plugin.below_coremltools(test.nodeid) for test in first[:4]}
    second = list(tests)
    Run(Request(tmp_path, wanted, frozenset(done)), print).pytest_collection_modifyitems(second)
    assert len(first) == 9
    assert second == first[4:]


def test_the_same_test_always_draws_the_same_numbers():
    import numpy as np
    import torch

    drawn = []
    for test in ("a", "b", "a"):
        plugin.seed(test)
        drawn.append((np.random.rand(), torch.rand(()).item()))
    assert drawn[0] == drawn[2] != drawn[1]


def test_what_tests_leave_behind_is_removed(monkeypatch):
    monkeypatch.chdir(Path.cwd())
    with plugin.scratch():
        place = Path(tempfile.gettempdir())
        with plugin.own_folder():
            Path("relative").touch()
            tempfile.mkdtemp()
            Path(tempfile.gettempdir(), "pytest-of-me").mkdir()
        own = place / str(os.getpid())
        assert [left.name for left in own.iterdir()] == ["pytest-of-me"]
        assert tempfile.gettempdir() == str(place)
    assert not place.exists()
