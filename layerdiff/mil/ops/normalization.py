"""Normalisation; means and variances are formed in the dtype of computation (float32 for float16)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from layerdiff.mil.ops.signature import Ints


def batch_norm(
    *,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """`gamma * (x - mean) / sqrt(variance + epsilon) + beta`, per channel (axis 1)."""
    return functional.batch_norm(x, mean, variance, gamma, beta, training=False, eps=epsilon)


def instance_norm(
    *, x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """As `batch_norm`, with mean and biased variance of each channel of each example."""
    axes = tuple(range(2, x.dim()))
    return _normalise(x, axes, epsilon, _per_channel(gamma, x), _per_channel(beta, x))


def layer_norm(
    *,
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """`gamma * (x - E[x]) / sqrt(Var[x] + epsilon) + beta` over `axes`, with the biased variance."""
    rank = x.dim()
    kept = sorted({axis % rank for axis in axes} if axes is not None else range(rank))
    normalised = [x.shape[axis] for axis in kept]
    if kept == list(range(rank - len(kept), rank)):
        return functional.layer_norm(x, normalised, gamma, beta, epsilon)
    shape = [size if axis in kept else 1 for axis, size in enumerate(x.shape)]
    gamma, beta = (None if p is None else p.reshape(shape) for p in (gamma, beta))
    return _normalise(x, tuple(kept), epsilon, gamma, beta)


def l2_norm(*, x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """`x / sqrt(sum(x²) + epsilon)` over the last three axes."""
    return x / torch.sqrt(x.square().sum(dim=(-3, -2, -1), keepdim=True) + epsilon)


def local_response_norm(*, x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """`x / (k + alpha / size * sum(x² over size neighbouring channels)) ** beta`; rank 3 is [C, H, W]."""
    if x.dim() == 3:
        return local_response_norm(x=x.unsqueeze(0), size=size, alpha=alpha, beta=beta, k=k).squeeze(0)
    return functional.local_response_norm(x, size, alpha, beta, k)


def _normalise(x: Tensor, axes: tuple[int, ...], epsilon: float, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    variance, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
    result = (x - mean) * torch.rsqrt(variance + epsilon)
    result = result if gamma is None else result * gamma
    return result if beta is None else result + beta


def _per_channel(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.reshape(-1, *[1] * (x.dim() - 2))
