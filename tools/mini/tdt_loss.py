"""The token-and-duration transducer (TDT) loss in plain PyTorch, for machines without CUDA.

Neither TDT loss of NeMo runs on a CPU. This one walks the lattice of (frame t, labels emitted u) one
anti-diagonal n = t + u at a time, every cell of a diagonal at once; autograd does the backward pass.

Source: Xu et al., "Efficient Sequence Transduction by Jointly Predicting Tokens and Durations", ICML 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IMPOSSIBLE = -1e4
"""The log-probability of a cell that no path reaches: finite, so that gradients stay finite."""


def tdt_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    frames: Tensor,
    target_lengths: Tensor,
    durations: Sequence[int],
    sigma: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of `targets`, per utterance, in nats.

    -log(sum over alignments of prod of p(token | t, u) * p(duration | t, u)). A label moves (t, u) to
    (t + d, u + 1) with any d, the blank to (t + d, u) with d > 0; an alignment ends with a blank that
    leaves (t, U) for the frame behind the last.

    Args:
        logits: float*[B, T, U+1, V+1+D]; not normalised: V labels, the blank, D durations.
        targets: int64[B, U]; labels below V; anything behind an utterance's own length.
        frames: int64[B]; frames of each utterance, at most T.
        target_lengths: int64[B]; labels of each utterance, at most U.
        durations: the D durations in frames, in the order of the logits.
        sigma: is taken from every token log-probability (the logit under-normalisation of the paper).

    Returns:
        float*[B]; around 1e4 where no alignment exists.

    O(B * (T + U) * U * D) time and memory.
    """
    blank_arcs, label_arcs = _arcs(logits, targets, n_durations=len(durations), sigma=sigma)
    reached = _reached(blank_arcs, label_arcs, durations=durations)
    utterance = torch.arange(len(logits))
    endings = []
    for index, duration in enumerate(durations):
        t = frames - duration
        if duration > 0:
            last = t.clamp(min=0), target_lengths
            path = reached[utterance, last[0] + last[1], last[1]] + blank_arcs[utterance, *last, index]
            endings.append(torch.where(t >= 0, path, IMPOSSIBLE))
    return -torch.logsumexp(torch.stack(endings), 0)


def _arcs(logits: Tensor, targets: Tensor, *, n_durations: int, sigma: float) -> tuple[Tensor, Tensor]:
    """float*[B, T, U+1, D] each: log-probability of the blank, and of the next label, with each duration."""
    batch, n_frames, n_steps, _ = logits.shape
    tokens = logits[..., :-n_durations].log_softmax(-1) - sigma
    by_duration = logits[..., -n_durations:].log_softmax(-1)
    labels = torch.cat([targets, targets.new_zeros(batch, 1)], 1)  # nothing follows the last label: column unused
    labels = labels[:, None, :, None].expand(batch, n_frames, n_steps, 1)
    return tokens[..., -1:] + by_duration, tokens.gather(-1, labels) + by_duration


def _reached(blank_arcs: Tensor, label_arcs: Tensor, *, durations: Sequence[int]) -> Tensor:
    """float*[B, T+U, U+1]: log of the summed probability of all ways to (t = n - u, u), by diagonal n."""
    batch, n_frames, n_steps, _ = blank_arcs.shape
    diagonal, u = torch.arange(n_frames + n_steps - 1)[:, None], torch.arange(n_steps)[None, :]
    t = diagonal - u
    inside = (t >= 0) & (t < n_frames)
    blanks = blank_arcs[:, t.clamp(0, n_frames - 1), u]  # [B, T+U, U+1, D]
    labels = label_arcs[:, t.clamp(0, n_frames - 1), u]
    nowhere = blanks.new_full((batch, n_steps), IMPOSSIBLE)
    start = nowhere.clone()
    start[:, 0] = 0.0
    cells = [start]
    for n in range(1, len(diagonal)):
        ways = [nowhere]
        for index, duration in enumerate(durations):
            if 0 < duration <= n:
                ways.append(cells[n - duration] + blanks[:, n - duration, :, index])
            if duration < n:
                before = cells[n - duration - 1] + labels[:, n - duration - 1, :, index]
                ways.append(torch.cat([nowhere[:, :1], before[:, :-1]], 1))
        cells.append(torch.where(inside[n], torch.logsumexp(torch.stack(ways), 0), nowhere))
    return torch.stack(cells, 1)
