"""Forked processes: every task is answered once, whatever happens to the process that has it."""

import os
import signal
import sys
import time

import pytest

from conformance.workers import FORK, Death, completed

pytestmark = pytest.mark.skipif(FORK is None or sys.platform == "darwin", reason="needs a system that forks safely")


def finished(work, count, **options):
    return list(completed(work, count, **({"jobs": 2, "timeout_s": 60} | options)))


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_task_is_answered_once(jobs, count):
    assert sorted(finished(lambda task: task * task, count, jobs=jobs)) == [(i, i * i) for i in range(count)]


def test_processes_are_replaced_after_some_tasks():
    processes = [answer for _, answer in finished(lambda task: os.getpid(), 7, jobs=1, tasks_per_process=3)]
    assert len(set(processes)) == 3
    assert os.getpid() not in processes


def test_a_process_that_dies_costs_one_task():
    def work(task):
        if task == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if task == 5:
            os._exit(7)
        return task

    answers = dict(finished(work, 9))
    assert answers == {task: task for task in range(9)} | {3: Death("SIGKILL"), 5: Death("exit code 7")}


def test_a_task_that_runs_past_its_time_is_ended():
    started = time.monotonic()
    answers = dict(finished(lambda task: time.sleep(60 if task == 1 else 0), 4, timeout_s=0.5))
    assert answers == {0: None, 1: Death("ran out of time"), 2: None, 3: None}
    assert time.monotonic() - started < 20


def test_closing_ends_what_is_under_way():
    results = completed(lambda task: (os.getpid(), time.sleep(60 if task else 0))[0], 3, jobs=2, timeout_s=60)
    _, process = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
