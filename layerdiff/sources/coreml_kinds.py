"""MIL op type → canonical kind of op (`layerdiff.outline.KINDS`)."""

from __future__ import annotations

from collections.abc import Mapping

_SAME_NAME = """
conv conv_transpose batch_norm layer_norm lstm gru rnn matmul add sub mul pow maximum minimum relu leaky_relu prelu elu
gelu silu sigmoid tanh softplus exp log sqrt rsqrt abs sin cos erf floor round square softmax topk cumsum linear
reshape transpose cast concat split pad gather stack
"""

KINDS: Mapping[str, str] = {
    **{name: name for name in _SAME_NAME.split()},
    "conv_quantized": "conv",
    "instance_norm": "group_norm",
    "einsum": "matmul",
    "scaled_dot_product_attention": "attention",
    "real_div": "div",
    "select": "where",
    "equal": "compare",
    "greater": "compare",
    "greater_equal": "compare",
    "less": "compare",
    "less_equal": "compare",
    "not_equal": "compare",
    "logical_and": "logical",
    "logical_not": "logical",
    "logical_or": "logical",
    "logical_xor": "logical",
    "relu6": "clamp",
    "clip": "clamp",
    "clamped_relu": "clamp",
    "sigmoid_hard": "hardsigmoid",
    "inverse": "reciprocal",
    "reduce_argmax": "argmax",
    "reduce_argmin": "argmin",
    "reduce_l2_norm": "norm",
    "reduce_log_sum_exp": "logsumexp",
    "reduce_max": "max",
    "reduce_mean": "mean",
    "reduce_min": "min",
    "reduce_prod": "prod",
    "reduce_sum": "sum",
    "argsort": "sort",
    "avg_pool": "pool",
    "l2_pool": "pool",
    "max_pool": "pool",
    "resize": "resize",
    "resize_bilinear": "resize",
    "resize_nearest_neighbor": "resize",
    "upsample_bilinear": "resize",
    "upsample_nearest_neighbor": "resize",
    # movement
    "expand_dims": "reshape",
    "squeeze": "reshape",
    "flatten2d": "reshape",
    "reshape_like": "reshape",
    "pixel_shuffle": "reshape",
    "pixel_unshuffle": "reshape",
    "space_to_depth": "reshape",
    "depth_to_space": "reshape",
    "identity": "cast",
    "quantize": "other",
    "dequantize": "other",
    "tile": "repeat",
    "fill_like": "expand",
    "slice_by_index": "slice",
    "slice_by_size": "slice",
    "band_part": "where",
    "gather_along_axis": "gather",
    "gather_nd": "gather",
    "scatter": "scatter",
    "scatter_along_axis": "scatter",
    "scatter_nd": "scatter",
    "slice_update": "scatter",
    "reverse": "flip",
    "reverse_sequence": "flip",
}
"""Ops that are not listed are of the kind `other`."""

ROLES: Mapping[tuple[str, str], str] = {
    ("batch_norm", "gamma"): "weight",
    ("batch_norm", "beta"): "bias",
    ("batch_norm", "mean"): "running_mean",
    ("batch_norm", "variance"): "running_var",
    ("layer_norm", "gamma"): "weight",
    ("layer_norm", "beta"): "bias",
    ("group_norm", "gamma"): "weight",
    ("group_norm", "beta"): "bias",
    ("embedding", "x"): "weight",
    ("linear", "x"): "weight",
    ("linear", "y"): "weight",
}
"""(kind, input of the op) → torch's name of that weight; others keep the input's name."""
