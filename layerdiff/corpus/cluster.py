"""Shards as tasks of a Ray cluster: models are opened once per process, weights lie once on every machine.

A process that is lost is replaced, and its shard is decoded again; a shard that kills its process `ATTEMPTS` times is
given up, and its clips are rows with a problem. All paths of a configuration must mean the same on every machine.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch

from layerdiff import quiet
from layerdiff.errors import EngineError, MissingExtraError
from layerdiff.progress import SILENT
from layerdiff.store import CACHE_VARIABLE

if TYPE_CHECKING:
    from layerdiff.config import Config, ExecutionConfig
    from layerdiff.corpus.items import Item
    from layerdiff.corpus.worker import Rows

ATTEMPTS = 3
"""How often a shard is tried whose process dies."""

ANSWER_WITHIN_S = 5.0
"""How long an address is given to answer; Ray itself would wait for minutes."""

Job = tuple[int, Sequence["Item"]]
"""Number and clips of a shard."""


class Remote:
    """A worker in a process of the cluster."""

    def __init__(self, values: Mapping[str, Any], folder: str, weights: Mapping[str, Any]) -> None:
        from layerdiff import config as configuration
        from layerdiff.corpus.worker import Worker

        os.chdir(folder)
        with quiet.third_party():
            self._worker = Worker(configuration.from_mapping(values), progress=SILENT)
            adopt(self._worker.models.module, weights)

    def decode(self, items: Sequence[Item]) -> Rows:
        """The rows of a shard."""
        return self._worker.decode(items)

    def process(self) -> int:
        """Its process id."""
        return os.getpid()


def weights_of(module: torch.nn.Module) -> dict[str, Any]:
    """The weights of a module as arrays, by name."""
    return {name: value.numpy() for name, value in module.state_dict().items() if value.numel()}


def adopt(module: torch.nn.Module, weights: Mapping[str, Any]) -> None:
    """Lets a module use arrays as its weights, where they are: those of a cluster are read-only and shared.

    Args:
        module: of the same architecture; nothing may write into its weights afterwards.
        weights: of `weights_of`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        for name, value in module.state_dict(keep_vars=True).items():
            if name in weights:
                value.data = torch.from_numpy(weights[name])


# ------------------------------------------------------------------ the cluster


def decode_on_cluster(jobs: Iterable[Job], config: Config, weights: Mapping[str, Any]) -> Iterator[tuple[int, Rows]]:
    """Number and rows of every shard, in the order in which they are finished.

    Args:
        jobs: the shards; taken as processes become free.
        config: what the processes open.
        weights: of the reference, as `weights_of` gives them; put into the cluster once.

    Raises:
        EngineError: the cluster can't be reached, or no process of it can open the models.
        MissingExtraError: Ray is not installed.
    """
    with connected(config.execution) as ray:
        count = config.execution.workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        shared = ray.put(dict(weights))
        values = config.model_dump(exclude_none=True)
        pool = Pool(ray, count, (values, os.getcwd(), shared))
        yield from pool.decode(jobs)


class Pool:
    """The processes of a cluster that decode, and what each of them is busy with."""

    def __init__(self, ray: Any, count: int, arguments: tuple[Any, ...]) -> None:
        self._ray, self._arguments = ray, arguments
        variables = {name: os.environ[name] for name in (CACHE_VARIABLE,) if name in os.environ}
        self._remote = ray.remote(num_cpus=1, runtime_env={"env_vars": variables})(Remote)
        self._idle = deque(self._new() for _ in range(count))
        self._busy: dict[Any, tuple[Any, Job]] = {}
        self._again: deque[Job] = deque()
        self._deaths: dict[int, int] = {}

    def _new(self) -> Any:
        return self._remote.remote(*self._arguments)

    def decode(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Rows]]:
        """Number and rows of every job."""
        waiting = iter(jobs)
        while True:
            while self._idle and (job := self._again.popleft() if self._again else next(waiting, None)) is not None:
                actor = self._idle.popleft()
                self._busy[actor.decode.remote(list(job[1]))] = (actor, job)
            if not self._busy:
                return
            for done in self._ray.wait(list(self._busy), num_returns=1)[0]:
                yield from self._result(done)

    def _result(self, done: Any) -> Iterator[tuple[int, Rows]]:
        actor, job = self._busy.pop(done)
        try:
            rows = self._ray.get(done)
        except self._ray.exceptions.RayActorError as error:
            if getattr(error, "actor_init_failed", False):
                raise EngineError(
                    "a process of the cluster could not open the models.",
                    detail=str(error).strip().splitlines()[-1],
                    action="Check that layerdiff and all files of the configuration are on every machine.",
                ) from error
            self._idle.append(self._new())
            self._deaths[job[0]] = self._deaths.get(job[0], 0) + 1
            if self._deaths[job[0]] < ATTEMPTS:
                self._again.append(job)
                return
            said = f"EngineError: the process that decoded it died {ATTEMPTS} times."
            yield job[0], [{"index": item.index, "clip": item.name, "problem": said} for item in job[1]]
            return
        self._idle.append(actor)
        yield job[0], rows


@contextmanager
def connected(entry: ExecutionConfig) -> Iterator[Any]:
    """Ray, connected to a cluster; one that is started here ends with the body.

    Raises:
        EngineError: nothing answers at the address.
        MissingExtraError: Ray is not installed.
    """
    require_reachable(entry)
    import ray

    options = {"logging_level": "ERROR", "log_to_driver": False}
    was_connected = ray.is_initialized()
    try:
        if not was_connected:
            _connect(ray, entry, options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _unreachable(entry, error) from error
    try:
        yield ray
    finally:
        if not was_connected:
            ray.shutdown()


def _connect(ray: Any, entry: ExecutionConfig, options: Mapping[str, Any]) -> None:
    if entry.ray is not None and entry.ray != "auto":
        ray.init(address=entry.ray, **options)
        return
    with suppress(ConnectionError):
        ray.init(address="auto", **options)
        return
    cores = max(os.cpu_count() or 1, entry.workers or 1)
    ray.init(num_cpus=cores, include_dashboard=False, **options)


def require_reachable(entry: ExecutionConfig) -> None:
    """Raises at once where Ray is missing, or nothing listens at its address.

    Raises:
        EngineError: nothing answers, or the address has another form.
        MissingExtraError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("ray", extra="ray", purpose="a cluster")
    if entry.ray in (None, "auto"):
        return
    try:
        _require_answer(str(entry.ray))
    except (OSError, ValueError) as error:
        raise _unreachable(entry, error) from error


def _unreachable(entry: ExecutionConfig, error: Exception) -> EngineError:
    return EngineError(
        f"there is no Ray cluster at '{entry.ray}'.",
        where="execution.ray",
        detail=(str(error).strip() or type(error).__name__).splitlines()[0],
        action="Start one with 'ray start --head', give its address, or 'auto'.",
    )


def _require_answer(address: str) -> None:
    """Connects to `HOST:PORT` or `ray://HOST:PORT` and hangs up."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("expected HOST:PORT, ray://HOST:PORT or auto")
    socket.create_connection((host, int(port)), timeout=ANSWER_WITHIN_S).close()
