"""Whatever ends a recording, a trace is left that is readable and says what it holds; memory stays within a shard."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerdiff.errors import EngineError, OutputError, TraceError
from layerdiff.outline import Node, Outline
from layerdiff.sources import Feed, Sink, recorded_shards
from layerdiff.sources.recorded import RecordedSource
from layerdiff.sources.recorded_writer import TraceWriter, record

TENSORS = 5


class Counting:
    """Computes x + 0, x + 1 …, and may fail before a tensor."""

    description: Mapping[str, Any] = {"engine": "counting"}

    def __init__(self, *, fail_at: int = -1, error: BaseException | None = None, size: int = 3) -> None:
        self.fail_at, self.error, self.size, self.computed = fail_at, error, size, 0

    def outline(self, feed: Feed) -> Outline:
        nodes = tuple(Node(f"t{i}", "add", "add", ("x",), shape=(self.size,)) for i in range(TENSORS))
        return Outline("counting", (Node("x", "input", "input"),), nodes, (nodes[-1].name,), {})

    def stream(self, feed: Feed, sink: Sink, wanted: Collection[str] | None = None) -> None:
        for i in range(TENSORS):
            if self.computed == self.fail_at and self.error is not None:
                raise self.error
            self.computed += 1
            sink(f"t{i}", np.full(self.size, feed["x"] + i, np.float32))


def feeds(count: int = 2) -> Iterator[tuple[str, Feed]]:
    for i in range(count):
        yield f"clip {i}", {"x": np.float32(100 * i)}


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def record_in_shards(source: Counting, path: Path, limit_bytes: int) -> None:
    with TraceWriter(path, description={}, shard_bytes=limit_bytes) as writer:
        for label, feed in feeds():
            writer.begin_call(label, feed, source.outline(feed))
            source.stream(feed, writer.add)
            writer.end_call()


def record_tensors(path: Path, *tensors: tuple[str, Any]) -> None:
    """One call without inputs that gives these tensors."""
    with TraceWriter(path, description={}) as writer:
        writer.begin_call("a", {}, Outline("none", (), (), (), {}))
        for name, value in tensors:
            writer.add(name, value)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fail_at=st.integers(0, 2 * TENSORS - 1),
    error=st.sampled_from([KeyboardInterrupt, EngineError, MemoryError]),
    limit=st.sampled_from([1, 450, 2**20]),
)
def test_an_interruption_at_any_tensor_leaves_exactly_the_tensors_before_it(
    tmp_path: Path, fail_at: int, error: type[BaseException], limit: int
) -> None:
    source = Counting(fail_at=fail_at, error=error("stop"))
    path = tmp_path / f"{fail_at}-{error.__name__}-{limit}.trace"
    with pytest.raises(error) as caught:
        record_in_shards(source, path, limit)
    assert caught.value.__notes__ == [f"what was recorded is kept in '{path}', a partial trace"]
    trace = RecordedSource.open(path)
    assert not trace.complete
    found = [value[0] for _, feed in trace.feeds() for _, value in trace.trace(feed)]
    assert found == [float(100 * (i // TENSORS) + i % TENSORS) for i in range(fail_at)]
    assert trace.complete_calls == tuple(f"clip {i}" for i in range(fail_at // TENSORS))


def test_an_interruption_while_a_shard_is_written_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = recorded_shards.save_file

    def half_written(tensors: Mapping[str, Any], path: Path) -> None:
        monkeypatch.setattr(recorded_shards, "save_file", write)
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(recorded_shards, "save_file", half_written)
    with pytest.raises(KeyboardInterrupt):
        record_in_shards(Counting(), tmp_path / "x.trace", limit_bytes=900)
    found = [value[0] for _, value in RecordedSource.open(tmp_path / "x.trace").trace({"x": np.float32(0)})]
    assert found == [0.0, 1.0, 2.0]


def test_a_partial_trace_says_so_and_what_is_missing(tmp_path: Path) -> None:
    source = Counting(fail_at=TENSORS + 2, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        record(source, feeds(), tmp_path / "x.trace")
    trace = RecordedSource.open(tmp_path / "x.trace")
    assert trace.description["complete"] is False
    assert trace.description["state"] == "partial: 1 complete call, and the call 'clip 1' up to its tensor 2"
    assert trace.missing == ("t2", "t3", "t4")
    assert names_in(tmp_path) == ["x.trace"]


def test_a_complete_trace_is_not_replaced_by_a_partial_one(tmp_path: Path) -> None:
    path = record(Counting(), feeds(), tmp_path / "x.trace")
    for _ in range(2):  # the second partial trace replaces the first
        with pytest.raises(KeyboardInterrupt) as caught:
            record(Counting(fail_at=1, error=KeyboardInterrupt()), feeds(), path)
        assert str(tmp_path / "x.partial.trace") in caught.value.__notes__[0]
        assert names_in(tmp_path) == ["x.partial.trace", "x.trace"]
    assert RecordedSource.open(path).complete
    assert not RecordedSource.open(tmp_path / "x.partial.trace").complete


def test_a_partial_trace_is_replaced_by_any_other(tmp_path: Path) -> None:
    path = tmp_path / "x.trace"
    for fail_at in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            record(Counting(fail_at=fail_at, error=KeyboardInterrupt()), feeds(), path)
        assert len(list(RecordedSource.open(path).trace({"x": np.float32(0)}))) == fail_at
    record(Counting(), feeds(), path)
    assert RecordedSource.open(path).complete
    assert names_in(tmp_path) == ["x.trace"]


def test_a_failure_before_the_first_call_leaves_nothing(tmp_path: Path) -> None:
    def none() -> Iterator[tuple[str, Feed]]:
        raise EngineError("no clip can be read")
        yield

    with pytest.raises(EngineError):
        record(Counting(), none(), tmp_path / "x.trace")
    assert names_in(tmp_path) == []


def test_a_failure_between_two_calls_leaves_the_calls_before_it(tmp_path: Path) -> None:
    def one() -> Iterator[tuple[str, Feed]]:
        yield from feeds(1)
        raise EngineError("the second clip cannot be read")

    with pytest.raises(EngineError):
        record(Counting(), one(), tmp_path / "x.trace")
    trace = RecordedSource.open(tmp_path / "x.trace")
    assert (trace.complete, trace.complete_calls) == (False, ("clip 0",))
    assert trace.description["state"] == "partial: 1 complete call"


def test_a_call_that_was_not_ended_is_not_complete(tmp_path: Path) -> None:
    record_tensors(tmp_path / "x.trace", ("t", np.zeros(2)))
    assert not RecordedSource.open(tmp_path / "x.trace").complete


def test_a_name_that_is_computed_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="'t' was computed twice"):
        record_tensors(tmp_path / "x.trace", ("t", np.zeros(2)), ("t", np.ones(2)))
    trace = RecordedSource.open(tmp_path / "x.trace")
    assert [value.tolist() for _, value in trace.trace({})] == [[0.0, 0.0]]


def test_two_calls_of_one_label_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="two calls are named 'clip 0'"):
        record(Counting(), [*feeds(1), *feeds(1)], tmp_path / "x.trace")


def test_a_dtype_that_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="'words' cannot be recorded") as caught:
        record_tensors(tmp_path / "x.trace", ("words", np.array(["a"])))
    assert "got <U1[1]" in str(caught.value)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_no_trace_is_never_replaced(tmp_path: Path, what: str) -> None:
    path = tmp_path / "notes"
    if what == "folder":
        path.mkdir()
    file = path / "thesis.txt" if what == "folder" else path
    file.write_text("precious")
    source = Counting()
    with pytest.raises(OutputError, match="is no recorded trace"):
        record(source, feeds(), path)
    assert (file.read_text(), source.computed) == ("precious", 0)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        record(Counting(), feeds(), tmp_path / "file" / "x.trace")


def test_a_trace_that_cannot_be_finished_keeps_the_first_error(tmp_path: Path) -> None:
    def without_disk() -> Iterator[tuple[str, Feed]]:
        yield from feeds(1)
        (folder,) = (tmp_path / name for name in os.listdir(tmp_path))
        folder.rmdir()  # as if the disk had gone
        raise EngineError("stop")

    with pytest.raises(EngineError) as caught:
        record(Counting(), without_disk(), tmp_path / "x.trace")
    assert "nothing is kept of the trace" in caught.value.__notes__[0]


def test_the_same_calls_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (record(Counting(), feeds(), tmp_path / name, extra={"side": "a"}) for name in ("1.trace", "2.trace"))
    assert names_in(one) == names_in(two)
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names_in(one))


def test_a_new_trace_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        path = record(Counting(), feeds(), tmp_path / "x.trace")
    finally:
        os.umask(previous)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (path, *path.iterdir())}
    assert modes == {"x.trace": 0o755, "index.json": 0o644, "tensors-00001.safetensors": 0o644}


def test_memory_is_bounded_by_a_shard_and_not_by_the_trace(tmp_path: Path) -> None:
    megabyte = 2**20
    source = Counting(size=5 * megabyte)  # float32: 20 MB each, 200 MB in all
    tracemalloc.start()
    try:
        path = record(source, feeds(), tmp_path / "x.trace")
        recording_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        trace = RecordedSource.open(path)
        (name, value), *_ = trace.trace({"x": np.float32(100)}, ["t2"])
        reading_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(p.stat().st_size for p in path.iterdir()) > 200 * megabyte
    assert len(list(path.glob("*.safetensors"))) >= 4
    assert recording_bytes < (64 + 20 + 16) * megabyte, "a shard, the source's own tensor, and some"
    assert (name, float(value[0]), reading_bytes < 25 * megabyte) == ("t2", 102.0, True)


def test_many_scalars_do_not_make_one_shard(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "x.trace", description={}, shard_bytes=10_000) as writer:
        writer.begin_call("a", {}, Outline("none", (), (), (), {}))
        for i in range(200):
            writer.add(f"t{i}", np.array(i, np.uint8))
        writer.end_call()
    assert len(list(writer.path.glob("*.safetensors"))) == 5


def test_fewer_bytes_than_a_shard_are_one_shard(tmp_path: Path) -> None:
    path = record(Counting(), feeds(), tmp_path / "x.trace")
    assert names_in(path) == ["index.json", "tensors-00001.safetensors"]


def read(path: Path) -> dict[str, Any]:
    trace = RecordedSource.open(path)
    return {label: dict(trace.trace(feed)) for label, feed in trace.feeds()}


def test_a_trace_can_be_recorded_from_a_trace(tmp_path: Path) -> None:
    first = RecordedSource.open(record(Counting(), feeds(), tmp_path / "1.trace"))
    second = record(first, first.feeds(), tmp_path / "2.trace")
    assert str(read(second)) == str(read(first.path))
