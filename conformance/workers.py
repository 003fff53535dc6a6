"""Runs numbered tasks in forked processes, and survives the death of any of them.

The processes are forks of one that has imported and collected everything, so a new one costs milliseconds: each is
replaced after some tasks, when it dies, and when a task runs past its time.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

FORK = multiprocessing.get_context("fork") if "fork" in multiprocessing.get_all_start_methods() else None


@dataclass(frozen=True)
class Death:
    """A task that ended its process."""

    reason: str


class Worker:
    """One process and the task that it has."""

    def __init__(self, work: Callable[[int], Any], siblings: list[Worker]) -> None:
        assert FORK is not None
        self.connection, theirs = FORK.Pipe()
        inherited = [self.connection, *(sibling.connection for sibling in siblings)]
        self.process: BaseProcess = FORK.Process(target=_serve, args=(theirs, inherited, work), daemon=True)
        self.process.start()
        theirs.close()
        self.task, self.done, self.deadline_s = -1, 0, 0.0

    def give(self, task: int, *, timeout_s: float) -> None:
        self.task, self.deadline_s = task, time.monotonic() + timeout_s
        self.connection.send(task)

    def result(self) -> Any:
        """The answer that is ready, or how the process died."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            return Death(signal.Signals(-code).name if code < 0 else f"exit code {code}")
        self.done += 1
        return answer

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, inherited: list[Connection], work: Callable[[int], Any]) -> None:
    """What a worker does: with the parents' ends closed, it ends when its parent does."""
    for other in inherited:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(work(task))


def completed(
    work: Callable[[int], Any], count: int, *, jobs: int, timeout_s: float, tasks_per_process: int = 100
) -> Generator[tuple[int, Any], None, None]:
    """Runs `work(0)` … `work(count - 1)`, each in some process; yields (task, result or `Death`) as they finish.

    Closing the iterator kills what is under way. A task that outlives `timeout_s` is killed with its process.
    """
    tasks = iter(range(count))
    busy: list[Worker] = []
    try:
        for _, task in zip(range(jobs), tasks, strict=False):
            busy.append(_started(work, task, busy, timeout_s))
        while busy:
            for worker, answer in _answers(busy):
                yield worker.task, answer
                busy.remove(worker)
                following = next(tasks, None)
                reusable = not isinstance(answer, Death) and worker.done < tasks_per_process
                if following is None or not reusable:
                    worker.end()
                if following is not None:
                    if reusable:
                        worker.give(following, timeout_s=timeout_s)
                    busy.append(worker if reusable else _started(work, following, busy, timeout_s))
    finally:
        for worker in busy:
            worker.end()


def _started(work: Callable[[int], Any], task: int, siblings: list[Worker], timeout_s: float) -> Worker:
    worker = Worker(work, siblings)
    worker.give(task, timeout_s=timeout_s)
    return worker


def _answers(busy: list[Worker]) -> list[tuple[Worker, Any]]:
    """Waits until some worker answers, dies or runs out of time."""
    patience_s = max(0.0, min(worker.deadline_s for worker in busy) - time.monotonic())
    ready = wait([worker.connection for worker in busy], timeout=patience_s)
    late = time.monotonic()
    answers: list[tuple[Worker, Any]] = []
    for worker in busy:
        if worker.connection in ready:
            answers.append((worker, worker.result()))
        elif late >= worker.deadline_s:
            answers.append((worker, Death("ran out of time")))
    return answers
