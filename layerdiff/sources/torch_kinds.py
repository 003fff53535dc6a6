"""What kind of op an op of torch is, and which of its arguments are which weight.

The table names aten ops as they arrive under `torch.inference_mode()`, where composite ops (linear, lstm, layer_norm,
scaled_dot_product_attention, conv1d …) are still whole, and, since exported programs may hold these, the ops into which
they decompose. Names stand without namespace, overload and the underscore of in-place ops: `aten.relu_.default` is
`relu`. Where overloads of one op are of different kinds, `NAME.OVERLOAD` goes first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from layerdiff.outline import COMPUTING, WEIGHTED

AS_KIND = {
    "linear": "linear",
    "conv": "conv1d conv2d conv3d conv_tbc convolution _convolution mkldnn_convolution cudnn_convolution",
    "conv_transpose": "conv_transpose1d conv_transpose2d conv_transpose3d",
    "embedding": "embedding",
    "batch_norm": "batch_norm native_batch_norm cudnn_batch_norm _native_batch_norm_legit_no_training",
    "layer_norm": "layer_norm native_layer_norm",
    "group_norm": "group_norm native_group_norm instance_norm",
    "rms_norm": "rms_norm _fused_rms_norm",
    "lstm": "lstm lstm_cell",
    "gru": "gru gru_cell",
    "rnn": "rnn_tanh rnn_relu rnn_tanh_cell rnn_relu_cell",
    "matmul": "matmul mm bmm mv dot vdot inner addmm addmv addbmm baddbmm einsum tensordot linalg_matmul",
    "attention": "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention",
    "add": "add",
    "sub": "sub subtract rsub",
    "mul": "mul multiply",
    "div": "div divide true_divide floor_divide",
    "pow": "pow float_power",
    "maximum": "maximum max.other fmax",
    "minimum": "minimum min.other fmin",
    "where": "where masked_fill",
    "compare": "eq ne gt ge lt le greater greater_equal less less_equal not_equal isnan isinf isfinite isclose equal",
    "logical": "logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not __and__ "
    "__or__ __xor__ any all",
    "relu": "relu",
    "leaky_relu": "leaky_relu",
    "prelu": "prelu _prelu_kernel",
    "elu": "elu celu selu",
    "gelu": "gelu",
    "silu": "silu",
    "sigmoid": "sigmoid special_expit",
    "tanh": "tanh",
    "softplus": "softplus",
    "hardswish": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "clamp": "clamp clamp_min clamp_max clip hardtanh relu6",
    "exp": "exp",
    "log": "log",
    "sqrt": "sqrt",
    "rsqrt": "rsqrt",
    "abs": "abs absolute",
    "neg": "neg negative",
    "sin": "sin",
    "cos": "cos",
    "erf": "erf special_erf",
    "floor": "floor",
    "round": "round",
    "reciprocal": "reciprocal",
    "square": "square",
    "softmax": "softmax _softmax special_softmax",
    "log_softmax": "log_softmax _log_softmax special_log_softmax",
    "logsumexp": "logsumexp special_logsumexp",
    "mean": "mean",
    "sum": "sum",
    "max": "max amax",
    "min": "min amin",
    "prod": "prod",
    "norm": "norm linalg_norm linalg_vector_norm frobenius_norm",
    "argmax": "argmax",
    "argmin": "argmin",
    "topk": "topk",
    "cumsum": "cumsum",
    "sort": "sort argsort",
    "glu": "glu",
    "pool": "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool1d_with_indices avg_pool1d avg_pool2d "
    "avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d adaptive_max_pool1d "
    "adaptive_max_pool2d",
    "resize": "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
    "_upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa",
    "reshape": "reshape view _unsafe_view view_as reshape_as flatten unflatten squeeze unsqueeze ravel _reshape_alias",
    "transpose": "transpose permute t mT numpy_T swapaxes swapdims movedim moveaxis matrix_H adjoint",
    "cast": "to _to_copy type_as clone copy contiguous detach alias lift_fresh lift dropout feature_dropout "
    "alpha_dropout positive requires_grad resolve_conj resolve_neg",
    "expand": "expand expand_as broadcast_to broadcast_tensors _unsafe_expand",
    "slice": "slice select narrow diagonal unfold",
    "concat": "cat concat concatenate hstack vstack dstack",
    "split": "split split_with_sizes chunk unbind tensor_split hsplit vsplit unsafe_chunk unsafe_split",
    "pad": "pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d",
    "gather": "gather index index_select take take_along_dim masked_select",
    "scatter": "scatter scatter_add scatter_reduce index_put index_add index_copy index_fill masked_scatter "
    "slice_scatter select_scatter",
    "stack": "stack column_stack",
    "repeat": "repeat tile repeat_interleave",
    "flip": "flip fliplr flipud",
    "roll": "roll",
}  # fmt: skip
"""Kind → the ops of that kind; every other op is of the kind `other`."""

_KIND_OF = {name: kind for kind, names in AS_KIND.items() for name in names.split()}

SHAPE_ONLY = frozenset(
    {"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"}
    | {"zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like"}
)
"""Ops that take nothing but shape, dtype and device from their tensors: what they make is constant."""

OVERWRITING = frozenset({"copy", "fill", "zero", "normal", "uniform", "bernoulli", "exponential"})
"""In-place ops that don't read what they write to."""

SAME_STORAGE = frozenset(
    {"unsqueeze", "squeeze", "t", "transpose", "swapaxes", "swapdims", "detach", "requires_grad", "resize", "set"}
)
"""In-place ops that change how a tensor looks at its storage, and no value in it."""

MAY_RETURN_VIEWS = frozenset({"einsum"})
"""Computing ops whose result may be their argument, looked at in another way."""

_BIASES = {("addmm", "self"), ("addmv", "self"), ("addbmm", "self"), ("baddbmm", "self")}

_CELL_ROLES = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}

_BINARY_LINEAR = ("linear", "matmul")


@dataclass(frozen=True)
class OpSpec:
    """What is known of an op before it runs."""

    op: str
    """With its namespace: `aten.linear`."""
    name: str
    """Without namespace, overload and in-place underscore: `linear`."""
    kind: str
    arguments: tuple[str, ...]
    """The schema's names, in order."""
    written: frozenset[str]
    """The arguments that it writes to."""
    overwrites: bool
    """What was in the arguments that it writes to is not read."""
    writes_values: bool
    """False where an in-place op changes only how a storage is looked at."""
    fresh: bool
    """Its results never share storage with its arguments."""
    shape_only: bool
    composite: bool
    """It is made of other ops, for each of which torch dispatches again."""


@lru_cache(maxsize=4096)
def op_spec(func: Any) -> OpSpec:
    """The spec of an `OpOverload`, or of a higher-order operator, which has no schema."""
    schema = getattr(func, "_schema", None)
    if schema is None:
        name = func.name()
        return OpSpec(
            name, name, "other", (), frozenset(), False, False, fresh=False, shape_only=False, composite=False
        )
    namespace, _, base = schema.name.rpartition("::")
    written = frozenset(a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    in_place = base.endswith("_") and not base.endswith("__")
    name = base[:-1] if in_place else base
    kind = _KIND_OF.get(f"{name}.{schema.overload_name}") or _KIND_OF.get(name, "other")
    if namespace != "aten":
        kind = "other"
    return OpSpec(
        op=f"{namespace}.{base}",
        name=name,
        kind=kind,
        arguments=tuple(a.name for a in schema.arguments),
        written=written,
        overwrites=name in OVERWRITING or not in_place,
        writes_values=name not in SAME_STORAGE,
        fresh=not written and (kind in COMPUTING or kind in WEIGHTED) and name not in MAY_RETURN_VIEWS,
        shape_only=name in SHAPE_ONLY,
        composite=func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd),
    )


def kind_with(spec: OpSpec, roles: Collection[str], args: Sequence[Any]) -> str:
    """The kind of one use of an op.

    Args:
        roles: the roles that weights play in it, from `weight_roles`.
        args: its positional arguments.
    """
    if spec.kind in _BINARY_LINEAR:
        return "linear" if "weight" in roles else "matmul"
    if spec.kind == "embedding" and "weight" not in roles:
        return "gather"
    if spec.name in ("index", "index_select") and "weight" in roles:
        return "embedding"
    if spec.name in ("convolution", "_convolution") and len(args) > 6 and args[6]:
        return "conv_transpose"
    return spec.kind


def weight_roles(spec: OpSpec, places: Sequence[tuple[str, int]], args: Sequence[Any]) -> list[str]:
    """The roles of the weights of one use of an op, each only once.

    Args:
        places: for each weight the name of the argument and the position in it, 0 unless it is a list.
        args: the op's positional arguments.
    """
    plain = [_role(spec, argument, position, args) for argument, position in places]
    return [role if role not in plain[:i] else f"{role}_{plain[:i].count(role)}" for i, role in enumerate(plain)]


def _role(spec: OpSpec, argument: str, position: int, args: Sequence[Any]) -> str:
    if argument == "params":
        return _recurrent_roles(spec, args)[position]
    if spec.kind in ("lstm", "gru", "rnn"):
        return _CELL_ROLES.get(argument, argument)
    if spec.kind == "matmul":
        return "bias" if (spec.name, argument) in _BIASES else "weight"
    if spec.name in ("index", "index_select") and argument == "self":
        return "weight"
    return argument if position == 0 else f"{argument}_{position}"


def _recurrent_roles(spec: OpSpec, args: Sequence[Any]) -> list[str]:
    """torch's own names of a flat list of recurrent parameters: `weight_ih_l0`, …, `bias_hh_l1_reverse`."""
    given = dict(zip(spec.arguments, args, strict=False))
    directions = ("", "_reverse") if given["bidirectional"] else ("",)
    names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if given["has_biases"] else [])]
    if len(given["params"]) > len(names) * len(directions) * given["num_layers"]:
        names.append("weight_hr")
    layers = range(given["num_layers"])
    return [f"{name}_l{layer}{direction}" for layer in layers for direction in directions for name in names]
