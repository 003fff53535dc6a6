"""`cond`, `while_loop` and lists through whole packages, against the same computation in Python."""

from __future__ import annotations

import numpy as np
import pytest

from layerdiff import mil
from layerdiff.errors import EngineError, FeedError
from layerdiff.mil import writer

X = np.array([0.5, -1.0, 2.0], np.float32)


@pytest.fixture(scope="module")
def choice(build):
    """`x·2 + 1` if the sum of x is positive, else `sin(x)`."""
    from coremltools.converters.mil import Builder as mb

    def program(x):
        return mb.cond(
            pred=mb.greater(x=mb.reduce_sum(x=x, keep_dims=False), y=0.0),
            _true_fn=lambda: mb.add(x=mb.mul(x=x, y=2.0), y=1.0),
            _false_fn=lambda: mb.sin(x=x),
        )

    return mil.load(build(program, x=X))


@pytest.fixture(scope="module")
def loop(build):
    """A list of the powers x, x², … xⁿ, and their sum; each is halved while it is above 100."""
    from coremltools.converters.mil import Builder as mb

    def program(x, n):
        n = mb.squeeze(x=n)
        powers = mb.make_list(init_length=1, elem_shape=(3,), dynamic_length=True)

        def body(i, power, total, powers):
            power = mb.mul(x=power, y=x)
            large = mb.greater(x=mb.reduce_max(x=power, keep_dims=False), y=100.0)
            power = mb.cond(pred=large, _true_fn=lambda: mb.mul(x=power, y=0.5), _false_fn=lambda: mb.identity(x=power))
            powers = mb.list_write(ls=powers, index=i, value=power)
            return mb.add(x=i, y=1), power, mb.add(x=total, y=power), powers

        start = (0, np.ones(3, np.float32), np.zeros(3, np.float32), powers)
        _, last, total, powers = mb.while_loop(
            _cond=lambda i, power, total, powers: mb.less(x=i, y=n), _body=body, loop_vars=start
        )
        return last, total, mb.list_length(ls=powers), mb.list_gather(ls=powers, indices=[1, 0])

    return mil.load(build(program, x=X, n=np.array([2], np.int32)))


def powers(x: np.ndarray, n: int) -> list[np.ndarray]:
    found, power = [], np.ones_like(x)
    for _ in range(n):
        power = power * x
        power = power * np.float32(0.5) if power.max() > 100 else power
        found.append(power)
    return found


@pytest.mark.parametrize("x", [X, -X])
def test_a_condition_runs_the_block_that_it_chooses(choice, x):
    (result,) = choice.predict({"x": x}).values()
    np.testing.assert_allclose(result, x * 2 + 1 if x.sum() > 0 else np.sin(x), rtol=1e-6)


def test_a_trace_shows_only_the_block_that_ran(choice):
    assert [t.op for t in choice.trace({"x": X})] == ["reduce_sum", "greater", "mul", "add", "cond"]
    assert [t.op for t in choice.trace({"x": -X})] == ["reduce_sum", "greater", "sin", "cond"]
    (result,) = choice.outputs
    assert [t.name for t in choice.trace({"x": X}, wanted=[result])] == [result]
    assert {t.op for t in choice.tensors} == {"reduce_sum", "greater", "mul", "add", "sin", "cond"}


@pytest.mark.parametrize("n", [2, 3, 9])
def test_a_loop_runs_as_often_as_its_condition_holds(loop, n):
    x = np.array([1.5, -1.0, 2.5], np.float32)
    last, total, length, gathered = loop.predict({"x": x, "n": np.array([n], np.int32)}).values()
    expected = powers(x, n)
    np.testing.assert_allclose(last, expected[-1], rtol=1e-6)
    np.testing.assert_allclose(total, np.sum(expected, 0), rtol=1e-5)
    np.testing.assert_allclose(gathered, [expected[1], expected[0]], rtol=1e-6)
    assert length == n


def test_a_loop_that_does_not_run_leaves_its_variables_and_an_unwritten_list_is_zeros(loop):
    n = np.array([0], np.int32)
    names = list(loop.outputs)
    results = loop.run({"x": X, "n": n}, names[:3])
    np.testing.assert_array_equal(results[names[0]], np.ones(3))
    np.testing.assert_array_equal(results[names[1]], np.zeros(3))
    assert results[names[2]] == 1  # init_length
    with pytest.raises(EngineError, match="the op 'list_gather' failed: IndexError: index 1 is outside of a list of 1"):
        loop.predict({"x": X, "n": n})


def test_a_trace_shows_every_iteration(loop):
    x, n = np.array([1.5, -1.0, 2.5], np.float32), 4
    traced = list(loop.trace({"x": x, "n": np.array([n], np.int32)}))
    written = [t.value for t in traced if t.op == "list_write"]
    assert [len(value) for value in written] == [1, 2, 3, 4]
    np.testing.assert_allclose(written[-1], powers(x, n), rtol=1e-6)
    assert sum(t.op == "less" for t in traced) == n + 1


def test_values_of_the_first_iteration_are_freed_in_the_second(loop):
    source = loop.generated_source()
    inside = source[source.index("for _ in range") : source.index("else:\n        endless()")]
    deleted = {name for line in inside.splitlines() if "del " in line for name in line.strip()[4:].split(", ")}
    assert any(name.startswith("mul_") for name in deleted)
    assert any(name.startswith("greater_") for name in deleted)


def test_the_results_of_a_block_are_held_by_its_op_alone(choice, loop):
    for model, line in ((choice, "cond_"), (loop, "i_x")):
        lines = [line.strip() for line in model.generated_source().splitlines()]
        deleted = {name for line in lines if line.startswith("del ") for name in line[4:].split(", ")}
        made = {line.split(" = ")[0] for line in lines if "(" in line and " = " in line and "pop" not in line}
        kept = made - deleted - {line.split()[2].rstrip(":") for line in lines if line.startswith("if not ")}
        assert kept == set(model.outputs) & made


def test_a_list_of_unknown_elements_is_empty_until_something_is_written(build):
    from coremltools.converters.mil import Builder as mb

    def program(x):
        unwritten = mb.make_list(init_length=2, elem_shape=("length",), dynamic_length=True, name="unwritten")
        written = mb.list_write(ls=unwritten, index=1, value=x, name="written")
        return mb.list_read(ls=mb.list_write(ls=written, index=0, value=mb.tile(x=x, reps=[2]), name="ragged"), index=1)

    model = mil.load(build(program, x=X))
    (result,) = model.predict({"x": X}).values()
    np.testing.assert_array_equal(result, X)
    traced = {}
    with pytest.raises(EngineError, match="a list holds tensors of different shapes") as raised:
        traced.update((t.name, t.value) for t in model.trace({"x": X}))
    assert "[6], [3]" in str(raised.value)
    assert model.run({"x": X}, ["unwritten"])["unwritten"].shape == (2, 0)
    np.testing.assert_array_equal(model.run({"x": X}, ["written"])["written"], [np.zeros(3), X])


def test_only_what_a_request_needs_is_run_inside_a_loop(loop):
    whole, total = loop.generated_source(), loop.generated_source([list(loop.outputs)[1]])
    assert "list_gather(" in whole
    assert "list_gather(" not in total


def test_a_tensor_inside_of_a_block_is_shown_by_traces_only(loop):
    inner = next(t.name for t in loop.tensors if t.op == "less")
    with pytest.raises(FeedError, match=f"the tensor '{inner}' is inside a block of the op") as raised:
        loop.run({"x": X, "n": np.array([2], np.int32)}, [inner])
    assert "trace the model" in str(raised.value)


def test_a_value_can_be_given_for_the_result_of_a_condition(choice):
    name = next(iter(choice.outputs))
    given = np.array([7.0, 8.0, 9.0], np.float32)
    np.testing.assert_array_equal(choice.run({}, [name], {name: given})[name], given)


def test_a_loop_without_end_is_an_error(build, monkeypatch):
    from coremltools.converters.mil import Builder as mb

    def program(x):
        return mb.while_loop(
            _cond=lambda y: mb.greater(x=mb.reduce_sum(x=y, keep_dims=False), y=-1e9),
            _body=lambda y: (mb.mul(x=y, y=0.5),),
            loop_vars=(x,),
        )

    monkeypatch.setattr(writer, "MAX_ITERATIONS", 50)
    with pytest.raises(EngineError, match="the loop has not ended after 50 iterations"):
        mil.load(build(program, x=X)).predict({"x": X})


def test_an_error_inside_of_a_block_names_its_op(build):
    from coremltools.converters.mil import Builder as mb

    def program(x, n):
        def body(i, y):
            picked = mb.gather(x=x, indices=i, axis=0)
            return mb.add(x=i, y=1), mb.add(x=y, y=picked, name="picked_sum")

        index = mb.squeeze(x=n)
        _, y = mb.while_loop(_cond=lambda i, y: mb.less(x=i, y=10), _body=body, loop_vars=(index, 0.0))
        return y

    model = mil.load(build(program, x=X, n=np.array([1], np.int32)))
    with pytest.raises(EngineError, match="the op 'gather' failed") as raised:
        model.predict({"x": X, "n": np.array([1], np.int32)})
    assert "indices from 3 to 3 leave an axis of length 3" in str(raised.value)


def test_precision_reaches_into_blocks(build):
    from coremltools.converters.mil import Builder as mb

    def program(x):
        def body(i, y):
            return mb.add(x=i, y=1), mb.mul(x=y, y=1.001)

        _, y = mb.while_loop(_cond=lambda i, y: mb.less(x=i, y=40), _body=body, loop_vars=(0, x))
        return y

    model = mil.load(build(program, precision="float16", x=X))
    half = np.float16(X)
    for _ in range(40):
        half = half * np.float16(1.001)
    (declared,) = model.predict({"x": X}).values()
    (exact,) = model.with_precision("float64").predict({"x": X}).values()
    np.testing.assert_array_equal(declared, half.astype(declared.dtype))
    np.testing.assert_allclose(exact, X.astype(np.float64) * float(np.float16(1.001)) ** 40, rtol=1e-9)
