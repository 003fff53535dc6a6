"""Random tensors. A non-negative seed gives the same values at every call; -1 gives new ones.

Only the distribution is specified: the values are not those of another implementation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layerdiff.mil.memory import require_elements
from layerdiff.mil.ops.signature import Ints, Out


def random_bernoulli(*, shape: Ints, out: Out, prob: float = 0.5, seed: int = -1) -> Tensor:
    """1 with probability `prob`, else 0."""
    require_elements(shape, torch.float32)
    return (torch.rand(shape, generator=_generator(seed)) < prob).to(out.held)


def random_categorical(*, x: Tensor, out: Out, mode: str = "logits", size: int = 1, seed: int = -1) -> Tensor:
    """`size` class indices per row, drawn from logits or probabilities along the last axis.

    The draw is made in float64, so that a seed gives the same classes under every precision policy.
    """
    weights = torch.softmax(x.double(), -1) if mode == "logits" else x.double()
    rows = weights.reshape(-1, x.shape[-1])
    drawn = torch.multinomial(rows, size, replacement=True, generator=_generator(seed))
    return drawn.reshape(*x.shape[:-1], size).to(out.held)


def random_normal(*, shape: Ints, out: Out, mean: float = 0.0, stddev: float = 1.0, seed: int = -1) -> Tensor:
    """Normal distribution."""
    require_elements(shape, out.held)
    return torch.randn(shape, generator=_generator(seed)).to(out.held) * stddev + mean


def random_uniform(*, shape: Ints, out: Out, low: float = 0.0, high: float = 1.0, seed: int = -1) -> Tensor:
    """Uniform distribution over [low, high), also after rounding to the declared dtype."""
    require_elements(shape, out.held)
    values = torch.rand(shape, generator=_generator(seed)).to(out.held) * (high - low) + low
    ends = torch.tensor([high, low], dtype=getattr(torch, out.dtype))
    return values.clamp_(max=torch.nextafter(*ends).item())


def _generator(seed: int) -> torch.Generator | None:
    return None if seed < 0 else torch.Generator().manual_seed(seed)
