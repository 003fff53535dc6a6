"""Ops through whole packages against coremltools' own NumPy evaluation of them.

Each case is a function of constants or placeholders. coremltools evaluates it on constants while it builds
the program; the engine executes the package that is built from the same function with placeholders.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layerdiff import mil, quiet

with quiet.third_party():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import Function, Program

rng = np.random.default_rng(7)
SMALL = rng.uniform(-0.9, 0.9, (2, 3, 4)).astype(np.float32)
WIDE = rng.uniform(-6, 6, (2, 3, 4)).astype(np.float32)
POSITIVE = rng.uniform(0.1, 5, (2, 3, 4)).astype(np.float32)
HALVES = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, -0.0, 3.2], np.float32)
INTS = rng.integers(-9, 9, (2, 3, 4)).astype(np.int32)
NONZERO = np.where(INTS == 0, 3, INTS).astype(np.int32)
IMAGE = rng.uniform(-1, 1, (1, 4, 4, 6)).astype(np.float32)

UNARY = {
    **dict.fromkeys(["acos", "asin", "atanh"], SMALL),
    **dict.fromkeys(["abs", "atan", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor"], WIDE),
    **dict.fromkeys(["sign", "sin", "sinh", "square", "tan", "tanh"], WIDE),
    "sqrt": POSITIVE,
    "round": HALVES,
}
ACTIVATIONS = {
    "clamped_relu": {"alpha": 0.3, "beta": 2.0},
    "elu": {"alpha": 0.7},
    "leaky_relu": {"alpha": 0.1},
    "linear_activation": {"alpha": 1.5, "beta": -0.25},
    "relu": {},
    "relu6": {},
    "scaled_tanh": {"alpha": 1.2, "beta": 0.6},
    "sigmoid": {},
    "sigmoid_hard": {"alpha": 0.3, "beta": 0.4},
    "softplus": {},
    "softsign": {},
    "thresholded_relu": {"alpha": 0.5},
    "softmax": {"axis": 1},
    "clip": {"alpha": -1.0, "beta": 2.0},
    "threshold": {"alpha": 0.25},
}
BINARY = ["add", "floor_div", "maximum", "minimum", "mod", "mul", "real_div", "sub"]
COMPARISONS = ["equal", "greater", "greater_equal", "less", "less_equal", "not_equal"]
REDUCTIONS = ["l1_norm", "l2_norm", "log_sum_exp", "max", "mean", "min", "prod", "sum", "sum_square"]

CASES: dict[str, tuple[Any, dict[str, np.ndarray]]] = {}


def case(name: str, function: Any, **feed: np.ndarray) -> None:
    CASES[name] = (function, feed)


for op, values in UNARY.items():
    case(op, lambda x, op=op: getattr(mb, op)(x=x), x=values)
for op, parameters in ACTIVATIONS.items():
    case(op, lambda x, op=op, p=parameters: getattr(mb, op)(x=x, **p), x=WIDE)
CHANNELS = np.array([0.1, 0.2, 0.3, 1.4], np.float32)
case("prelu", lambda x: mb.prelu(x=x, alpha=CHANNELS), x=IMAGE)
case("softplus_parametric", lambda x: mb.softplus_parametric(x=x, alpha=CHANNELS, beta=CHANNELS + 1), x=IMAGE)
for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"):
    case(f"gelu_{mode}", lambda x, mode=mode: mb.gelu(x=x, mode=mode), x=WIDE)
for op in (*BINARY, *COMPARISONS):
    case(op, lambda x, y, op=op: getattr(mb, op)(x=x, y=y), x=WIDE, y=POSITIVE[:1, :, :1])
for op in (*(b for b in BINARY if b != "real_div"), *COMPARISONS):
    case(f"{op}_int32", lambda x, y, op=op: getattr(mb, op)(x=x, y=y), x=INTS, y=NONZERO)
for op in REDUCTIONS:
    case(f"reduce_{op}", lambda x, op=op: getattr(mb, f"reduce_{op}")(x=x, axes=[0, -1], keep_dims=False), x=WIDE)
    case(f"reduce_{op}_kept", lambda x, op=op: getattr(mb, f"reduce_{op}")(x=x, axes=[1], keep_dims=True), x=WIDE)
case("reduce_log_sum", lambda x: mb.reduce_log_sum(x=x, axes=[1]), x=POSITIVE)
for op in ("argmax", "argmin"):
    case(f"reduce_{op}", lambda x, op=op: getattr(mb, f"reduce_{op}")(x=x, axis=1), x=WIDE)
case("pow", lambda x, y: mb.pow(x=x, y=y), x=POSITIVE, y=WIDE)
case("log", lambda x: mb.log(x=x, epsilon=0.01), x=POSITIVE)
case("rsqrt", lambda x: mb.rsqrt(x=x, epsilon=0.01), x=POSITIVE)
case("inverse", lambda x: mb.inverse(x=x, epsilon=0.01), x=POSITIVE)
case("matmul", lambda x, y: mb.matmul(x=x, y=y, transpose_y=True), x=WIDE, y=SMALL)
case("matmul_x", lambda x, y: mb.matmul(x=x, y=y, transpose_x=True), x=WIDE, y=SMALL)
case("linear", lambda x: mb.linear(x=x, weight=SMALL[0], bias=np.ones(3, np.float32)), x=WIDE)
case("layer_norm", lambda x: mb.layer_norm(x=x, axes=[1, 2], gamma=SMALL[0], beta=SMALL[1], epsilon=1e-3), x=WIDE)
case("layer_norm_inner", lambda x: mb.layer_norm(x=x, axes=[1], epsilon=1e-3), x=WIDE)
case("l2_norm", lambda x: mb.l2_norm(x=x, epsilon=1e-3), x=IMAGE)
case("band_part", lambda x: mb.band_part(x=x, lower=1, upper=0), x=WIDE)
case("concat", lambda x, y: mb.concat(values=[x, y, x], axis=1), x=WIDE, y=SMALL)
case("cumsum", lambda x: mb.cumsum(x=x, axis=1, reverse=True, exclusive=False), x=WIDE)
case("expand_dims", lambda x: mb.expand_dims(x=x, axes=[-1, 1]), x=WIDE)
case("flatten2d", lambda x: mb.flatten2d(x=x, axis=-1), x=WIDE)
case("gather", lambda x: mb.gather(x=x, indices=np.array([[0, 2], [-1, 1]], np.int32), axis=1), x=WIDE)
case(
    "gather_batch",
    lambda x, i: mb.gather(x=x, indices=i, axis=2, batch_dims=1),
    x=WIDE,
    i=np.array([[0, 3], [-1, 1]], np.int32),
)
case(
    "gather_along_axis",
    lambda x, i: mb.gather_along_axis(x=x, indices=i, axis=1),
    x=WIDE,
    i=rng.integers(-3, 3, (2, 5, 4)).astype(np.int32),
)
case("identity", lambda x: mb.identity(x=x), x=WIDE)
case("non_zero", lambda x: mb.non_zero(x=x), x=INTS)
case("pad_reflect", lambda x: mb.pad(x=x, pad=[1, 2, 3, 0], mode="reflect"), x=WIDE)
case("pad_replicate", lambda x: mb.pad(x=x, pad=[1, 2, 3, 0], mode="replicate"), x=WIDE)
case("pad_constant", lambda x: mb.pad(x=x, pad=[1, 2, 3, 0], mode="constant", constant_val=1.5), x=WIDE)
case("reshape", lambda x: mb.reshape(x=x, shape=[4, 0, -1]), x=WIDE)
case("reverse", lambda x: mb.reverse(x=x, axes=[-1, 0]), x=WIDE)
case(
    "slice_by_index",
    lambda x: mb.slice_by_index(x=x, begin=[1, 2, 3], end=[2, 0, 0], stride=[1, -1, -2], end_mask=[False, False, True]),
    x=WIDE,
)
case(
    "slice_squeezed",
    lambda x: mb.slice_by_index(
        x=x, begin=[-1, 0, 0], end=[0, 9, 0], squeeze_mask=[True, False, False], end_mask=[False, False, True]
    ),
    x=WIDE,
)
case("slice_by_size", lambda x: mb.slice_by_size(x=x, begin=[1, 0, -3], size=[-1, 2, 2]), x=WIDE)
case("split", lambda x: mb.split(x=x, split_sizes=[1, 3], axis=2)[1], x=WIDE)
case("squeeze", lambda x: mb.squeeze(x=x, axes=[0]), x=IMAGE)
case("stack", lambda x, y: mb.stack(values=[x, y], axis=1), x=WIDE, y=SMALL)
case("tile", lambda x: mb.tile(x=x, reps=[2, 1, 3]), x=WIDE)
case("topk", lambda x: mb.topk(x=x, k=3, axis=-1)[0], x=WIDE)
case("topk_indices", lambda x: mb.topk(x=x, k=2, axis=1, ascending=True)[1], x=WIDE)
case("argsort", lambda x: mb.argsort(x=x, axis=1), x=WIDE)
case("transpose", lambda x: mb.transpose(x=x, perm=[2, 0, -2]), x=WIDE)
case("cast", lambda x: mb.cast(x=x, dtype="int32"), x=WIDE)
case("logical_not", lambda x: mb.logical_not(x=mb.greater(x=x, y=0.0)), x=WIDE)
case("logical_xor", lambda x, y: mb.logical_xor(x=mb.greater(x=x, y=0.0), y=mb.greater(x=y, y=0.0)), x=WIDE, y=SMALL)
case("select", lambda x, y: mb.select(cond=mb.greater(x=x, y=y), a=x, b=y), x=WIDE, y=SMALL)


def evaluated(function: Any, feed: dict[str, np.ndarray]) -> np.ndarray:
    """coremltools' own result for constant inputs, which some of its evaluations change."""
    with Function({}, opset_version=ct.target.iOS17) as scope:
        var = function(*(mb.const(val=value.copy()) for value in feed.values()))
        scope.set_outputs([var])
    Program().add_function("main", scope)
    assert var.val is not None, "coremltools has no evaluation of this op"
    return np.asarray(var.val)


@pytest.fixture(scope="module")
def results(build) -> dict[str, np.ndarray]:
    """Case → the engine's result; one package for all cases with the same inputs keeps this quick."""
    feed = {f"{name}_{key}": value for name, (_, inputs) in CASES.items() for key, value in inputs.items()}

    def everything(*placeholders: Any) -> tuple[Any, ...]:
        left = list(placeholders)
        outputs = []
        for name, (function, inputs) in CASES.items():
            var = function(*(left.pop(0) for _ in inputs))
            outputs.append(mb.identity(x=var, name=f"result_{name}"))
        return tuple(outputs)

    model = mil.load(build(everything, **feed))
    outputs = model.predict(feed)
    return {name: outputs[f"result_{name}"] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_the_engine_agrees_with_coremltools(results, name):
    expected = evaluated(*CASES[name])
    result = results[name]
    assert result.shape == expected.shape or expected.shape == ()
    if result.dtype.kind == "f":
        np.testing.assert_allclose(result, expected, rtol=2e-6, atol=2e-6)
    else:
        np.testing.assert_array_equal(result, expected)
