"""A corpus on a real Ray cluster of this machine: any number of workers, one that is killed, an address without any."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerdiff import corpus, store
from layerdiff.config import Config, ExecutionConfig
from layerdiff.corpus import cluster
from layerdiff.corpus.items import Item, find_corpus
from layerdiff.errors import EngineError, MissingExtraError
from layerdiff.progress import SILENT
from layerdiff.report.decoding_files import write_decoding
from layerdiff.sources.nemo import NemoSource
from tests.corpus.conftest import Make

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")

# Ray's own threads and sockets end with its processes, not with the last reference to them
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def local_cluster() -> Iterator[None]:
    """A cluster of this machine with room for five workers."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=5, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


def files_of(config: Config) -> dict[str, bytes]:
    report, place = corpus.decode(config, progress=SILENT)
    write_decoding(report, place.rows, config.outputs)
    return {path.name: path.read_bytes() for path in Path(config.outputs.dir).iterdir() if path.is_file()}


def processes() -> set[int]:
    """The process ids of all workers that live."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::Remote"):
            found.add(int(folder.name))
    return found


def test_one_two_and_five_workers_give_the_same_bytes(make: Make, tmp_path: Path) -> None:
    def decoded(name: str, **execution: Any) -> dict[str, bytes]:
        outputs = {"dir": str(tmp_path / name)}
        return files_of(make(clips=12, outputs=outputs, execution={"shard": 2, **execution}))

    expected = decoded("alone")
    for workers in (1, 2, 5):
        assert decoded(f"workers {workers}", ray="auto", workers=workers) == expected, workers


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers' processes in /proc")
def test_a_killed_worker_loses_nothing(make: Make, tmp_path: Path, reference: NemoSource) -> None:
    _, alone = corpus.decode(make(clips=12, outputs={"dir": str(tmp_path / "alone")}), progress=SILENT)
    config = make(clips=12, execution={"shard": 2, "ray": "auto", "workers": 2})
    jobs = list(enumerate(find_corpus(config.inputs).shards(2)))
    rows, killed = dict[int, Any](), 0
    for index, found in cluster.decode_on_cluster(jobs, config, cluster.weights_of(reference.model)):
        assert index not in rows
        rows[index] = found
        if not killed:
            killed = max(processes())
            os.kill(killed, signal.SIGKILL)
    assert killed
    assert sorted(rows) == list(range(6))
    found = [row for index in range(6) for row in rows[index]]
    assert json.loads(store.json_bytes(found)) == list(alone.rows())


def test_a_shard_that_kills_its_worker_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deadly:
        """A worker that dies of the second shard."""

        def decode(self, items: Any) -> Any:
            if items[0].index == 1:
                os._exit(1)
            return [{"index": item.index, "clip": item.name} for item in items]

    monkeypatch.setattr(cluster, "Remote", Deadly)
    pool = cluster.Pool(ray, 2, ())
    jobs = [(index, (Item(index, f"{index}.wav"),)) for index in range(4)]
    rows = dict(pool.decode(jobs))
    assert sorted(rows) == [0, 1, 2, 3]
    assert ["problem" in rows[index][0] for index in range(4)] == [False, True, False, False]
    assert "died 3 times" in rows[1][0]["problem"]


def test_weights_are_shared_not_copied() -> None:
    layer, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    weights = ray.get(ray.put(cluster.weights_of(layer)))
    assert not weights["weight"].flags.writeable
    cluster.adopt(other, weights)
    assert other.weight.data_ptr() == weights["weight"].ctypes.data
    x = torch.ones(1, 3)
    np.testing.assert_array_equal(other(x).detach().numpy(), layer(x).detach().numpy())


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:{port}", "ray://127.0.0.1:{port}"])
def test_an_address_at_which_nothing_answers_is_refused_at_once(make: Make, address: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    config = make(execution={"ray": address.format(port=port)})
    with pytest.raises(EngineError, match=r"there is no Ray cluster at '.*\n  in execution.ray"):
        corpus.decode(config, progress=SILENT)


def test_without_ray_the_extra_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"layerdiff\[ray\]"):
        cluster.require_reachable(ExecutionConfig(ray="auto"))
