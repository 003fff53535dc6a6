"""Activation functions; formulas as in coremltools' op definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from layerdiff.mil.ops.elementwise_unary import unary

relu = unary(torch.relu)
sigmoid = unary(torch.sigmoid)
silu = unary(functional.silu)
softsign = unary(functional.softsign)


def _gaussian(x: Tensor) -> Tensor:
    """`x * P(X ≤ x)` of the normal distribution; torch's float32 `gelu` makes inf NaN and is 1e-6 off below -4."""
    return x.mul(-math.sqrt(0.5)).erfc_().mul_(x).mul_(0.5)


GELU: dict[str, Callable[[Tensor], Tensor]] = {
    "EXACT": _gaussian,
    "TANH_APPROXIMATION": lambda x: functional.gelu(x, approximate="tanh"),
    "SIGMOID_APPROXIMATION": lambda x: x * torch.sigmoid(1.702 * x),
}
"""Mode of `gelu` → its formula."""


def clamped_relu(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    """`min(x, beta)` for x ≥ 0, else `min(alpha * x, beta)`."""
    return torch.where(x >= 0, x, alpha * x).clamp(max=beta)


def elu(*, x: Tensor, alpha: float) -> Tensor:
    """`x` for x > 0, else `alpha * (exp(x) - 1)`."""
    return functional.elu(x, alpha)


def gelu(*, x: Tensor, mode: str = "EXACT") -> Tensor:
    """Gaussian error linear unit, exact or one of two approximations."""
    return GELU[mode](x)


def leaky_relu(*, x: Tensor, alpha: float) -> Tensor:
    """`x` for x ≥ 0, else `alpha * x`."""
    return functional.leaky_relu(x, alpha)


def linear_activation(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    """`alpha * x + beta`."""
    return alpha * x + beta


def prelu(*, x: Tensor, alpha: Tensor) -> Tensor:
    """`x` for x > 0, else `alpha[channel] * x`; the channels are axis 1."""
    return x.clamp(min=0) + x.clamp(max=0) * _per_channel(alpha, x)


def relu6(*, x: Tensor) -> Tensor:
    """`min(max(x, 0), 6)`."""
    return x.clamp(0, 6)


def scaled_tanh(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    """`alpha * tanh(beta * x)`."""
    return alpha * torch.tanh(beta * x)


def sigmoid_hard(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    """`min(max(alpha * x + beta, 0), 1)`."""
    return (alpha * x + beta).clamp(0, 1)


def softplus(*, x: Tensor) -> Tensor:
    """`ln(1 + exp(x))` without overflow; torch's own turns linear beyond 20."""
    return torch.logaddexp(x, torch.zeros_like(x))


def softplus_parametric(*, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`alpha[channel] * ln(1 + exp(beta[channel] * x))`; the channels are axis 1."""
    return _per_channel(alpha, x) * softplus(x=x * _per_channel(beta, x))


def softmax(*, x: Tensor, axis: int = -1) -> Tensor:
    """`exp(x - max) / sum(exp(x - max))` along `axis`."""
    return torch.softmax(x, axis)


def thresholded_relu(*, x: Tensor, alpha: float) -> Tensor:
    """`x` for x ≥ alpha, else 0."""
    return torch.where(x >= alpha, x, 0)


def _per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """[C] → [C, 1, …], so that it broadcasts against axis 1 of `x`."""
    return parameter.reshape(-1, *[1] * (x.dim() - 2))
