"""The ops of the random programs: for each a rule that draws operands and parameters, and its formula in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tests.mil.random_movements import CUTS, MOVEMENTS
from tests.mil.random_programs import Array, Pick, Rule, Step, fixed, step

erf = np.vectorize(math.erf, otypes=[float])


def positive(v: Array) -> bool:
    return v.size > 0 and v.min() > 0.1


def away_from_zero(v: Array) -> bool:
    return v.size > 0 and np.abs(v).min() > 0.2


# ------------------------------------------------------------------ elementwise


def unary(
    op: str, formula: Callable[..., Any], where: Callable[[Array], Any] = lambda v: True, **parameters: Any
) -> Rule:
    return lambda pick: step(op, formula, parameters, x=pick.value(where))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


UNARY: list[Rule] = [
    unary("abs", np.abs),
    unary("atan", np.arctan),
    unary("clamped_relu", lambda x: np.minimum(np.where(x >= 0, x, 0.25 * x), 1.5), alpha=0.25, beta=1.5),
    unary("clip", lambda x: np.clip(x, -1.5, 2), alpha=-1.5, beta=2.0),
    unary("cos", np.cos),
    unary("elu", lambda x: np.where(x > 0, x, 0.5 * np.expm1(x)), alpha=0.5),
    unary("erf", erf),
    unary("exp", np.exp, lambda v: v.max() < 3),
    unary("exp2", np.exp2, lambda v: v.max() < 4),
    unary("gelu", lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))), mode="EXACT"),
    unary("gelu", lambda x: x * sigmoid(1.702 * x), mode="SIGMOID_APPROXIMATION"),
    unary("inverse", lambda x: 1 / (x + 2**-8), positive, epsilon=2**-8),
    unary("leaky_relu", lambda x: np.where(x >= 0, x, 0.25 * x), alpha=0.25),
    unary("linear_activation", lambda x: 0.5 * x - 0.75, alpha=0.5, beta=-0.75),
    unary("log", lambda x: np.log(x + 2**-8), positive, epsilon=2**-8),
    unary("relu", lambda x: np.maximum(x, 0)),
    unary("relu6", lambda x: np.clip(x, 0, 6)),
    unary("rsqrt", lambda x: 1 / np.sqrt(x + 2**-8), positive, epsilon=2**-8),
    unary("scaled_tanh", lambda x: 1.5 * np.tanh(0.5 * x), alpha=1.5, beta=0.5),
    unary("sigmoid", sigmoid),
    unary("sigmoid_hard", lambda x: np.clip(0.25 * x + 0.5, 0, 1), alpha=0.25, beta=0.5),
    unary("silu", lambda x: x * sigmoid(x)),
    unary("sin", np.sin),
    unary("softplus", lambda x: np.logaddexp(x, 0)),
    unary("softsign", lambda x: x / (1 + np.abs(x))),
    unary("sqrt", np.sqrt, positive),
    unary("square", np.square),
    unary("tanh", np.tanh),
    unary("threshold", lambda x: np.maximum(x, -0.5), alpha=-0.5),
]


def binary(op: str, formula: Callable[..., Any], where: Callable[[Array], Any] = lambda v: True) -> Rule:
    """With another value that broadcasts, or with a constant that has some of the axes."""

    def rule(pick: Pick) -> Step:
        x = pick.value()
        shape = pick.values[x].shape
        if pick.one(True, True, False):
            return step(op, formula, x=x, y=pick.value(lambda v: where(v) and broadcasts(v.shape, shape)))
        constant = pick.constant(
            [pick.one(n, 1) if fixed(n) else 1 for n in shape[pick.rng.integers(0, len(shape) + 1) :]]
        )
        if op == "real_div":  # which coremltools makes a product with the reciprocal, rounded to float32
            constant = np.exp2(np.rint(constant))
        return step(op, lambda v: formula(v, constant.astype(v.dtype)), {"y": constant}, x=x)

    return rule


def broadcasts(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(a == b or 1 in (a, b) for a, b in zip(one[::-1], other[::-1], strict=False))


def select(pick: Pick) -> Step:
    """The condition is a comparison of an input, which has the same answer in every precision."""
    cond = pick.value(inputs_only=True)
    a, b = (pick.value(lambda v: v.shape == pick.values[cond].shape) for _ in range(2))
    return Step(
        f"select(cond=greater(x={cond}, y=0.25), a={a}, b={b})",
        (cond, a, b),
        lambda builder, c, a, b: builder.select(cond=builder.greater(x=c, y=np.float32(0.25)), a=a, b=b),
        lambda c, a, b: np.where(c > 0.25, a, b),
    )


BINARY: list[Rule] = [
    binary("add", np.add),
    binary("sub", np.subtract),
    binary("mul", np.multiply),
    binary("maximum", np.maximum),
    binary("minimum", np.minimum),
    binary("real_div", np.divide, away_from_zero),
    select,
]

# ------------------------------------------------------------------ reductions and normalisations


def reduction(op: str, formula: Callable[..., Any]) -> Rule:
    def rule(pick: Pick) -> Step:
        x = pick.value(lambda v: v.ndim)
        axes, keep = pick.axes(pick.values[x]), pick.one(True, False)
        return step(op, lambda v: formula(v, axis=tuple(axes), keepdims=keep), {"axes": axes, "keep_dims": keep}, x=x)

    return rule


def log_sum_exp(v: Array, **given: Any) -> Array:
    return np.log(np.sum(np.exp(v), **given))


def softmax(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim)
    axis = pick.axis(pick.values[x])
    return step("softmax", lambda v: np.exp(v) / np.exp(v).sum(axis, keepdims=True), {"axis": axis}, x=x)


def layer_norm(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim > 1 and v.shape[-1] > 2 and fixed(v.shape[-1]))
    gamma, beta = (pick.constant(pick.values[x].shape[-1:]) for _ in range(2))

    def formula(v: Array) -> Array:
        centred = v - v.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 2**-6) * gamma + beta

    return step("layer_norm", formula, {"axes": [-1], "gamma": gamma, "beta": beta, "epsilon": 2**-6}, x=x)


def cumsum(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim)
    axis = pick.one(-1, int(pick.rng.integers(0, pick.values[x].ndim)))  # coremltools takes no other negative one
    backwards, exclusive = pick.one(True, False), pick.one(True, False)

    def formula(v: Array) -> Array:
        v = np.flip(v, axis) if backwards else v
        total = np.cumsum(v, axis) - (v if exclusive else 0)
        return np.flip(total, axis) if backwards else total

    return step("cumsum", formula, {"axis": axis, "reverse": backwards, "exclusive": exclusive}, x=x)


REDUCTIONS: list[Rule] = [
    reduction("reduce_sum", np.sum),
    reduction("reduce_mean", np.mean),
    reduction("reduce_max", np.max),
    reduction("reduce_min", np.min),
    reduction("reduce_l1_norm", lambda v, **given: np.sum(np.abs(v), **given)),
    reduction("reduce_l2_norm", lambda v, **given: np.sqrt(np.sum(v * v, **given))),
    reduction("reduce_sum_square", lambda v, **given: np.sum(v * v, **given)),
    reduction("reduce_log_sum_exp", log_sum_exp),
    softmax,
    layer_norm,
    cumsum,
]

# ------------------------------------------------------------------ products


def linear(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim in (1, 2, 3) and fixed(v.shape[-1]))
    weight, bias = pick.constant((pick.one(1, 2, 5), pick.values[x].shape[-1])), pick.constant((1,))
    bias = np.repeat(bias, weight.shape[0])
    return step("linear", lambda v: v @ weight.T + bias, {"weight": weight, "bias": bias}, x=x)


def matmul(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim > 1)
    return step("matmul", lambda a, b: a @ b.swapaxes(-1, -2), {"transpose_y": True}, x=x, y=x)


def matmul_with_constant(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim > 1 and fixed(v.shape[-2]))
    y = pick.constant((pick.values[x].shape[-2], 3))
    return step("matmul", lambda v: v.swapaxes(-1, -2) @ y, {"y": y, "transpose_x": True}, x=x)


def conv(pick: Pick) -> Step:
    """Over one or two spatial axes, with groups, strides, dilations and padding."""
    x = pick.value(lambda v: v.ndim in (3, 4) and all(map(fixed, v.shape)))
    channels, *spatial = pick.values[x].shape[1:]
    rank, groups = len(spatial), channels if pick.one(True, False) else 1
    kernel = [pick.one(1, 2, 3) for _ in spatial]
    strides, dilations = [pick.one(1, 2) for _ in spatial], [pick.one(1, 2) for _ in spatial]
    pad = [pick.one(0, 1, 2) for _ in range(2 * rank)]
    weight = pick.constant((2 * groups, channels // groups, *kernel))

    def formula(v: Array) -> Array:
        v = np.pad(v, [(0, 0), (0, 0), *zip(pad[::2], pad[1::2], strict=True)])
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        if any(n < r for n, r in zip(v.shape[2:], reach, strict=True)):
            return np.empty(0)
        windows = sliding_window_view(v, reach, tuple(range(2, 2 + rank)))
        steps = (slice(None, None, s) for s in strides), (slice(None, None, d) for d in dilations)
        windows = windows[(slice(None), slice(None), *steps[0], *steps[1])]  # [N, C, …out, …kernel]
        parts = np.split(windows, groups, 1), np.split(weight, groups)
        axes = [[1, *range(2 + rank, 2 + 2 * rank)], [1, *range(2, 2 + rank)]]
        sums = [np.tensordot(w, k.astype(v.dtype), axes) for w, k in zip(*parts, strict=True)]
        return np.moveaxis(np.concatenate(sums, -1), -1, 1)

    given = {"weight": weight, "strides": strides, "dilations": dilations, "pad": pad, "pad_type": "custom"}
    return step("conv", formula, given | {"groups": groups}, x=x)


def pool(op: str, function: Callable[..., Any]) -> Rule:
    def rule(pick: Pick) -> Step:
        x = pick.value(lambda v: v.ndim in (3, 4) and min(v.shape[2:]) > 1 and all(map(fixed, v.shape)))
        rank = pick.values[x].ndim - 2
        kernel, strides = [pick.one(1, 2) for _ in range(rank)], [pick.one(1, 2) for _ in range(rank)]
        steps = (slice(None), slice(None), *(slice(None, None, s) for s in strides))

        def formula(v: Array) -> Array:
            windows = sliding_window_view(v, kernel, tuple(range(2, 2 + rank)))[steps]
            return function(windows, axis=tuple(range(2 + rank, 2 + 2 * rank)))

        return step(op, formula, {"kernel_sizes": kernel, "strides": strides, "pad_type": "valid"}, x=x)

    return rule


def prelu(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim == 4 and fixed(v.shape[1]))
    alpha = pick.constant(pick.values[x].shape[1:2])
    return step("prelu", lambda v: np.where(v > 0, v, alpha[:, None, None] * v), {"alpha": alpha}, x=x)


PRODUCTS: list[Rule] = [linear, matmul, matmul_with_constant]
IMAGES: list[Rule] = [conv, conv, pool("max_pool", np.max), pool("avg_pool", np.mean), prelu]

# ------------------------------------------------------------------ control flow


def cond(pick: Pick) -> Step:
    """Decided by an input, so every precision takes the same branch."""
    decides, x = pick.value(lambda v: v.ndim, inputs_only=True), pick.value()
    limit = float(pick.one(-4, 1, 2, 4))

    def build(builder: Any, given: Any, v: Any) -> Any:
        largest = builder.reduce_max(x=given, axes=list(range(given.rank)), keep_dims=False)
        return builder.cond(
            pred=builder.greater(x=largest, y=np.float32(limit)),
            _true_fn=lambda: builder.mul(x=v, y=np.float32(0.5)),
            _false_fn=lambda: builder.tanh(x=v),
        )

    return Step(
        f"cond(max({decides}) > {limit}, 0.5·{x}, tanh({x}))",
        (decides, x),
        build,
        lambda d, v: v * 0.5 if d.max() > limit else np.tanh(v),
    )


def while_loop(pick: Pick) -> Step:
    x, times = pick.value(lambda v: v.ndim), pick.one(0, 1, 3)

    def build(builder: Any, v: Any) -> Any:
        return builder.while_loop(
            _cond=lambda i, y: builder.less(x=i, y=np.int32(times)),
            _body=lambda i, y: (builder.add(x=i, y=np.int32(1)), builder.sin(x=builder.add(x=y, y=v))),
            loop_vars=(np.int32(0), v),
        )[1]

    def formula(v: Array) -> Array:
        y = v
        for _ in range(times):
            y = np.sin(y + v)
        return y

    return Step(f"while_loop({times} times sin(y + {x}))", (x,), build, formula)


CONTROL: list[Rule] = [cond, while_loop]

ANY_LENGTH = [*UNARY, *BINARY * 3, *REDUCTIONS, *PRODUCTS * 2, *MOVEMENTS * 2, *CONTROL]
"""Rules that hold for axes of any length; several times over where few rules stand beside many."""
RULES = [*ANY_LENGTH, *CUTS * 2, *IMAGES * 2]
