"""A trace that is read back is bit for bit what was recorded, on its own inputs only; damage is never read as data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from layerdiff import store
from layerdiff.errors import FeedError, TraceError
from layerdiff.fingerprint import fingerprint
from layerdiff.outline import Node, Outline, Weight
from layerdiff.sources import Feed, Sink
from layerdiff.sources.recorded import RecordedSource
from layerdiff.sources.recorded_format import DTYPES, INDEX
from layerdiff.sources.recorded_writer import TraceWriter, record

W = np.random.default_rng(5).standard_normal((4, 3)).astype(np.float32)
V = np.random.default_rng(6).standard_normal((2, 4)).astype(np.float32)


class TwoLinears:
    """hidden = relu(x·Wᵀ), y = hidden·Vᵀ, in numpy; the tensors that a trace of it must hold are easily said."""

    description: Mapping[str, Any] = {"engine": "numpy", "state": "eval"}

    def __init__(self, w: np.ndarray[Any, Any] = W) -> None:
        self.w = w
        arrays = {"fc.weight": w, "out.weight": V}
        self.weights = {
            name: Weight(name, "float32", array.shape, array.copy, compression="plain")
            for name, array in arrays.items()
        }

    def outline(self, feed: Feed) -> Outline:
        rows = len(feed["x"])
        nodes = (
            Node("fc", "linear", "linear", ("x",), {"weight": "fc.weight"}, shape=(rows, 4), scope="fc"),
            Node("hidden", "relu", "relu", ("fc",), shape=(rows, None), aliases=("act", "act.0")),
            Node("y", "linear", "linear", ("hidden",), {"weight": "out.weight"}, shape=None, scope="out", result=0),
        )
        return Outline("two linears", (Node("x", "input", "input", shape=(rows, 3)),), nodes, ("y",), self.weights)

    def tensors(self, feed: Feed) -> dict[str, np.ndarray[Any, Any]]:
        fc = feed["x"] @ self.w.T
        return {"fc": fc, "hidden": np.maximum(fc, 0), "y": np.maximum(fc, 0) @ V.T}

    def stream(self, feed: Feed, sink: Sink, wanted: Collection[str] | None = None) -> None:
        for name, value in self.tensors(feed).items():
            if wanted is None or name in wanted:
                sink(name, value)
                value.fill(np.nan)  # lent for the call only


def feed_of(seed: int, rows: int = 2) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.random.default_rng(seed).standard_normal((rows, 3)).astype(np.float32)}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Two calls of `TwoLinears`, 'a' on two rows and 'b' on three."""
    return record(TwoLinears(), [("a", feed_of(1)), ("b", feed_of(2, rows=3))], tmp_path / "x.trace")


def same_bits(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


# ------------------------------------------------------------------ what comes back


@pytest.mark.parametrize(("seed", "rows"), [(1, 2), (2, 3)])
def test_every_tensor_of_a_call_comes_back_in_order(trace: Path, seed: int, rows: int) -> None:
    feed = feed_of(seed, rows)
    found = list(RecordedSource.open(trace).trace(feed))
    expected = TwoLinears().tensors(feed)
    assert [name for name, _ in found] == ["fc", "hidden", "y"]
    assert all(same_bits(value, expected[name]) for name, value in found)


def test_stream_gives_what_trace_gives(trace: Path) -> None:
    source, streamed = RecordedSource.open(trace), []
    source.stream(feed_of(1), lambda name, value: streamed.append((name, value.tobytes())))
    assert streamed == [(name, value.tobytes()) for name, value in source.trace(feed_of(1))]


def test_the_outline_comes_back_with_every_field(trace: Path) -> None:
    feed, source = feed_of(1), RecordedSource.open(trace)
    ours, theirs = source.outline(feed), TwoLinears().outline(feed)
    for mine, original in zip((*ours.inputs, *ours.nodes), (*theirs.inputs, *theirs.nodes), strict=True):
        assert vars(mine) == vars(original)
    assert (ours.title, ours.outputs, source.title) == ("two linears", ("y",), "two linears")
    weight = ours.weights["fc.weight"]
    assert (weight.dtype, weight.shape, weight.compression, weight.read) == ("float32", (4, 3), "plain", None)
    expected = fingerprint(W)
    assert weight.fingerprint.shape == expected.shape
    for mine, original in zip(
        (*weight.fingerprint.products, *weight.fingerprint.norms), (*expected.products, *expected.norms), strict=True
    ):
        assert same_bits(mine, original)


def test_outlines_and_weights_are_stored_once(tmp_path: Path) -> None:
    path = record(TwoLinears(), [(str(i), feed_of(i)) for i in range(5)], tmp_path / "x.trace")
    index = RecordedSource.open(path).index
    assert (len(index["outlines"]), len(index["weights"]), len(index["calls"])) == (1, 2, 5)


def test_the_feeds_are_recorded_with_their_labels(trace: Path) -> None:
    source = RecordedSource.open(trace)
    assert list(source.calls) == ["a", "b"]
    assert same_bits(np.asarray(source.calls["b"]["x"]), feed_of(2, rows=3)["x"])
    for label, feed in source.feeds():
        assert source.outline(feed).inputs[0].shape == feed["x"].shape, label


def test_aliases_and_inputs_can_be_asked_for(trace: Path) -> None:
    feed = feed_of(1)
    found = dict(RecordedSource.open(trace).trace(feed, {"act", "act.0", "hidden", "x", "no such tensor"}))
    hidden = TwoLinears().tensors(feed)["hidden"]
    assert set(found) == {"act", "act.0", "hidden", "x"}
    assert same_bits(found["x"], feed["x"])
    assert all(same_bits(found[name], hidden) for name in ("act", "act.0", "hidden"))
    assert found["act"] is not found["hidden"], "each value belongs to the caller"


def test_a_tensor_recorded_under_an_alias_is_found_by_its_name(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "x.trace", description={}, names=["act"]) as writer:
        writer.begin_call("a", feed_of(1), TwoLinears().outline(feed_of(1)))
        writer.add("act", W)
        writer.end_call()
    source = RecordedSource.open(writer.path)
    assert [name for name, _ in source.trace(feed_of(1))] == ["act"]
    assert [name for name, _ in source.trace(feed_of(1), ["hidden"])] == ["hidden"]


def test_what_was_asked_for_and_is_absent_is_missing(tmp_path: Path) -> None:
    source = TwoLinears()
    path = record(source, [("a", feed_of(1))], tmp_path / "x.trace", names=["y", "nothing like it"])
    recorded = RecordedSource.open(path)
    assert recorded.missing == ("nothing like it",)
    assert [node.name for node in recorded.outline(feed_of(1)).nodes] == ["fc", "hidden", "y"]
    assert RecordedSource.open(record(source, [("a", feed_of(1))], tmp_path / "y.trace")).missing == ()


def test_the_description_says_what_was_recorded_and_with_what(trace: Path) -> None:
    description = RecordedSource.open(trace).description
    assert description["recorded"] == {"engine": "numpy", "state": "eval"}
    assert (description["complete"], description["environment"]["numpy"]) == (True, np.__version__)
    json.dumps(description, allow_nan=False)


ARRAYS = st.one_of(
    *(
        nps.arrays(dtype, nps.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3))
        for dtype in (*DTYPES, ">f4", ">i8")
    )
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(st.text(max_size=5), ARRAYS, max_size=6),
    feed=st.dictionaries(st.text(max_size=5), ARRAYS, max_size=3),
    limit=st.sampled_from([1, 500, 2**20]),
    transpose=st.booleans(),
)
def test_any_tensors_come_back_bitwise(
    tmp_path: Path, tensors: dict[str, Any], feed: dict[str, Any], limit: int, transpose: bool
) -> None:
    tensors = {name: value.T if transpose else value for name, value in tensors.items()}
    with TraceWriter(tmp_path / "x.trace", description={}, shard_bytes=limit) as writer:
        writer.begin_call("a", feed, Outline("any", (), (), (), {}))
        for name, value in tensors.items():
            writer.add(name, value)
        writer.end_call()
    source = RecordedSource.open(writer.path)
    found = dict(source.trace(feed))
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        assert same_bits(found[name], value.astype(value.dtype.newbyteorder("=")))
    assert {name: value.shape for name, value in source.calls["a"].items()} == {n: v.shape for n, v in feed.items()}


# ------------------------------------------------------------------ other inputs, another model


@pytest.mark.parametrize(
    ("feed", "shown"),
    [
        ({"x": feed_of(1)["x"] + 1}, "expected float32[2, 3] with sha256"),
        ({"x": feed_of(1)["x"].astype(np.float64)}, "got float64[2, 3]"),
        ({"mel": feed_of(1)["x"]}, "'mel': expected nothing, got float32[2, 3]"),
        ({}, "got nothing"),
        ({**feed_of(1), "length": np.int32(2)}, "'length': expected nothing, got int32[]"),
    ],
)
def test_other_inputs_are_refused_with_both_sides(trace: Path, feed: Feed, shown: str) -> None:
    source = RecordedSource.open(trace)
    with pytest.raises(FeedError, match="recorded on other inputs") as caught:
        source.trace(feed)
    assert shown in str(caught.value)
    assert "'a', 'b'" in str(caught.value)
    with pytest.raises(FeedError):
        source.outline(feed)


def test_the_refusal_shows_the_recorded_call_that_is_nearest(trace: Path) -> None:
    with pytest.raises(FeedError, match="the call 'b'"):
        RecordedSource.open(trace).outline({"x": np.zeros((3, 3), np.float32)})


def test_the_same_model_is_recognised_whatever_its_object(trace: Path) -> None:
    RecordedSource.open(trace, expect_model=TwoLinears().outline(feed_of(9)))


def changed(name: str) -> Outline:
    outline = TwoLinears().outline(feed_of(1))
    weights = dict(outline.weights)
    if name == "values":
        moved = W.copy()
        moved[2, 1] += 1e-3
        weights["fc.weight"] = Weight("fc.weight", "float32", W.shape, lambda: moved)
    elif name == "shape":
        weights["fc.weight"] = Weight("fc.weight", "float32", (3, 4), lambda: W.T)
    elif name == "name":
        weights["fc2.weight"] = weights.pop("fc.weight")
    return replace(outline, weights=weights)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("values", "with other values: 'fc.weight'"),
        ("shape", "with other values: 'fc.weight'"),
        ("name", "only in the trace: 'fc.weight'\n  only in the model: 'fc2.weight'"),
    ],
)
def test_another_model_is_refused_with_the_weights_that_differ(trace: Path, change: str, shown: str) -> None:
    with pytest.raises(TraceError, match="another model") as caught:
        RecordedSource.open(trace, expect_model=changed(change))
    assert shown in str(caught.value)
    assert "out.weight" not in str(caught.value)


def test_a_weight_that_is_not_finite_is_still_the_same_weight(tmp_path: Path) -> None:
    w = W.copy()
    w[0, 0], w[1, 1] = np.nan, np.inf
    path = record(TwoLinears(w), [("a", {"x": np.ones((1, 3), np.float32)})], tmp_path / "x.trace")
    source = RecordedSource.open(path, expect_model=TwoLinears(w.copy()).outline(feed_of(1)))
    with pytest.raises(TraceError, match="another model"):
        source.require_same_model(TwoLinears().outline(feed_of(1)))


# ------------------------------------------------------------------ damage


def read_all(path: Path) -> list[tuple[str, bytes]]:
    """Everything that a trace hands out."""
    source = RecordedSource.open(path)
    found = [(name, value.tobytes()) for _, feed in source.feeds() for name, value in feed.items()]
    for _, feed in source.feeds():
        found += [(name, value.tobytes()) for name, value in source.trace(feed)]
        weights = source.outline(feed).weights.values()
        found += [(weight.name, weight.fingerprint.norms[0].tobytes()) for weight in weights]
    return found


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_at_any_byte_is_refused(trace: Path, data: st.DataObject) -> None:
    expected = read_all(trace)
    file = data.draw(st.sampled_from(sorted(trace.iterdir())))
    whole = file.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    file.write_bytes(whole[:cut])
    try:
        if file.name == INDEX and cut == len(whole) - 1:  # the newline at the end
            assert read_all(trace) == expected
        else:
            with pytest.raises(TraceError):
                RecordedSource.open(trace)
    finally:
        file.write_bytes(whole)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_is_never_read_as_data(trace: Path, data: st.DataObject) -> None:
    expected = read_all(trace)
    file = data.draw(st.sampled_from(sorted(trace.iterdir())))
    whole = file.read_bytes()
    place, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
    try:
        found = read_all(trace)
    except TraceError:
        found = expected
    finally:
        file.write_bytes(whole)
    assert found == expected


def test_a_shard_that_shrinks_after_opening_is_refused(trace: Path) -> None:
    source = RecordedSource.open(trace)
    shard = next(trace.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(TraceError, match=r"expected \d+ bytes, got \d+ bytes"):
        list(source.trace(feed_of(1)))


def test_a_missing_shard_is_named(trace: Path) -> None:
    (trace / "tensors-00001.safetensors").unlink()
    with pytest.raises(TraceError, match=r"tensors-00001.safetensors: expected \d+ bytes, got no such file"):
        RecordedSource.open(trace)


def test_what_is_no_trace_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("absent", "file", "."):
        with pytest.raises(TraceError, match="is no recorded trace"):
            RecordedSource.open(tmp_path / name)


def rewrite(trace: Path, **changes: Any) -> None:
    """Gives the index other fields, and a hash that agrees."""
    index = json.loads((trace / INDEX).read_bytes())["index"] | changes
    (trace / INDEX).write_bytes(store.json_bytes({"index": index, "sha256": store.sha256_json(index)}))


def test_another_version_is_refused(trace: Path) -> None:
    rewrite(trace, format=2)
    with pytest.raises(TraceError, match="format '2'") as caught:
        RecordedSource.open(trace)
    assert "expected format 1, got 2" in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"calls": [{}]}, {"calls": 3}, {"shards": {"../x": {"bytes": 1}}}, {"weights": [1]}, {"shards": {}}]
)
def test_an_index_that_contradicts_its_format_is_refused(trace: Path, changes: dict[str, Any]) -> None:
    rewrite(trace, **changes)
    with pytest.raises(TraceError, match="damaged"):
        RecordedSource.open(trace)


def test_shards_of_another_recording_are_refused(trace: Path, tmp_path: Path) -> None:
    other = record(TwoLinears(), [("a", feed_of(3)), ("b", feed_of(4, rows=3))], tmp_path / "y.trace")
    shutil.copy(other / "tensors-00001.safetensors", trace / "tensors-00001.safetensors")
    with pytest.raises(TraceError, match="have another sha256"):
        list(RecordedSource.open(trace).trace(feed_of(1)))


def test_reading_one_tensor_does_not_read_the_others(tmp_path: Path) -> None:
    big = np.ones(2**20, np.float32)
    with TraceWriter(tmp_path / "x.trace", description={}) as writer:
        writer.begin_call("a", {}, Outline("big", (), (), (), {}))
        writer.add("big", big)
        writer.add("small", np.arange(3))
        writer.end_call()
    shard = next(writer.path.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    at = data.rindex(big[:1000].tobytes())
    data[at] ^= 1
    shard.write_bytes(data)  # whoever reads the large tensor finds it damaged
    source = RecordedSource.open(writer.path)
    assert [value.tolist() for _, value in source.trace({}, ["small"])] == [[0, 1, 2]]
    with pytest.raises(TraceError, match="'big'"):
        list(source.trace({}, ["big"]))
