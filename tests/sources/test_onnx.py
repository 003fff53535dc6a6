"""Every tensor of an ONNX model is what the graph says, whatever the slices; and feeds are checked before it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from layerdiff.errors import EngineError, FeedError
from layerdiff.sources.onnx import OnnxSource
from layerdiff.sources.recorded import RecordedSource
from layerdiff.sources.recorded_writer import record
from tests.sources.onnx_models import CONVNET_TENSORS, convnet, model, reference, saved, values

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal dtypes, shapes and integers; floats within the rounding of float32."""
    assert list(found) == list(expected)
    for name, value in found.items():
        other = np.asarray(expected[name])
        assert (value.dtype, value.shape) == (other.dtype, other.shape), name
        np.testing.assert_allclose(value, other, rtol=2e-5, atol=2e-6, err_msg=name)


def bits(found: Any) -> list[tuple[str, str, bytes]]:
    return [(name, f"{value.dtype}{value.shape}", value.tobytes()) for name, value in found]


@pytest.fixture
def feed() -> dict[str, Any]:
    return {"x": values(2, 3, 6)}


@pytest.fixture
def source(tmp_path: Path) -> OnnxSource:
    return OnnxSource.open(saved(convnet(), tmp_path))


# ------------------------------------------------------------------ values


@pytest.mark.parametrize("slice_bytes", [1, 200, 2**28])
def test_every_tensor_is_what_the_reference_computes(tmp_path: Path, feed: dict[str, Any], slice_bytes: int) -> None:
    proto = convnet()
    found = dict(OnnxSource.open(saved(proto, tmp_path), slice_bytes=slice_bytes).trace(feed))
    assert list(found) == CONVNET_TENSORS
    assert_same(found, reference(proto, feed))


def test_slices_do_not_change_a_bit(source: OnnxSource, feed: dict[str, Any]) -> None:
    whole = bits(source.trace(feed))
    for slice_bytes in (1, 150, 1000):
        sliced = OnnxSource.open(source.graph.path, slice_bytes=slice_bytes)
        assert bits(sliced.trace(feed)) == whole
        assert bits(sliced.trace(feed)) == whole, "with sizes and sessions known"


def test_the_outputs_are_those_of_the_untouched_model(source: OnnxSource, feed: dict[str, Any]) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(source.graph.path), options, providers=["CPUExecutionProvider"])
    expected = list(zip(("best", "sure"), session.run(["best", "sure"], feed), strict=True))
    assert bits((name, value) for name, value in source.trace(feed) if name in ("best", "sure")) == bits(expected)


def test_stream_gives_what_trace_gives(source: OnnxSource, feed: dict[str, Any]) -> None:
    streamed: list[tuple[str, Any]] = []
    source.stream(feed, lambda name, value: streamed.append((name, value.copy())))
    assert bits(streamed) == bits(source.trace(feed))


def test_a_value_belongs_to_the_caller(source: OnnxSource, feed: dict[str, Any]) -> None:
    expected, given = bits(source.trace(feed)), feed["x"].copy()
    found = []
    for name, value in source.trace(feed, None):
        found += bits([(name, value)])
        value.fill(1)
    assert found == expected
    np.testing.assert_array_equal(feed["x"], given)


def test_wanted_tensors_come_in_order_of_execution_with_aliases(source: OnnxSource, feed: dict[str, Any]) -> None:
    found = dict(source.trace(feed, {"p", "bn", "n", "x", "fc.bias", "no such tensor"}))
    assert list(found) == ["x", "fc.bias", "bn", "n", "p"]
    assert found["bn"].tobytes() == found["n"].tobytes()
    assert found["x"].tobytes() == feed["x"].tobytes()
    assert bits((name, found[name]) for name in ("n", "p")) == [
        one for one in bits(source.trace(feed)) if one[0] in ("n", "p")
    ]


def test_traces_on_two_feeds_side_by_side(source: OnnxSource) -> None:
    one, two = {"x": values(1, 3, 5)}, {"x": values(3, 3, 8)}
    sliced = OnnxSource.open(source.graph.path, slice_bytes=100)
    together = list(zip(sliced.trace(one), sliced.trace(two), strict=True))
    assert bits(pair[0] for pair in together) == bits(source.trace(one))
    assert bits(pair[1] for pair in together) == bits(source.trace(two))


UNARY = ["Relu", "Tanh", "Neg", "Sigmoid", "Identity", "Softmax"]
BINARY = ["Add", "Mul", "Sub", "MatMul", "Max"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_graph_any_slices_any_wanted_tensors(tmp_path: Path, data: st.DataObject) -> None:
    known, nodes = ["x", "w"], []
    for i in range(data.draw(st.integers(1, 8))):
        op = data.draw(st.sampled_from(UNARY + BINARY))
        reads = [data.draw(st.sampled_from(known)) for _ in range(1 if op in UNARY else 2)]
        nodes.append(helper.make_node(op, reads, [f"t{i}"]))
        known.append(f"t{i}")
    proto = model(
        nodes, inputs={"x": (FLOAT, ["N", "N"])}, outputs=[known[-1]], weights={"w": values(3, 3) / 4}, opset=17
    )
    path, feed = saved(proto, tmp_path), {"x": values(3, 3) / 4}
    whole = dict(OnnxSource.open(path).trace(feed))
    assert_same(whole, reference(proto, feed))
    wanted = data.draw(st.none() | st.sets(st.sampled_from(known[2:])))
    sliced = OnnxSource.open(path, slice_bytes=data.draw(st.sampled_from([1, 36, 80, 10**6])))
    expected = [one for one in bits(whole.items()) if wanted is None or one[0] in wanted]
    assert bits(sliced.trace(feed, wanted)) == expected


# ------------------------------------------------------------------ dtypes


def test_half_floats_are_handed_out_as_float32(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["x"], ["brain"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["brain"], ["back"], to=FLOAT),
        helper.make_node("Cast", ["x"], ["double"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["x"], ["int"], to=TensorProto.INT8),
    ]
    x = values(2, 3)
    proto = model(nodes, inputs={"x": (FLOAT, [2, 3])}, outputs=["half", "brain", "back", "double", "int"])
    source = OnnxSource.open(saved(proto, tmp_path), slice_bytes=1)
    found = dict(source.trace({"x": x}))
    assert [str(value.dtype) for value in found.values()] == ["float32", "float32", "float32", "float64", "int8"]
    np.testing.assert_array_equal(found["half"], x.astype(np.float16))
    np.testing.assert_array_equal(found["brain"], x.astype(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(found["back"], found["brain"])
    assert [node.dtype for node in source.outline({"x": x}).nodes] == [
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "int8",
    ]


@pytest.mark.parametrize(("elem_type", "dtype"), [(TensorProto.FLOAT16, "float16"), (TensorProto.BFLOAT16, "bfloat16")])
def test_half_inputs_take_floats(tmp_path: Path, elem_type: int, dtype: str) -> None:
    proto = model([helper.make_node("Cast", ["x"], ["y"], to=FLOAT)], inputs={"x": (elem_type, [3])}, outputs=["y"])
    x = values(3)
    found = dict(OnnxSource.open(saved(proto, tmp_path)).trace({"x": x}))
    np.testing.assert_array_equal(found["y"], x.astype(np.dtype(dtype)).astype(np.float32))


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0), helper.make_node("Add", ["x", "s"], ["y"])]
    proto = model(nodes, inputs={"x": (FLOAT, ["N"])}, outputs=["y"])
    source = OnnxSource.open(saved(proto, tmp_path), slice_bytes=1)
    assert_same(dict(source.trace({"x": np.ones(0, np.float32)})), {"s": np.float32(0), "y": np.ones(0, np.float32)})
    assert_same(dict(source.trace({"x": np.ones(2, np.float32)})), {"s": np.float32(2), "y": np.full(2, 3, np.float32)})


# ------------------------------------------------------------------ sizes that nothing tells in advance


def counting() -> Any:
    """NonZero and what follows from it: lengths that depend on values."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Cast", ["where"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "f"], ["squared"]),
    ]
    return model(nodes, inputs={"x": (FLOAT, ["N"])}, outputs=["squared"])


def test_unknown_sizes_are_learnt_in_the_first_run(tmp_path: Path) -> None:
    source = OnnxSource.open(saved(counting(), tmp_path))
    feed = {"x": np.array([0, 2, 0, 3], np.float32)}
    before = [node.shape for node in source.outline(feed).nodes]
    found = dict(source.trace(feed))
    assert_same(found, reference(counting(), feed))
    assert before == [(1, None), (1, None), (1, None)]
    assert [node.shape for node in source.outline(feed).nodes] == [(1, 2)] * 3
    other = {"x": np.ones(5, np.float32)}
    assert source.outline(other).nodes[0].shape == (1, None), "what was learnt holds for its shapes only"
    assert_same(dict(source.trace(other)), reference(counting(), other))


# ------------------------------------------------------------------ subgraphs, sequences, functions


def choosing() -> Any:
    """An If whose branches read a computed tensor and a weight from outside."""
    then = helper.make_graph(
        [helper.make_node("MatMul", ["r", "w"], ["then.y"])],
        "then",
        [],
        [helper.make_tensor_value_info("then.y", FLOAT, None)],
    )
    otherwise = helper.make_graph(
        [helper.make_node("Neg", ["r"], ["inner"]), helper.make_node("Add", ["inner", "x"], ["else.y"])],
        "else",
        [],
        [helper.make_tensor_value_info("else.y", FLOAT, None)],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("If", ["flag"], ["y"], name="choice", then_branch=then, else_branch=otherwise),
        helper.make_node("Sigmoid", ["y"], ["z"]),
    ]
    inputs = {"x": (FLOAT, ["N", 3]), "flag": (BOOL, [])}
    return model(nodes, inputs=inputs, outputs=["z"], weights={"w": values(3, 3)})


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("slice_bytes", [1, 2**28])
def test_a_subgraph_reads_from_outside_and_shows_its_result_only(tmp_path: Path, flag: bool, slice_bytes: int) -> None:
    proto = choosing()
    source = OnnxSource.open(saved(proto, tmp_path), slice_bytes=slice_bytes)
    feed = {"x": values(2, 3), "flag": np.array(flag)}
    assert_same(dict(source.trace(feed)), reference(proto, feed))
    nodes = source.outline(feed).nodes
    assert [(node.name, node.op, node.kind) for node in nodes] == [
        ("r", "Relu", "relu"),
        ("y", "If", "other"),
        ("z", "Sigmoid", "sigmoid"),
    ]
    assert nodes[1].inputs == ("flag", "r", "x")


def test_a_loop_runs_as_one_op(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["carried", "x"], ["next"]), helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", BOOL, []),
            helper.make_tensor_value_info("carried", FLOAT, [2]),
        ],
        [helper.make_tensor_value_info("go_on", BOOL, []), helper.make_tensor_value_info("next", FLOAT, [2])],
    )
    nodes = [
        helper.make_node("Tanh", ["x"], ["start"]),
        helper.make_node("Loop", ["times", "", "start"], ["sum"], body=body),
    ]
    proto = model(nodes, inputs={"x": (FLOAT, [2])}, outputs=["sum"], weights={"times": np.array(3)})
    source = OnnxSource.open(saved(proto, tmp_path), slice_bytes=1)
    feed = {"x": values(2)}
    found = dict(source.trace(feed))
    np.testing.assert_allclose(found["sum"], np.tanh(feed["x"]) + 3 * feed["x"], rtol=1e-6)
    assert source.outline(feed).nodes[1].inputs == ("start", "x")


def test_sequences_are_passed_on_and_not_handed_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["pair"]),
        helper.make_node("SequenceInsert", ["pair", "x"], ["three"]),
        helper.make_node("ConcatFromSequence", ["three"], ["y"], axis=0),
    ]
    proto = model(nodes, inputs={"x": (FLOAT, ["N"])}, outputs=["y"])
    source = OnnxSource.open(saved(proto, tmp_path), slice_bytes=1)
    x = values(2)
    assert_same(dict(source.trace({"x": x})), {"y": np.concatenate([x, x, x])})
    assert [node.dtype for node in source.outline({"x": x}).nodes] == ["object", "object", "float32"]


def test_functions_of_a_model_are_opened(tmp_path: Path) -> None:
    body = [helper.make_node("Mul", ["a", "a"], ["sq"]), helper.make_node("Add", ["sq", "a"], ["b"])]
    function = helper.make_function("own", "Squared", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    graph = model(
        [helper.make_node("Squared", ["x"], ["y"], domain="own")], inputs={"x": (FLOAT, [3])}, outputs=["y"]
    ).graph
    proto = helper.make_model(
        graph,
        functions=[function],
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("own", 1)],
        ir_version=10,
    )
    x = values(3)
    source = OnnxSource.open(saved(proto, tmp_path))
    assert [node.op for node in source.outline({"x": x}).nodes] == ["Mul", "Add"]
    found = dict(source.trace({"x": x}))
    assert [name for name in found if name == "y"] == ["y"]
    np.testing.assert_allclose(found["y"], x * x + x, rtol=1e-6)


def test_optional_results_and_inputs_may_be_left_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "", "", "h0"], ["", "h"], hidden_size=2),
        helper.make_node("Squeeze", ["h"], ["y"]),
    ]
    weights = {"w": values(1, 8, 3), "r": values(1, 8, 2), "h0": values(1, 1, 2)}
    proto = model(nodes, inputs={"x": (FLOAT, [4, 1, 3])}, outputs=["y"], weights=weights)
    source = OnnxSource.open(saved(proto, tmp_path), slice_bytes=1)
    feed = {"x": values(4, 1, 3)}
    assert list(dict(source.trace(feed))) == ["h", "y"]
    node = source.outline(feed).nodes[0]
    assert (node.result, node.kind, node.inputs) == (1, "lstm", ("x",))
    assert node.weights == {"weight_ih": "w", "weight_hh": "r", "initial_h": "h0"}


# ------------------------------------------------------------------ external data


@pytest.mark.parametrize("slice_bytes", [1, 2**28])
def test_external_data_is_read_where_it_lies(
    tmp_path: Path, feed: dict[str, Any], slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = convnet()
    expected = reference(proto, feed)
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    path = saved(proto, tmp_path, **options)
    monkeypatch.chdir(tmp_path)  # a relative path
    source = OnnxSource.open(path.name, slice_bytes=slice_bytes)
    assert not any(tensor.raw_data for name, tensor in source.graph.initializers.items() if "." in name)
    assert_same(dict(source.trace(feed)), expected)
    weights = source.outline(feed).weights
    np.testing.assert_array_equal(weights["fc.weight"].read(), source.graph.values("fc.weight"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "weights.bin"]


def test_external_data_beyond_two_gigabytes(tmp_path: Path) -> None:
    offset, w = 5 * 2**29, values(4, 4)
    with open(tmp_path / "weights.bin", "wb") as file:
        file.seek(offset)  # a hole: it takes no room
        file.write(w.tobytes())
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], inputs={"x": (FLOAT, [2, 4])}, outputs=["y"])
    tensor = TensorProto(name="w", data_type=FLOAT, dims=w.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights.bin"), ("offset", str(offset)), ("length", str(w.nbytes))):
        tensor.external_data.add(key=key, value=value)
    proto.graph.initializer.append(tensor)
    source = OnnxSource.open(saved(proto, tmp_path))
    x = values(2, 4)
    np.testing.assert_allclose(dict(source.trace({"x": x}))["y"], x @ w, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(source.outline({"x": x}).weights["w"].read(), w)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("feed", "shown"),
    [
        ({"y": values(2, 3, 6)}, "no input 'y'"),
        ({}, "'x' is missing"),
        ({"x": values(2, 3)}, "expected float32[0.., 3, 0..], got float32[2, 3]"),
        ({"x": values(2, 4, 6)}, "got float32[2, 4, 6]"),
        ({"x": np.ones((2, 3, 6), np.int64)}, "got int64[2, 3, 6]"),
        ({"x": np.full((2, 3, 6), 1e300)}, "do not fit float32"),
    ],
)
def test_a_feed_that_does_not_fit_is_refused_before_anything_runs(
    source: OnnxSource, feed: dict[str, Any], shown: str
) -> None:
    for ask in (source.trace, source.outline):
        with pytest.raises(FeedError) as caught:
            ask(feed)
        assert shown in str(caught.value)
        assert str(source.graph.path) in str(caught.value)


def test_another_width_of_the_same_kind_is_taken(source: OnnxSource, feed: dict[str, Any]) -> None:
    wide = {"x": feed["x"].astype(np.float64)}
    assert bits(source.trace(wide)) == bits(source.trace(feed))


def test_an_input_without_declared_rank_takes_any(tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], inputs={"x": (FLOAT, None)}, outputs=["y"])
    source = OnnxSource.open(saved(proto, tmp_path))
    for shape in ((), (3,), (2, 0, 2)):
        assert dict(source.trace({"x": np.ones(shape, np.float32)}))["y"].shape == shape


def test_an_input_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    proto = model([helper.make_node("Identity", ["s"], ["y"])], inputs={"s": (TensorProto.STRING, [1])}, outputs=["y"])
    with pytest.raises(FeedError, match="'s' takes no tensor of numbers"):
        OnnxSource.open(saved(proto, tmp_path)).outline({"s": np.array(["a"])})


def test_a_node_that_fails_is_named_and_what_came_before_is_there(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["y"], name="/head/Reshape"),
    ]
    proto = model(nodes, inputs={"x": (FLOAT, ["N"]), "shape": (INT64, [1])}, outputs=["y"])
    source = OnnxSource.open(saved(proto, tmp_path), slice_bytes=1)
    trace = source.trace({"x": values(3), "shape": np.array([4])})
    assert next(trace)[0] == "r"
    with pytest.raises(EngineError, match=r"could not run '/head/Reshape' \(Reshape\)") as caught:
        next(trace)
    assert str(source.graph.path) in str(caught.value)


def test_an_op_that_the_engine_does_not_have_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Riddle", ["x"], ["y"], domain="com.microsoft")]
    source = OnnxSource.open(saved(model(nodes, inputs={"x": (FLOAT, [1])}, outputs=["y"]), tmp_path))
    with pytest.raises(EngineError, match=r"could not load 'y' \(Riddle\)"):
        list(source.trace({"x": values(1)}))


@pytest.mark.parametrize("module", ["onnx", "onnxruntime"])
def test_without_the_extra_it_is_named(module: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from layerdiff.errors import MissingExtraError\n"
        "try:\n    import layerdiff.sources.onnx\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"'{module}' is not installed, and an ONNX model needs it." in done.stdout, done.stderr
    assert 'pip install "layerdiff[onnx]"' in done.stdout


# ------------------------------------------------------------------ with the others


def test_the_description_says_how_it_was_run(source: OnnxSource) -> None:
    description = source.description
    assert (description["engine"], description["graph_optimizations"]) == ("onnxruntime", "disabled")
    assert description["opsets"] == {"ai.onnx": 20, "com.microsoft": 1}


def test_a_recording_of_it_is_the_same_model_with_the_same_tensors(
    source: OnnxSource, feed: dict[str, Any], tmp_path: Path
) -> None:
    recorded = RecordedSource.open(
        record(source, [("a", feed)], tmp_path / "x.trace"), expect_model=source.outline(feed)
    )
    assert bits(recorded.trace(feed)) == bits(source.trace(feed))
    assert [vars(node) for node in recorded.outline(feed).nodes] == [vars(n) for n in source.outline(feed).nodes]
    assert recorded.missing == ()
