"""ONNX op type → canonical kind of op, and which of its inputs are which weight.

The default domain and ONNX Runtime's own `com.microsoft`; an op that is not listed is of the kind `other`.
"""

from __future__ import annotations

from collections.abc import Mapping

AS_KIND = {
    "linear": "MatMulNBits",
    "conv": "Conv ConvInteger QLinearConv FusedConv DeformConv",
    "conv_transpose": "ConvTranspose",
    "batch_norm": "BatchNormalization",
    "layer_norm": "LayerNormalization SkipLayerNormalization EmbedLayerNormalization",
    "group_norm": "GroupNormalization InstanceNormalization GroupNorm SkipGroupNorm",
    "rms_norm": "RMSNormalization SimplifiedLayerNormalization SkipSimplifiedLayerNormalization",
    "lstm": "LSTM",
    "gru": "GRU",
    "rnn": "RNN",
    "matmul": "MatMul Gemm Einsum MatMulInteger QLinearMatMul FusedMatMul FusedGemm",
    "attention": "Attention MultiHeadAttention GroupQueryAttention",
    "add": "Add Sum QLinearAdd",
    "sub": "Sub",
    "mul": "Mul QLinearMul",
    "div": "Div",
    "pow": "Pow",
    "maximum": "Max",
    "minimum": "Min",
    "where": "Where Trilu",
    "compare": "Equal Greater GreaterOrEqual Less LessOrEqual IsNaN IsInf",
    "logical": "And Or Xor Not BitwiseAnd BitwiseOr BitwiseXor BitwiseNot",
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "prelu": "PRelu",
    "elu": "Elu Celu Selu",
    "gelu": "Gelu FastGelu BiasGelu",
    "silu": "Swish",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "hardswish": "HardSwish",
    "hardsigmoid": "HardSigmoid",
    "clamp": "Clip",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "neg": "Neg",
    "sin": "Sin",
    "cos": "Cos",
    "erf": "Erf",
    "floor": "Floor",
    "round": "Round",
    "reciprocal": "Reciprocal",
    "softmax": "Softmax",
    "log_softmax": "LogSoftmax",
    "logsumexp": "ReduceLogSumExp",
    "mean": "ReduceMean Mean",
    "sum": "ReduceSum",
    "max": "ReduceMax",
    "min": "ReduceMin",
    "prod": "ReduceProd",
    "norm": "ReduceL1 ReduceL2",
    "argmax": "ArgMax",
    "argmin": "ArgMin",
    "topk": "TopK",
    "cumsum": "CumSum",
    "pool": "AveragePool MaxPool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool MaxRoiPool",
    "resize": "Resize Upsample",
    "reshape": "Reshape Flatten Squeeze Unsqueeze DepthToSpace SpaceToDepth",
    "transpose": "Transpose",
    "cast": "Cast CastLike Identity Dropout",
    "expand": "Expand",
    "slice": "Slice",
    "concat": "Concat ConcatFromSequence",
    "split": "Split",
    "pad": "Pad",
    "gather": "Gather GatherElements GatherND Compress",
    "scatter": "Scatter ScatterElements ScatterND TensorScatter",
    "repeat": "Tile",
    "flip": "ReverseSequence",
}
"""Kind → the ops of that kind. A product is `linear` if one of its factors is a weight, a Gather from a weight is an
`embedding`: what depends on the operands is decided in `kind_of`."""

KINDS: Mapping[str, str] = {op: kind for kind, ops in AS_KIND.items() for op in ops.split()}

DOMAINS = ("", "ai.onnx", "com.microsoft")
"""The domains whose ops the tables name."""

_RANDOM = "RandomNormal RandomUniform RandomNormalLike RandomUniformLike Multinomial Bernoulli"

RANDOM = frozenset(_RANDOM.split())
"""Ops whose results are not constant, whatever they read."""

_AFFINE = {1: "weight", 2: "bias"}
_RECURRENT = {1: "weight_ih", 2: "weight_hh", 3: "bias", 5: "initial_h"}
_FACTORS = {0: "weight", 1: "weight"}

ROLES: Mapping[str, Mapping[int, str]] = {
    "Conv": _AFFINE,
    "FusedConv": _AFFINE,
    "ConvTranspose": _AFFINE,
    "DeformConv": {1: "weight", 3: "bias"},
    "ConvInteger": {1: "weight"},
    "QLinearConv": {3: "weight"},
    "BatchNormalization": {**_AFFINE, 3: "running_mean", 4: "running_var"},
    "InstanceNormalization": _AFFINE,
    "GroupNormalization": _AFFINE,
    "GroupNorm": _AFFINE,
    "LayerNormalization": _AFFINE,
    "RMSNormalization": {1: "weight"},
    "SimplifiedLayerNormalization": {1: "weight"},
    "LSTM": {**_RECURRENT, 6: "initial_c", 7: "peephole"},
    "GRU": _RECURRENT,
    "RNN": _RECURRENT,
    "PRelu": {1: "weight"},
    "Gather": {0: "weight"},
    "Gemm": {**_FACTORS, 2: "bias"},
    "FusedGemm": {**_FACTORS, 2: "bias"},
    "MatMul": _FACTORS,
    "FusedMatMul": _FACTORS,
    "MatMulInteger": _FACTORS,
    "QLinearMatMul": {0: "weight", 3: "weight"},
    "Einsum": dict.fromkeys(range(8), "weight"),
    "Add": {0: "other", 1: "other"},
    "Mul": {0: "other", 1: "other"},
    "Resize": {},
    "Upsample": {},
    "MatMulNBits": {},
}
"""Op type → position of an input → the role of a weight there; elsewhere such an op takes no weights. The arrays of
recurrent ops are ONNX's own: gates in the order i o f c (LSTM) and z r h (GRU), both biases in one."""

_OPERANDS = {0: "self", 1: "other"}

SCALES: Mapping[tuple[str, int], tuple[int, int]] = {("QLinearConv", 3): (4, 0), ("QLinearMatMul", 3): (4, 1)}
"""Op type and position of a quantised weight → position of its scale, which its zero point follows, and the axis along
which the scale may vary."""


def kind_of(op: str, domain: str, *, weights: Mapping[str, str], constant: bool) -> str:
    """The canonical kind of an op.

    Args:
        op: its type.
        domain: the domain of its type.
        weights: its weights by role.
        constant: it depends on nothing that is fed.
    """
    if constant:
        return "constant"
    kind = KINDS.get(op, "other") if domain in DOMAINS else "other"
    if kind == "matmul" and "weight" in weights:
        return "linear"
    return "embedding" if op == "Gather" and "weight" in weights else kind


def role_of(op: str, position: int) -> str:
    """The role of a weight at this position; empty if what is constant there is no weight."""
    if op in ROLES:
        return ROLES[op].get(position, "")
    return _OPERANDS.get(position, f"input_{position}")
