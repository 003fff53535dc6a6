"""The pytest plugin: collects once, runs a sample in forked processes, and writes one record per test."""

from __future__ import annotations

import gc
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from conformance import records, sampling, workers
from conformance.records import Record
from conformance.sampling import Sample
from conformance.watch import Watch

MESSAGE_LENGTH = 600
NEURAL_NETWORK = "neuralnetwork"
MEMORY = "/dev/shm"
"""Linux' file system in memory: the tests write and remove thousands of small packages."""


@dataclass(frozen=True)
class Request:
    """What one run is asked for."""

    folder: Path
    """Where the records are."""
    sample: Sample
    done: frozenset[str] = frozenset()
    """Tests that are not run again."""
    jobs: int = 1
    timeout_s: float = 300.0
    """For one test."""
    limit_s: float | None = None
    """For all of them."""
    strict: float = 0.01
    spoiled: bool = False


@dataclass(eq=False)
class Run:
    """The plugin; an object, so that nothing has to pass through pytest's command line."""

    request: Request
    report: Callable[[Record, int, int], None]
    """Called with each record, how many tests have finished, and how many this run has."""
    interrupted: bool = False
    _ended: Record | None = None
    """How the test under way ended, as far as is known."""

    def __post_init__(self) -> None:
        self.watch = Watch(strict=self.request.strict, spoiled=self.request.spoiled)

    # ------------------------------------------------------------- before

    def pytest_configure(self, config: pytest.Config) -> None:
        from conformance import disguise, watch

        config.option.tbstyle = "native"  # pytest's own style parses the file of the test, a second for each failure
        disguise.prepare()
        watch.install(self.watch)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            error = str(report.longrepr).strip().splitlines()[-1:] or [""]
            records.append(self.request.folder, Record(below_coremltools(report.nodeid), records.UNCOLLECTED, error[0]))

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        named = {below_coremltools(item.nodeid): item for item in items if not of_neural_network(item)}
        wanted = sampling.drawn(named, self.request.sample)
        items[:] = [named[test] for test in wanted if test not in self.request.done]

    # ------------------------------------------------------------- the tests

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = session.items
        gc.collect()
        gc.freeze()  # every conversion collects garbage: without this, among a hundred thousand parametrisations
        with scratch():
            self._finish(items)
        return True

    def _finish(self, items: list[pytest.Item]) -> None:
        """Runs the tests until all are recorded, the time is up, or the user has had enough."""
        request, started = self.request, time.monotonic()
        results = workers.completed(
            lambda index: self._run(items[index]), len(items), jobs=request.jobs, timeout_s=request.timeout_s
        )
        try:
            for finished, (index, answer) in enumerate(results, start=1):
                if isinstance(answer, workers.Death):
                    answer = Record(below_coremltools(items[index].nodeid), records.CRASHED, answer.reason)
                records.append(request.folder, answer)
                self.report(answer, finished, len(items))
                if request.limit_s is not None and time.monotonic() - started > request.limit_s:
                    break
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            results.close()

    def _run(self, item: pytest.Item) -> Record:
        """One test, in a worker."""
        seed(below_coremltools(item.nodeid))
        self.watch.begin()
        self._ended = None
        started = time.process_time()
        with own_folder():
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return self._with_counts(time.process_time() - started)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if self._ended is None and (call.when == "call" or not report.passed):
            self._ended = Record(
                below_coremltools(item.nodeid),
                outcome(report, call, self.watch),
                error=message(report, call, self.watch),
                place=place(call),
            )
            if report.failed:
                print(f"\n{item.nodeid}\n{report.longreprtext}", file=sys.stderr, flush=True)
        return report

    def _with_counts(self, seconds: float) -> Record:
        if self._ended is None:
            raise RuntimeError("pytest reported nothing")
        return replace(
            self._ended,
            predictions=self.watch.predictions,
            comparisons=self.watch.comparisons,
            loosened=self.watch.loosened,
            seconds=round(seconds, 3),
            engine_seconds=round(self.watch.engine_seconds, 3),
        )


@contextmanager
def scratch() -> Iterator[None]:
    """A place for temporary files, in memory where there is one, that is empty again afterwards."""
    folder = tempfile.mkdtemp(prefix="conformance-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
    outside, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = outside
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def own_folder() -> Iterator[None]:
    """A folder of this process, for its temporary files and to work in: a test's are removed, but for pytest's own."""
    outside = tempfile.gettempdir()
    folder = Path(outside, str(os.getpid()))
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = outside
        for left in folder.iterdir():
            if left.is_dir() and not left.name.startswith("pytest-"):
                shutil.rmtree(left, ignore_errors=True)
            elif left.is_file():
                left.unlink(missing_ok=True)


def below_coremltools(nodeid: str) -> str:
    """A test's id without the folder of the package."""
    function, bracket, parameters = nodeid.partition("[")
    return function.rpartition("coremltools/")[2] + bracket + parameters


def of_neural_network(item: pytest.Item) -> bool:
    """Whether a parametrisation is about the older kind of model, which is no ML Program."""
    parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
    return any(
        getattr(value, "backend", None) == NEURAL_NETWORK
        or (isinstance(value, tuple | list) and [str(first) for first in value[:1]] == [NEURAL_NETWORK])
        for value in parameters
    )


def seed(test: str) -> None:
    """The same random numbers for a test in every run, whatever ran before it."""
    import numpy as np
    import torch

    number = int(sampling.rank(0, "random numbers", test) * 2**31)
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def outcome(report: pytest.TestReport, call: pytest.CallInfo[None], watch: Watch) -> str:
    """The name in `records` of how a test ended."""
    if report.skipped:
        return records.SKIPPED
    expected_to_fail = hasattr(report, "wasxfail") or (report.failed and call.excinfo is None)
    if report.passed or expected_to_fail:
        passed = records.XPASSED if expected_to_fail else records.PASSED
        return passed if watch.predictions else records.UNPREDICTED
    return records.FAILED if watch.predictions or watch.refusals else records.UNCONVERTED


def message(report: pytest.TestReport, call: pytest.CallInfo[None], watch: Watch) -> str:
    """What ended a test that did not pass."""
    if report.skipped and hasattr(report, "wasxfail"):
        return f"xfail: {report.wasxfail}"[:MESSAGE_LENGTH]
    if call.excinfo is None:
        return "" if report.passed else str(report.longrepr)[:MESSAGE_LENGTH]
    refused = "".join(f"; a model was refused: {error}" for error in watch.refusals[:1])
    return f"{call.excinfo.type.__name__}: {call.excinfo.value}"[:MESSAGE_LENGTH] + refused[:MESSAGE_LENGTH]


def place(call: pytest.CallInfo[None]) -> str:
    """Where it was raised: file, line and function."""
    if call.excinfo is None or not call.excinfo.traceback:
        return ""
    last = call.excinfo.traceback[-1]
    return f"{Path(last.path).name}:{last.lineno + 1} {last.name}"
