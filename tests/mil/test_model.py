"""The public model: predict, run, inject, trace, precision, structure."""

from __future__ import annotations

import numpy as np
import pytest

from layerdiff import mil
from layerdiff.errors import FeedError

LOG_SOFTMAX_FLOAT32_ULPS = 8
"""The joint is 11 ops deep; its logits are below 8 in size, so an ulp is at most 2^-21."""


def test_predict_agrees_with_torch_to_float32_rounding(joint, model):
    logits = model.predict(joint.feed)["logits"]
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, joint.reference(), rtol=0, atol=LOG_SOFTMAX_FLOAT32_ULPS * 2.0**-21)


def test_flexible_lengths_reuse_the_plan(joint, model):
    for frames, steps in ((1, 1), (9, 5), (4, 2)):
        feed = {"encoder": joint.feed["encoder"][:, :, :1].repeat(frames, 2), "decoder": np.ones((1, 20, steps))}
        assert model.predict(feed)["logits"].shape == (1, frames, steps, 13)
    assert len([key for key in model._engine._compiled if key[0] == ("logits",) and not key[1]]) == 1


def test_float16_comes_back_as_float16_and_is_near(joints):
    joint = joints["float16"]
    model = mil.load(joint.package)
    logits = model.predict(joint.feed)["logits"]
    assert logits.dtype == np.float16
    assert model.declared_precision == "float16"
    difference = np.abs(logits - joint.reference())
    assert 1e-5 < difference.max() < 0.02
    wide = model.with_precision("float32").predict(joint.feed)["logits"]
    assert wide.dtype == np.float32
    assert np.abs(wide - joint.reference()).mean() < np.abs(logits - joint.reference()).mean()
    assert model.with_precision("float64").predict(joint.feed)["logits"].dtype == np.float64


def test_float16_values_are_float16_values_at_every_op(joints):
    joint = joints["float16"]
    declared = mil.load(joint.package)
    for tensor in declared.trace(joint.feed):
        assert tensor.value.dtype == np.float16 or tensor.op == "cast"
    linear = next(t for t in declared.tensors if t.op == "linear").name
    unbounded = declared.with_precision("float16_unbounded").run(joint.feed, [linear])[linear]
    fraction, _ = np.frexp(unbounded.astype(np.float64))
    np.testing.assert_array_equal(fraction * 2**11, np.round(fraction * 2**11))


def test_a_float16_contraction_accumulates_in_float32(joints):
    joint = joints["float16"]
    model = mil.load(joint.package)
    linear = next(op for op in model.graph.function if op.type == "linear")
    (x,) = model.run(joint.feed, [linear.inputs["x"][0]]).values()
    constants = model.graph.function.block.constants
    weight, bias = (constants[linear.inputs[name][0]].array().astype(np.float64) for name in ("weight", "bias"))
    exact = x.astype(np.float64) @ weight.T + bias
    got = model.run(joint.feed, [linear.outputs[0].name])[linear.outputs[0].name]
    half_ulp = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64) / 2
    assert (np.abs(got - exact) <= half_ulp * 1.02 + 1e-6).all()


def test_dither_moves_only_the_weights_and_repeats(joints):
    joint = joints["float16"]
    model = mil.load(joint.package)
    plain = model.with_precision("float32").predict(joint.feed)["logits"]
    first = model.with_precision("float32", dither_seed=0).predict(joint.feed)["logits"]
    again = mil.load(joint.package, "float32", dither_seed=0).predict(joint.feed)["logits"]
    other = model.with_precision("float32", dither_seed=1).predict(joint.feed)["logits"]
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert 0 < np.abs(first - plain).max() < 0.02


def test_policies_share_program_and_constants(joints):
    model = mil.load(joints["float16"].package)
    other = model.with_precision("float32")
    assert other.graph is model.graph
    model.predict(joints["float16"].feed)
    before = model._constants.used_bytes
    other.predict(joints["float16"].feed)
    assert model._constants.used_bytes == before > 0


def test_run_computes_only_what_is_asked_for(joint, model):
    relu = next(t.name for t in model.tensors if t.op == "relu")
    linear = next(t.name for t in model.tensors if t.op == "linear")
    partial = {"encoder": joint.feed["encoder"]}
    value = model.run(partial, [linear])[linear]
    enc = joint.module.enc
    expected = joint.feed["encoder"].transpose(0, 2, 1) @ enc.weight.detach().numpy().T + enc.bias.detach().numpy()
    np.testing.assert_allclose(value, expected, atol=1e-5)
    with pytest.raises(FeedError, match="'decoder' is missing"):
        model.run(partial, [relu])
    assert (model.run(joint.feed, [relu])[relu] >= 0).all()


def test_an_inner_tensor_can_be_given(joint, model):
    add = next(t.name for t in model.tensors if t.op == "add")
    value = np.random.default_rng(1).standard_normal((1, 2, 2, 16)).astype(np.float32)
    logits = model.run({}, ["logits", add], inject={add: value})
    np.testing.assert_array_equal(logits[add], value)
    out = joint.module.out
    raw = np.maximum(value, 0) @ out.weight.detach().numpy().T.astype(np.float64) + out.bias.detach().numpy()
    expected = raw - np.log(np.exp(raw).sum(-1, keepdims=True))
    np.testing.assert_allclose(logits["logits"], expected, atol=1e-5)


def test_giving_a_tensor_its_own_value_changes_nothing(joint, model):
    whole = model.predict(joint.feed)["logits"]
    for tensor in model.tensors:
        value = model.run(joint.feed, [tensor.name])
        again = model.run(joint.feed, ["logits"], inject=value)["logits"]
        np.testing.assert_allclose(again, whole, rtol=0, atol=2**-20, err_msg=tensor.name)  # BLAS sees other strides


def test_a_given_tensor_is_rounded_to_what_the_program_declares(joints):
    model = mil.load(joints["float16"].package)
    add = next(t.name for t in model.tensors if t.op == "add")
    value = np.array([1.0001, 1e6, *np.zeros(14)], np.float32).reshape(1, 1, 1, 16)
    back = model.run({}, [add], inject={add: value})[add]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(back, value.astype(np.float16))
    wide = model.with_precision("float32").run({}, [add], inject={add: value})[add]
    np.testing.assert_array_equal(wide, value)


def test_an_input_can_be_injected_and_fetched(joint, model):
    results = model.run(
        {"decoder": joint.feed["decoder"]}, ["encoder", "logits"], inject={"encoder": joint.feed["encoder"]}
    )
    np.testing.assert_array_equal(results["encoder"], joint.feed["encoder"])
    assert results["logits"].tobytes() == model.predict(joint.feed)["logits"].tobytes()


def test_a_constant_can_be_fetched(joint, model):
    name = next(op for op in model.graph.function if op.type == "linear").inputs["weight"][0]
    np.testing.assert_array_equal(model.run({}, [name])[name], joint.module.enc.weight.detach().numpy())


def test_the_trace_is_every_tensor_with_the_values_of_run(joint, model):
    traced = {tensor.name: tensor.value for tensor in model.trace(joint.feed)}
    assert list(traced) == [tensor.name for tensor in model.tensors]
    for name, value in model.run(joint.feed, list(traced)).items():
        assert value.tobytes() == traced[name].tobytes()
        assert value.shape == traced[name].shape


def test_results_do_not_share_memory_with_the_feed_or_the_weights(joint, model):
    results = model.run(joint.feed, ["encoder", "logits"])
    assert not np.shares_memory(results["encoder"], joint.feed["encoder"])


def test_results_do_not_share_memory_with_what_is_given(joint, model):
    add = next(t.name for t in model.tensors if t.op == "add")
    value = np.ones((1, 2, 2, 16), np.float32)
    assert not np.shares_memory(model.run({}, [add], inject={add: value})[add], value)


def test_unknown_names(joint, model):
    with pytest.raises(FeedError, match="no tensor 'logitz'") as raised:
        model.run(joint.feed, ["logitz"])
    assert "did you mean 'logits'?" in str(raised.value)
    with pytest.raises(FeedError, match="no tensor 'nothing'"):
        model.run(joint.feed, ["logits"], inject={"nothing": np.zeros(1)})
    with pytest.raises(FeedError, match="no input 'decode'"):
        model.predict({**joint.feed, "decode": 1})


def test_structure(model):
    assert model.declared_precision == "float32"
    assert model.depth("encoder") == 0
    assert model.depth("logits") == max(model.depth(t.name) for t in model.tensors) == 8
    assert model.ancestors("logits") >= {"encoder", "decoder"}
    assert len(model.ancestors("logits")) == len(model.tensors) - 1 + 2
    assert model.tensors[-1] == mil.TensorInfo("logits", "log", "float32", (1, None, None, 13))
    assert "encoder: float32[1, 24, 1..9]" in repr(model)
    for call in (model.depth, model.ancestors):
        with pytest.raises(FeedError, match="no tensor 'x'"):
            call("x")


def test_integer_casts_follow_the_declared_dtype_and_overflow_is_counted(build):
    from coremltools.converters.mil import Builder as mb

    x = np.array([1, 40_000, -40_000, 32_767], np.int32)

    def program(x):
        return mb.cast(x=mb.cast(x=x, dtype="int16", name="narrow"), dtype="int32", name="y")

    path = build(program, x=x)
    model = mil.load(path)
    if not any(t.dtype == "int16" for t in model.tensors):
        pytest.fail("coremltools folded the casts away")
    np.testing.assert_array_equal(model.predict({"x": x})["y"], x.astype(np.int16))
    assert sum(model.last_integer_overflows.values()) == 2
    model.predict({"x": np.zeros(4, np.int32)})
    assert model.last_integer_overflows == {}


def test_casts_to_float16_are_widened_with_the_rest(build):
    from coremltools.converters.mil import Builder as mb

    x = np.array([1.0001, 1e6], np.float32)
    path = build(lambda x: mb.sin(x=mb.cast(x=x, dtype="fp16", name="half"), name="y"), x=x)
    model = mil.load(path)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(model.run({"x": x}, ["half"])["half"], x.astype(np.float16))
    np.testing.assert_array_equal(model.with_precision("float32").run({"x": x}, ["half"])["half"], x)
    assert x[0] == np.float32(1.0001)


def test_a_program_of_both_precisions_is_mixed(build):
    from coremltools.converters.mil import Builder as mb

    def program(x):
        return mb.cos(x=mb.cast(x=mb.sin(x=mb.cast(x=x, dtype="fp16")), dtype="fp32"))

    assert mil.load(build(program, x=np.ones(2, np.float32))).declared_precision == "mixed"


def test_a_trace_of_wanted_tensors_runs_only_what_they_need(joint, model):
    """The decoder is not fed, for nothing that is wanted reads it."""
    linear = next(t.name for t in model.tensors if t.op == "linear")
    whole = {t.name: t.value for t in model.trace(joint.feed)}
    (found,) = model.trace({"encoder": joint.feed["encoder"]}, wanted=[linear])
    assert found.name == linear
    np.testing.assert_array_equal(found.value, whole[linear])
    with pytest.raises(FeedError, match="'nothing'"):
        list(model.trace(joint.feed, wanted=["nothing"]))


def test_what_a_reader_puts_into_overrides_takes_the_tensors_place(joint, model):
    add = next(t.name for t in model.tensors if t.op == "add")
    value = np.random.default_rng(2).standard_normal((1, 2, 2, 16)).astype(np.float32)
    overrides, values = {}, {}
    for tensor in model.trace(joint.feed, overrides=overrides):
        values[tensor.name] = tensor.value
        if tensor.name == add:
            overrides[add] = value
    assert overrides == {}
    np.testing.assert_array_equal(values[add], model.run(joint.feed, [add])[add])  # shown as it was computed
    expected = model.run({}, ["logits"], inject={add: value})["logits"]
    np.testing.assert_allclose(values["logits"], expected, rtol=0, atol=2**-20)


def test_an_override_is_rounded_to_the_declared_dtype(joints):
    model = mil.load(joints["float16"].package)
    add, relu = (next(t.name for t in model.tensors if t.op == op) for op in ("add", "relu"))
    overrides = {}
    for tensor in model.trace(joints["float16"].feed, overrides=overrides):
        if tensor.name == add:
            overrides[add] = np.full(tensor.value.shape, 1.0001, np.float32)
        if tensor.name == relu:
            assert (tensor.value == np.float16(1.0)).all()


def test_lent_values_are_equal_and_cannot_be_written(joints):
    for precision, joint in joints.items():
        model = mil.load(joint.package)
        copies = {t.name: t.value for t in model.trace(joint.feed)}
        for tensor in model.trace(joint.feed, lend=True):
            assert tensor.value.dtype == copies[tensor.name].dtype
            np.testing.assert_array_equal(tensor.value, copies[tensor.name])
            assert precision == "float16" or not tensor.value.flags.writeable  # float16 is held in float32
