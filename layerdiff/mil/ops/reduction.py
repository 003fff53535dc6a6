"""Reductions over axes: `axes` None means all of them, no axes at all means each element by itself.

Sums of float16 accumulate in float32. Integers are squared and summed in int64, and in float64 where the
formula leaves them, so that only the result can leave the declared dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from layerdiff.mil.ops.signature import Ints


def reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    """A kernel with the inputs `x`, `axes`, `keep_dims`; `function` gets the axes as a list that is not empty."""

    def kernel(*, x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
        dims = list(range(x.dim())) if axes is None else [axis % max(1, x.dim()) for axis in axes]
        # torch takes an empty list for all axes
        return function(x, dims, keep_dims) if x.dim() and dims else function(x.unsqueeze(-1), [-1], False)

    return kernel


def _real(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.double()


def _wide(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.long()


def _mean(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return torch.mean(_real(x), dims, keep)


def _sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """The sum; of pairs, as of real and imaginary part, one addition, for which torch's reduction is slow."""
    if len(dims) == 1 and x.is_floating_point() and x.shape[dims[0]] == 2:
        total = x.select(dims[0], 0) + x.select(dims[0], 1)
        return total.unsqueeze(dims[0]) if keep else total
    return torch.sum(x, dims, keep)


def _prod(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = torch.prod(x, dim, keep)
    return x


def _log_sum_exp(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(_real(x), dims, keep)


def _l2_norm(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return torch.sqrt(torch.sum(torch.square(_real(x)), dims, keep))


reduce_l1_norm = reduction(lambda x, dims, keep: torch.sum(torch.abs(_wide(x)), dims, keep))
reduce_l2_norm = reduction(_l2_norm)
reduce_log_sum = reduction(lambda x, dims, keep: torch.log(torch.sum(_real(x), dims, keep)))
reduce_log_sum_exp = reduction(_log_sum_exp)
reduce_max = reduction(torch.amax)
reduce_mean = reduction(_mean)
reduce_min = reduction(torch.amin)
reduce_prod = reduction(_prod)
reduce_sum = reduction(_sum)
reduce_sum_square = reduction(lambda x, dims, keep: torch.sum(torch.square(_wide(x)), dims, keep))


def reduce_argmax(*, x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Index of the largest element along `axis`; the first of several."""
    return torch.argmax(x, axis, keep_dims)


def reduce_argmin(*, x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Index of the smallest element along `axis`; the first of several."""
    return torch.argmin(x, axis, keep_dims)
