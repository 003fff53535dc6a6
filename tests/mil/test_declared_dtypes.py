"""Results as the dtype that a program declares: float16 rounded once, integers cut, through whole packages."""

from __future__ import annotations

import math

import numpy as np
import pytest

from layerdiff import mil, quiet

with quiet.third_party():
    import coremltools  # noqa: F401
    from coremltools.converters.mil import Builder as mb

rng = np.random.default_rng(11)
X = rng.uniform(0.1, 4, (3, 5)).astype(np.float16)
W = rng.uniform(-1, 1, (4, 5)).astype(np.float16)
WIDE_W = W.astype(np.float64)

FLOAT16 = {
    "exp": (lambda x: mb.exp(x=x), np.exp),
    "gelu": (
        lambda x: mb.gelu(x=x, mode="EXACT"),
        lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    ),
    "linear": (lambda x: mb.linear(x=x, weight=W), lambda x: x @ WIDE_W.T),
    "log": (lambda x: mb.log(x=x), np.log),
    "matmul": (lambda x: mb.matmul(x=x, y=x, transpose_y=True), lambda x: x @ x.T),
    "pow": (lambda x: mb.pow(x=x, y=np.float16(1.5)), lambda x: x**1.5),
    "real_div": (lambda x: mb.real_div(x=np.float16(1), y=x), lambda x: 1 / x),
    "reduce_sum": (lambda x: mb.reduce_sum(x=x, axes=[1]), lambda x: x.sum(1)),
    "reduce_log_sum": (lambda x: mb.reduce_log_sum(x=x, axes=[0]), lambda x: np.log(x.sum(0))),
    "rsqrt": (lambda x: mb.rsqrt(x=x, epsilon=np.float16(0.5)), lambda x: 1 / np.sqrt(x + 0.5)),
    "softmax": (lambda x: mb.softmax(x=x, axis=0), lambda x: np.exp(x) / np.exp(x).sum(0)),
    "square": (lambda x: mb.square(x=x), np.square),
    "sum of many": (lambda x: mb.reduce_sum(x=mb.tile(x=x, reps=[400, 1])), lambda x: 400 * x.sum()),
}
"""Case → how it is built, and its formula in float64. Sums and products must not accumulate in float16."""


@pytest.fixture(scope="module")
def rounded(build):
    def program(x):
        return tuple(mb.identity(x=make(x), name=name.replace(" ", "_")) for name, (make, _) in FLOAT16.items())

    return mil.load(build(program, x=X)).predict({"x": X})


@pytest.mark.parametrize("name", FLOAT16)
def test_float16_results_are_rounded_once(rounded, name):
    """To the nearest float16, or to its neighbour where float32 was too coarse to tell: never further."""
    result, exact = rounded[name.replace(" ", "_")], np.asarray(FLOAT16[name][1](X.astype(np.float64)))
    assert result.dtype == np.float16
    assert (np.abs(result - exact) <= 0.501 * np.spacing(np.abs(exact).astype(np.float16))).all()


ROWS = np.array([[7, -7, 3], [-1, 2, -4]], np.int32)
OTHER = np.array([[2, 2, -2], [3, -3, 3]], np.int32)
HALVES = np.array([[0.5], [0.5], [-2.0]], np.float32)

INTEGER = {
    "real_div": (lambda x, y: mb.real_div(x=x, y=y), np.trunc(ROWS / OTHER)),
    "floor_div": (lambda x, y: mb.floor_div(x=x, y=y), np.floor(ROWS / OTHER)),
    "mod": (lambda x, y: mb.mod(x=x, y=y), ROWS - np.floor(ROWS / OTHER) * OTHER),
    "pow": (lambda x, y: mb.pow(x=x, y=np.int32(3)), ROWS**3),
    "reduce_mean": (lambda x, y: mb.reduce_mean(x=x, axes=[1]), [1, -1]),
    "reduce_l2_norm": (lambda x, y: mb.reduce_l2_norm(x=x, axes=[0]), [7, 7, 5]),
    "reduce_log_sum_exp": (lambda x, y: mb.reduce_log_sum_exp(x=x, axes=[1]), [7, 2]),
    "matmul": (lambda x, y: mb.matmul(x=x, y=HALVES), np.trunc(ROWS @ HALVES)),
    "linear": (lambda x, y: mb.linear(x=x, weight=HALVES.T), np.trunc(ROWS @ HALVES)),
    "exp2": (lambda x, y: mb.exp2(x=y), [[4, 4, 0], [8, 0, 8]]),
    "no axes": (lambda x, y: mb.reduce_sum_square(x=x, axes=np.zeros(0, np.int32)), ROWS**2),
    "argmax as uint16": (
        lambda x, y: mb.cast(x=mb.reduce_argmax(x=x, axis=1, output_dtype="uint16"), dtype="int32"),
        [0, 1],
    ),
    "gather of int8 by uint16": (
        lambda x, y: mb.cast(
            x=mb.gather(x=mb.cast(x=x, dtype="int8"), indices=np.array([2, 0], np.uint16), axis=1), dtype="int32"
        ),
        ROWS[:, [2, 0]],
    ),
    "cast": (lambda x, y: mb.cast(x=mb.mul(x=mb.cast(x=x, dtype="fp32"), y=0.3), dtype="int32"), np.trunc(ROWS * 0.3)),
}
"""Case → how it is built from ROWS and OTHER, and its result."""


@pytest.fixture(scope="module")
def integers(build):
    def program(x, y):
        return tuple(mb.identity(x=make(x, y), name=name.replace(" ", "_")) for name, (make, _) in INTEGER.items())

    return mil.load(build(program, x=ROWS, y=OTHER)).predict({"x": ROWS, "y": OTHER})


@pytest.mark.parametrize("name", INTEGER)
def test_integer_results_are_cut_towards_zero(integers, name):
    result = integers[name.replace(" ", "_")]
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, INTEGER[name][1])


def test_drawn_classes_are_rounded_as_any_float16(build):
    """The classes are declared in the dtype of the logits, which holds no odd number above 2048."""
    logits = np.full((1, 4097), -30000, np.float16)
    logits[0, 4095] = 0
    model = mil.load(build(lambda x: mb.cast(x=mb.random_categorical(x=x, seed=1), dtype="int32", name="y"), x=logits))
    assert model.predict({"x": logits})["y"].item() == 4096


@pytest.mark.parametrize(
    ("opset", "to_shape", "result"),
    [
        ("iOS15", [0, -1, 0], (2, 3, 4)),
        ("iOS16", [4, 0, -1], (4, 3, 2)),
        ("iOS17", [0, -1], (3, 8)),
        ("iOS18", [1, 0, -1, 0], (1, 2, 3, 4)),
    ],
)
def test_zeros_in_a_shape_mean_what_the_opset_says(build, opset, to_shape, result):
    x = rng.uniform(-1, 1, (2, 3, 4)).astype(np.float32)
    model = mil.load(build(lambda x: mb.reshape(x=x, shape=to_shape, name="y"), x=x, opset=opset))
    np.testing.assert_array_equal(model.predict({"x": x})["y"], x.reshape(result))
