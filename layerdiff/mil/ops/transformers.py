"""Attention (iOS18)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def scaled_dot_product_attention(
    *, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """`softmax(query · keyᵀ / √E + mask) · value`, in the dtype of computation throughout.

    A boolean mask stands for 0 where it is true and -inf where it is false. A row that is masked as a whole is
    NaN, as the formula says, where torch returns zeros.

    Args:
        query: float*[B, *, L, E].
        key: float*[B, *, S, E].
        value: float*[B, *, S, EV].
        attn_mask: bool or float*, broadcastable to [B, *, L, S].

    Returns:
        float*[B, *, L, EV].
    """
    if attn_mask is None:
        return functional.scaled_dot_product_attention(query, key, value)
    result = functional.scaled_dot_product_attention(query, key, value, torch.atleast_2d(attn_mask))
    hidden = ~attn_mask if not attn_mask.is_floating_point() else attn_mask == -math.inf
    return result.masked_fill_(hidden.all(-1, keepdim=True), math.nan)
