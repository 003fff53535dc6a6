"""The ops that the engine executes: MIL op type → kernel, family by family as coremltools names them.

`KERNELS` holds for every opset; `REDEFINED` holds the few ops whose meaning an opset changed. `EXACT` names
the ops whose results need no rounding. A kernel that is not in `EXACT` returns a new tensor, because the
engine rounds it in place; no kernel changes its inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layerdiff.errors import UnsupportedOpError, known_names
from layerdiff.mil.ops import (
    activation,
    classify,
    constexpr_ops,
    control_flow,
    conv,
    elementwise_binary,
    elementwise_unary,
    image_resizing,
    linear,
    normalization,
    pool,
    quantization_ops,
    random,
    recurrent,
    reduction,
    scatter_gather,
    tensor_operation,
    tensor_transformation,
    transformers,
)
from layerdiff.mil.ops.signature import Kernel, parameters_of

KERNELS: dict[str, Callable[..., Any]] = {
    # activation
    "clamped_relu": activation.clamped_relu,
    "elu": activation.elu,
    "gelu": activation.gelu,
    "leaky_relu": activation.leaky_relu,
    "linear_activation": activation.linear_activation,
    "prelu": activation.prelu,
    "relu": activation.relu,
    "relu6": activation.relu6,
    "scaled_tanh": activation.scaled_tanh,
    "sigmoid": activation.sigmoid,
    "sigmoid_hard": activation.sigmoid_hard,
    "silu": activation.silu,
    "softmax": activation.softmax,
    "softplus": activation.softplus,
    "softplus_parametric": activation.softplus_parametric,
    "softsign": activation.softsign,
    "thresholded_relu": activation.thresholded_relu,
    # constexpr_ops
    "constexpr_affine_dequantize": constexpr_ops.constexpr_affine_dequantize,
    "constexpr_blockwise_shift_scale": constexpr_ops.constexpr_blockwise_shift_scale,
    "constexpr_cast": constexpr_ops.constexpr_cast,
    "constexpr_lut_to_dense": constexpr_ops.constexpr_lut_to_dense,
    "constexpr_lut_to_sparse": constexpr_ops.constexpr_lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": constexpr_ops.constexpr_sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": constexpr_ops.constexpr_sparse_to_dense,
    # classify
    "classify": classify.classify,
    # control_flow
    "list_gather": control_flow.list_gather,
    "list_length": control_flow.list_length,
    "list_read": control_flow.list_read,
    "list_scatter": control_flow.list_scatter,
    "list_write": control_flow.list_write,
    "make_list": control_flow.make_list,
    "select": control_flow.select,
    # conv
    "conv": conv.conv,
    "conv_quantized": conv.conv_quantized,
    "conv_transpose": conv.conv_transpose,
    # elementwise_binary
    "add": elementwise_binary.add,
    "equal": elementwise_binary.equal,
    "floor_div": elementwise_binary.floor_div,
    "greater": elementwise_binary.greater,
    "greater_equal": elementwise_binary.greater_equal,
    "less": elementwise_binary.less,
    "less_equal": elementwise_binary.less_equal,
    "logical_and": elementwise_binary.logical_and,
    "logical_or": elementwise_binary.logical_or,
    "logical_xor": elementwise_binary.logical_xor,
    "maximum": elementwise_binary.maximum,
    "minimum": elementwise_binary.minimum,
    "mod": elementwise_binary.mod,
    "mul": elementwise_binary.mul,
    "not_equal": elementwise_binary.not_equal,
    "pow": elementwise_binary.pow_,
    "real_div": elementwise_binary.real_div,
    "sub": elementwise_binary.sub,
    # elementwise_unary
    "abs": elementwise_unary.abs_,
    "acos": elementwise_unary.acos,
    "asin": elementwise_unary.asin,
    "atan": elementwise_unary.atan,
    "atanh": elementwise_unary.atanh,
    "cast": elementwise_unary.cast,
    "ceil": elementwise_unary.ceil,
    "clip": elementwise_unary.clip,
    "cos": elementwise_unary.cos,
    "cosh": elementwise_unary.cosh,
    "erf": elementwise_unary.erf,
    "exp": elementwise_unary.exp,
    "exp2": elementwise_unary.exp2,
    "floor": elementwise_unary.floor,
    "inverse": elementwise_unary.inverse,
    "log": elementwise_unary.log,
    "logical_not": elementwise_unary.logical_not,
    "round": elementwise_unary.round_,
    "rsqrt": elementwise_unary.rsqrt,
    "sign": elementwise_unary.sign,
    "sin": elementwise_unary.sin,
    "sinh": elementwise_unary.sinh,
    "sqrt": elementwise_unary.sqrt,
    "square": elementwise_unary.square,
    "tan": elementwise_unary.tan,
    "tanh": elementwise_unary.tanh,
    "threshold": elementwise_unary.threshold,
    # image_resizing
    "affine": image_resizing.affine,
    "crop": image_resizing.crop,
    "crop_resize": image_resizing.crop_resize,
    "resample": image_resizing.resample,
    "resize": image_resizing.resize,
    "resize_bilinear": image_resizing.resize_bilinear,
    "resize_nearest_neighbor": image_resizing.resize_nearest_neighbor,
    "upsample_bilinear": image_resizing.upsample_bilinear,
    "upsample_nearest_neighbor": image_resizing.upsample_nearest_neighbor,
    # linear
    "einsum": linear.einsum,
    "linear": linear.linear,
    "matmul": linear.matmul,
    # normalization
    "batch_norm": normalization.batch_norm,
    "instance_norm": normalization.instance_norm,
    "l2_norm": normalization.l2_norm,
    "layer_norm": normalization.layer_norm,
    "local_response_norm": normalization.local_response_norm,
    # pool
    "avg_pool": pool.avg_pool,
    "l2_pool": pool.l2_pool,
    "max_pool": pool.max_pool,
    # quantization_ops
    "dequantize": quantization_ops.dequantize,
    "quantize": quantization_ops.quantize,
    # random
    "random_bernoulli": random.random_bernoulli,
    "random_categorical": random.random_categorical,
    "random_normal": random.random_normal,
    "random_uniform": random.random_uniform,
    # recurrent
    "gru": recurrent.gru,
    "lstm": recurrent.lstm,
    "rnn": recurrent.rnn,
    # reduction
    "reduce_argmax": reduction.reduce_argmax,
    "reduce_argmin": reduction.reduce_argmin,
    "reduce_l1_norm": reduction.reduce_l1_norm,
    "reduce_l2_norm": reduction.reduce_l2_norm,
    "reduce_log_sum": reduction.reduce_log_sum,
    "reduce_log_sum_exp": reduction.reduce_log_sum_exp,
    "reduce_max": reduction.reduce_max,
    "reduce_mean": reduction.reduce_mean,
    "reduce_min": reduction.reduce_min,
    "reduce_prod": reduction.reduce_prod,
    "reduce_sum": reduction.reduce_sum,
    "reduce_sum_square": reduction.reduce_sum_square,
    # scatter_gather
    "gather": scatter_gather.gather,
    "gather_along_axis": scatter_gather.gather_along_axis,
    "gather_nd": scatter_gather.gather_nd,
    "scatter": scatter_gather.scatter,
    "scatter_along_axis": scatter_gather.scatter_along_axis,
    "scatter_nd": scatter_gather.scatter_nd,
    # tensor_operation
    "argsort": tensor_operation.argsort,
    "band_part": tensor_operation.band_part,
    "concat": tensor_operation.concat,
    "cumsum": tensor_operation.cumsum,
    "fill": tensor_operation.fill,
    "fill_like": tensor_operation.fill_like,
    "flatten2d": tensor_operation.flatten2d,
    "identity": tensor_operation.identity,
    "non_maximum_suppression": tensor_operation.non_maximum_suppression,
    "non_zero": tensor_operation.non_zero,
    "one_hot": tensor_operation.one_hot,
    "pad": tensor_operation.pad,
    "range_1d": tensor_operation.range_1d,
    "shape": tensor_operation.shape,
    "split": tensor_operation.split,
    "stack": tensor_operation.stack,
    "tile": tensor_operation.tile,
    "topk": tensor_operation.topk,
    # tensor_transformation
    "batch_to_space": tensor_transformation.batch_to_space,
    "depth_to_space": tensor_transformation.depth_to_space,
    "expand_dims": tensor_transformation.expand_dims,
    "pixel_shuffle": tensor_transformation.pixel_shuffle,
    "pixel_unshuffle": tensor_transformation.pixel_unshuffle,
    "reshape": tensor_transformation.reshape,
    "reshape_like": tensor_transformation.reshape_like,
    "reverse": tensor_transformation.reverse,
    "reverse_sequence": tensor_transformation.reverse_sequence,
    "slice_by_index": tensor_transformation.slice_by_index,
    "slice_by_size": tensor_transformation.slice_by_size,
    "slice_update": tensor_transformation.slice_update,
    "sliding_windows": tensor_transformation.sliding_windows,
    "space_to_batch": tensor_transformation.space_to_batch,
    "space_to_depth": tensor_transformation.space_to_depth,
    "squeeze": tensor_transformation.squeeze,
    "transpose": tensor_transformation.transpose,
    # transformers
    "scaled_dot_product_attention": transformers.scaled_dot_product_attention,
}
"""Op type → the function that computes it."""

REDEFINED: dict[tuple[str, str], Callable[..., Any]] = {
    ("constexpr_lut_to_dense", "CoreML6"): constexpr_ops.constexpr_lut_to_dense_ios16,
    ("constexpr_lut_to_dense", "CoreML7"): constexpr_ops.constexpr_lut_to_dense_ios16,
    ("constexpr_sparse_to_dense", "CoreML6"): constexpr_ops.constexpr_sparse_to_dense_ios16,
    ("constexpr_sparse_to_dense", "CoreML7"): constexpr_ops.constexpr_sparse_to_dense_ios16,
    ("crop_resize", "CoreML5"): image_resizing.crop_resize_ios15,
    ("crop_resize", "CoreML6"): image_resizing.crop_resize_ios16,
    ("non_maximum_suppression", "CoreML5"): tensor_operation.non_maximum_suppression_ios15,
    ("non_maximum_suppression", "CoreML6"): tensor_operation.non_maximum_suppression_ios15,
    ("reshape", "CoreML5"): tensor_transformation.reshape_ios15,
    ("reshape", "CoreML6"): tensor_transformation.reshape_ios15,
}
"""(op type, opset) → the function, where the opset gives the op another meaning."""

# fmt: off
EXACT = frozenset({
    "classify", "list_gather", "list_length", "list_read", "list_scatter", "list_write", "make_list",
    "relu", "relu6", "thresholded_relu", "select", "equal", "greater", "greater_equal", "less", "less_equal",
    "logical_and", "logical_or", "logical_xor", "maximum", "minimum", "not_equal", "abs", "ceil", "clip",
    "floor", "logical_not", "round", "sign", "threshold", "max_pool", "random_bernoulli",
    "reduce_argmax", "reduce_argmin", "reduce_max", "reduce_min", "gather", "gather_along_axis", "gather_nd",
    "argsort", "band_part", "concat", "fill", "fill_like", "flatten2d", "identity", "non_zero", "one_hot",
    "pad", "shape", "split", "stack", "tile", "topk", "batch_to_space", "depth_to_space", "expand_dims",
    "pixel_shuffle", "pixel_unshuffle", "reshape", "reshape_like", "reverse", "reverse_sequence",
    "slice_by_index", "slice_by_size", "slice_update", "sliding_windows", "space_to_batch", "space_to_depth",
    "squeeze", "transpose",
    "constexpr_cast", "constexpr_lut_to_dense", "constexpr_lut_to_sparse", "constexpr_sparse_to_dense",
    "non_maximum_suppression", "quantize",
    "crop", "resize_nearest_neighbor", "upsample_nearest_neighbor",
})
# fmt: on
"""Ops whose results are values of their inputs, integers, or truth values."""


# fmt: off
WIDENED = frozenset({
    "argsort", "cumsum", "exp2", "linear", "matmul", "non_zero", "real_div", "reduce_argmax", "reduce_argmin",
    "reduce_l1_norm", "reduce_l2_norm", "reduce_log_sum", "reduce_log_sum_exp", "reduce_mean", "reduce_prod",
    "reduce_sum", "reduce_sum_square", "resize", "topk",
})
# fmt: on
"""Ops whose kernel may return int64 or float where an integer is declared; the engine brings it to that."""


def kernel_of(op_type: str, opset: str) -> Kernel:
    """The kernel of an op.

    Raises:
        UnsupportedOpError: the engine has none.
    """
    function = REDEFINED.get((op_type, opset)) or KERNELS.get(op_type)
    if function is None:
        raise UnsupportedOpError(
            f"the portable engine does not execute the op '{op_type}'.",
            detail=known_names("it executes", op_type, KERNELS),
        )
    return Kernel(function, parameters_of(function), exact=op_type in EXACT, widened=op_type in WIDENED)
