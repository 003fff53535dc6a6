"""The generated functions: what they say, free, cache, refuse, and how a failure is reported."""

from __future__ import annotations

import gc
import traceback
import weakref

import numpy as np
import pytest
import torch

from layerdiff import mil
from layerdiff.errors import EngineError, UnsupportedOpError
from layerdiff.mil import engine, schema
from layerdiff.mil.ops.signature import Census

SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"


def block_of(spec):
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def test_the_source_reads_like_the_program(model):
    lines = model.generated_source().splitlines()
    assert lines[0] == "def run(feed, inject, state, census):"
    assert any("transpose(x=encoder, perm=(0, 2, 1))" in line for line in lines)
    assert sum("linear(" in line for line in lines) == 3
    assert lines[-1] == "    return {'logits': logits}"
    compile("\n".join(lines), "source", "exec")


def test_every_tensor_but_the_result_is_deleted(model):
    source = model.generated_source()
    deleted = {
        name for line in source.splitlines() if line.strip().startswith("del ") for name in line.strip()[4:].split(", ")
    }
    assigned = {line.split("=")[0].strip() for line in source.splitlines() if " = " in line}
    assert assigned - deleted == {"logits"}


def test_plans_are_made_once_per_request(model):
    first = model._engine.compiled(["logits"])
    assert model._engine.compiled(["logits"]) is first
    assert model._engine.compiled(["logits"], ["decoder"]) is not first


def test_only_the_functions_of_the_latest_requests_are_kept(model, monkeypatch):
    monkeypatch.setattr(engine, "KEPT_FUNCTIONS", 3)
    fresh = model.with_precision("declared")._engine
    names = [t.name for t in model.tensors]
    first, second = fresh.compiled([names[0]]), fresh.compiled([names[1]])
    fresh.compiled([names[2]])
    assert fresh.compiled([names[0]]) is first
    fresh.compiled([names[3]])
    assert fresh.compiled([names[0]]) is first
    assert fresh.compiled([names[1]]) is not second
    assert len(fresh._compiled) == 3


def test_values_are_freed_after_their_last_use(model, joint, monkeypatch):
    """Every tensor that a kernel returned is gone by the time the second kernel after its last reader runs."""
    alive: list[weakref.ref] = []
    most = 0
    compiled = model._engine._compiled
    compiled.clear()
    from layerdiff.mil import ops

    def watched(function):
        def call(**arguments):
            nonlocal most
            result = function(**arguments)
            alive.append(weakref.ref(result))
            gc.collect()
            most = max(most, sum(reference() is not None for reference in alive))
            return result

        call.__annotations__ = function.__annotations__
        call.__wrapped__ = function
        return call

    watched_kernels = {name: watched(kernel) for name, kernel in ops.KERNELS.items()}
    real = ops.kernel_of

    def kernel_of(op_type, opset):
        kernel = real(op_type, opset)
        return type(kernel)(watched_kernels[op_type], kernel.parameters, kernel.exact, kernel.widened)

    monkeypatch.setattr("layerdiff.mil.engine.kernel_of", kernel_of)
    model.predict(joint.feed)
    compiled.clear()
    assert len(alive) == 11
    assert most <= 3
    assert not any(reference() is not None for reference in alive)


def test_a_trace_holds_only_what_is_still_needed(model, joint):
    """While its reader looks at a tensor, nothing is alive but that one, what later ops read, and a log's operand."""
    references: dict[str, weakref.ref] = {}
    feed = {name: torch.from_numpy(value) for name, value in joint.feed.items()}
    names = [tensor.name for tensor in model.tensors]
    engine = model._engine
    ops = list(model.graph.function)
    for op, output, tensor, operand in engine.trace(engine.compiled(names, traced=True), feed, {}, Census(), {}):
        references[output.name] = weakref.ref(tensor)
        del tensor, operand
        gc.collect()
        needed = {name for later in ops[ops.index(op) + 1 :] for name in later.reads} | {output.name}
        needed |= set(op.reads) if op.type == "log" else set()
        assert {name for name, reference in references.items() if reference() is not None} <= needed
    assert list(references) == names
    assert not any(reference() is not None for reference in references.values())


def test_a_trace_stops_only_at_what_is_asked_for(model):
    names = [tensor.name for tensor in model.tensors]
    source = model.with_precision("declared")._engine.compiled(names[-1:], traced=True).source
    assert [output.name for _, output in source.results] == names[-1:]
    assert source.text.count("yield") == 1


def test_an_unknown_op_is_refused_when_the_model_is_loaded(edited):
    def unknown(spec):
        next(op for op in block_of(spec).operations if op.type == "relu").type = "relux"

    with pytest.raises(UnsupportedOpError, match="does not execute the op 'relux'") as raised:
        mil.load(edited(unknown))
    message = str(raised.value)
    assert "edited.mlpackage, CoreML7, op '" in message
    assert "float32[1, ?, ?, 16]" in message
    assert "did you mean 'relu'?" in message


def test_an_unknown_input_of_an_op_is_refused(edited):
    def rename(spec):
        op = next(op for op in block_of(spec).operations if op.type == "relu")
        op.inputs["alpha"].CopyFrom(op.inputs["x"])

    with pytest.raises(UnsupportedOpError, match="does not know the input 'alpha' of the op 'relu'"):
        mil.load(edited(rename))


def test_a_missing_input_of_an_op_is_refused(edited):
    def drop(spec):
        del next(op for op in block_of(spec).operations if op.type == "relu").inputs["x"]

    with pytest.raises(UnsupportedOpError, match="the op 'relu' lacks its input 'x'"):
        mil.load(edited(drop))


def test_a_failing_op_is_named_and_the_cause_kept(edited, joint):
    def wrong(spec):
        op = next(op for op in block_of(spec).operations if op.type == "transpose")
        constant = op.inputs["perm"].arguments[0].name
        value = next(o for o in block_of(spec).operations if o.outputs[0].name == constant).attributes["val"]
        value.immediateValue.tensor.ints.values[:] = [0, 1, 1]

    model = mil.load(edited(wrong))
    with pytest.raises(EngineError, match="the op 'transpose' failed: RuntimeError") as raised:
        model.predict(joint.feed)
    assert "op '" in str(raised.value)
    assert "of type transpose, tensor '" in str(raised.value)
    assert isinstance(raised.value.__cause__, RuntimeError)
    shown = "".join(traceback.format_exception(raised.value.__cause__))
    assert "transpose(x=encoder, perm=(0, 1, 1))" in shown
    with pytest.raises(EngineError, match="the op 'transpose' failed"):
        list(model.trace(joint.feed))


@pytest.mark.parametrize("code", [2, 40])  # string, float8
def test_a_tensor_of_a_dtype_that_is_not_computed_with_is_refused_when_the_model_is_loaded(edited, code):
    def retype(spec):
        op = next(op for op in block_of(spec).operations if op.type == "relu")
        op.outputs[0].type.tensorType.dataType = code

    with pytest.raises(UnsupportedOpError, match="does not compute with tensors of dtype") as raised:
        mil.load(edited(retype))
    assert "of type relu" in str(raised.value)


def test_an_input_of_a_dtype_that_is_not_computed_with_is_refused_when_the_model_is_loaded(edited):
    def retype(spec):
        spec.mlProgram.functions["main"].inputs[0].type.tensorType.dataType = 2

    with pytest.raises(UnsupportedOpError, match="dtype 'str'"):
        mil.load(edited(retype))


def test_a_parameter_that_cannot_be_read_names_its_op(edited, joint):
    def wrong(spec):
        op = next(op for op in block_of(spec).operations if op.type == "transpose")
        name = next(o for o in block_of(spec).operations if o.type == "const").attributes["name"]
        op.inputs["perm"].arguments[0].value.CopyFrom(name)

    model = mil.load(edited(wrong))
    with pytest.raises(EngineError, match="the op 'transpose' failed: ValueError"):
        model.predict(joint.feed)


def test_fewer_results_than_the_op_has_are_an_error_of_the_op(build):
    from coremltools.converters.mil import Builder as mb

    path = build(lambda x: mb.relu6(x=mb.split(x=x, num_splits=2, axis=0, name="parts")[0]), x=np.ones(4, np.float32))
    spec = schema.model_module().Model()
    spec.ParseFromString((path / SPECIFICATION).read_bytes())
    next(op for op in block_of(spec).operations if op.type == "split").outputs.pop()
    (path / SPECIFICATION).write_bytes(spec.SerializeToString())
    with pytest.raises(EngineError, match="failed"):
        mil.load(path).predict({"x": np.ones(4, np.float32)})


def test_ops_of_one_name_keep_their_own_parameters(build):
    from coremltools.converters.mil import Builder as mb

    x = np.array([-2.0, 2.0], np.float32)
    path = build(
        lambda x: (mb.clip(x=x, alpha=-np.inf, beta=0.0, name="a"), mb.clip(x=x, alpha=np.nan, beta=0.0, name="b")), x=x
    )
    spec = schema.model_module().Model()
    spec.ParseFromString((path / SPECIFICATION).read_bytes())
    for op in block_of(spec).operations:
        if op.type == "clip":
            op.attributes["name"].immediateValue.tensor.strings.values[:] = ["same"]
    (path / SPECIFICATION).write_bytes(spec.SerializeToString())
    result = mil.load(path).predict({"x": x})
    np.testing.assert_array_equal(result["a"], [-2, 0])
    assert np.isnan(result["b"]).all()


@pytest.mark.parametrize("name", ["\u00b5", "__debug__", "_", "None", "1", "\ufb01", "__builtins__"])
@pytest.mark.parametrize("kind", ["tensor", "constant"])
def test_any_name_of_a_tensor_or_constant_will_do(edited, joint, model, name, kind):
    def rename(spec):
        block = block_of(spec)
        relu = next(op for op in block.operations if op.type == "relu")
        weight = next(op for op in block.operations if op.type == "linear").inputs["weight"].arguments[0].name
        new = {relu.outputs[0].name: name, weight: f"{name}w"} if kind == "tensor" else {weight: name}
        for op in block.operations:
            for output in op.outputs:
                output.name = new.get(output.name, output.name)
            for argument in (a for bound in op.inputs.values() for a in bound.arguments if a.name in new):
                argument.name = new[argument.name]

    renamed = mil.load(edited(rename))
    assert renamed.predict(joint.feed)["logits"].tobytes() == model.predict(joint.feed)["logits"].tobytes()
    assert "__builtins__" not in renamed._engine.compiled(["logits"]).source.bound  # Python would take it for its own


def test_constants_beyond_the_budget_are_loaded_at_each_use(joints):
    joint = joints["float16"]
    small = mil.load(joint.package, constants_budget_bytes=0)
    assert "load_" in small.generated_source()
    expected = mil.load(joint.package).predict(joint.feed)["logits"]
    assert small.predict(joint.feed)["logits"].tobytes() == expected.tobytes()


def test_a_shape_computed_at_run_time_reaches_a_parameter(build):
    from coremltools.converters.mil import Builder as mb

    x, n = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([3, 2], np.int32)
    path = build(lambda x, n: mb.reshape(x=x, shape=n, name="y"), x=x, n=n)
    model = mil.load(path)
    np.testing.assert_array_equal(model.predict({"x": x, "n": n})["y"], x.reshape(3, 2))
    np.testing.assert_array_equal(model.predict({"x": x, "n": np.array([1, 6])})["y"], x.reshape(1, 6))


def test_no_kernel_changes_what_it_is_fed(joints):
    joint = joints["float16"]
    before = {name: value.copy() for name, value in joint.feed.items()}
    model = mil.load(joint.package)
    first, second = model.predict(joint.feed), model.predict(joint.feed)
    assert first["logits"].tobytes() == second["logits"].tobytes()
    for name, value in joint.feed.items():
        np.testing.assert_array_equal(value, before[name])


def test_the_number_of_threads_is_left_alone(model, joint):
    before = torch.get_num_threads()
    model.predict(joint.feed)
    assert torch.get_num_threads() == before


def test_a_custom_op_is_refused_by_the_name_of_its_class(edited):
    def custom(spec):
        op = next(op for op in block_of(spec).operations if op.type == "relu")
        op.type = "custom_layer"
        for key, text in (("class_name", "FlashRelu"), ("weights", None)):
            value = op.attributes[key]
            if text is None:  # an empty list of strings, as coremltools writes it
                value.type.listType.type.tensorType.dataType = 2
                value.immediateValue.SetInParent()
            else:
                value.type.tensorType.dataType = 2
                value.immediateValue.tensor.strings.values.append(text)

    with pytest.raises(UnsupportedOpError, match="is a custom op: the class 'FlashRelu' of the app computes it"):
        mil.load(edited(custom))
