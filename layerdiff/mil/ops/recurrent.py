"""Recurrent layers over [S, B, I]; gate order i f o z for lstm, r o z for gru.

The input projection of all steps is one product; states stay in the dtype of computation between steps.
`reverse` returns the sequence in the order of processing; in `bidirectional` both halves are aligned in time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "sigmoid_hard": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "tanh": torch.tanh,
    "scaled_tanh": torch.tanh,
}
"""Activations of the gates; those with parameters have their defaults, which makes scaled_tanh plain tanh."""


def rnn(
    *,
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """`h = activation(W_ih x + W_hh h + b)`."""
    act, h, sequence = ACTIVATIONS[activation.lower()], initial_h, []
    for projected in _projected(x, weight_ih, bias, direction):
        h = act(projected + h @ weight_hh.T)
        sequence.append(h)
    return torch.stack(sequence if output_sequence else sequence[-1:]), h.clone()


def gru(
    *,
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`r, z = gates(W_ih x + W_hh h + b)`, `o = activation(W_io x + W_ho (r h) + b_o)`, `h = (1-z) o + z h`.

    iOS18 adds `reset_after` (r multiplies W_ho h + b_o instead) and an own bias for the inputs.
    """
    gate, act = ACTIVATIONS[recurrent_activation.lower()], ACTIVATIONS[activation.lower()]
    size = initial_h.shape[-1]
    b_r, b_o, b_z = (x.new_zeros(3 * size) if bias is None else bias).chunk(3)
    w_r, w_o, w_z = weight_hh.chunk(3)
    h, sequence = initial_h, []
    for projected in _projected(x, weight_ih, input_bias, direction):
        x_r, x_o, x_z = projected.chunk(3, -1)
        r, z = gate(x_r + h @ w_r.T + b_r), gate(x_z + h @ w_z.T + b_z)
        hidden = r * (h @ w_o.T + b_o) if reset_after else (r * h) @ w_o.T + b_o
        h = (1 - z) * act(x_o + hidden) + z * h
        sequence.append(h)
    return torch.stack(sequence if output_sequence else sequence[-1:]), h.clone()


def lstm(
    *,
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory; `clip` bounds the cell state, the output gate's peephole sees the new cell."""
    acts = (recurrent_activation, cell_activation, activation)
    forward = (weight_ih, weight_hh, bias, peephole)
    if direction != "bidirectional":
        states, h, c = _lstm(x, initial_h, initial_c, forward, acts, direction, clip)
        return states if output_sequence else h.unsqueeze(0), h.clone(), c
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("a bidirectional lstm needs weight_ih_back and weight_hh_back")
    backward = (weight_ih_back, weight_hh_back, bias_back, peephole_back)
    (h0, h1), (c0, c1) = initial_h.chunk(2, -1), initial_c.chunk(2, -1)
    states, h, c = _lstm(x, h0, c0, forward, acts, "forward", clip)
    back_states, back_h, back_c = _lstm(x, h1, c1, backward, acts, "reverse", clip)
    h, c = torch.cat([h, back_h], -1), torch.cat([c, back_c], -1)
    both = torch.cat([states, back_states.flip(0)], -1)
    return both if output_sequence else h.unsqueeze(0).clone(), h, c


def _lstm(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    activations: tuple[str, str, str],
    direction: str,
    clip: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """All hidden states in order of processing, the last one, and the last cell."""
    weight_ih, weight_hh, bias, peephole = weights
    gate, cell, act = (ACTIVATIONS[name.lower()] for name in activations)
    p_i, p_f, p_o = (0.0, 0.0, 0.0) if peephole is None else peephole.chunk(3)
    sequence = []
    for projected in _projected(x, weight_ih, bias, direction):
        i, f, o, z = (projected + h @ weight_hh.T).chunk(4, -1)
        c = gate(f + p_f * c) * c + gate(i + p_i * c) * cell(z)
        c = c if clip is None else c.clamp(-clip, clip)
        h = gate(o + p_o * c) * act(c)
        sequence.append(h)
    return torch.stack(sequence), h, c


def _projected(x: Tensor, weight_ih: Tensor, bias: Tensor | None, direction: str) -> tuple[Tensor, ...]:
    """The input's part of the gates, step by step in order of processing."""
    projected = torch.nn.functional.linear(x, weight_ih, bias)  # [S, B, gates]
    return (projected.flip(0) if direction == "reverse" else projected).unbind(0)
