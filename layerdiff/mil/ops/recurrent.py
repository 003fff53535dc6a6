"""Recurrent layers over [S, B, I]; gate order i f o z for lstm, r o z for gru.

The input projection of all steps is one product, and every step adds the product with its hidden state to it
in place. States stay in the dtype of computation between steps. `reverse` returns the sequence in the order of
processing; in `bidirectional` both halves are aligned in time.
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
    """`h = activation(W_ih x + W_hh h + b)`.

    Args:
        x: float*[S, B, I].
        initial_h: float*[B, H].
        weight_ih: float*[H, I].
        weight_hh: float*[H, H].
        bias: float*[H]; 0 if None.
        direction: `forward` or `reverse`.
        output_sequence: whether the first result holds every step, or the last only.
        activation: a key of `ACTIVATIONS`.

    Returns:
        float*[S or 1, B, H], and float*[B, H] after the last step.
    """
    act, recurrent, h = _activation(activation), weight_hh.T, initial_h
    gates = _projected(x, weight_ih, bias, direction)
    states = gates.new_empty(gates.shape)
    for step, state in zip(gates, states, strict=True):
        h = state.copy_(act(step.addmm_(h, recurrent)))
    return _results(states, h, output_sequence)


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

    iOS18 adds `reset_after` (r multiplies W_ho h + b_o instead) and an own bias for the inputs. With the former
    it is torch's gru; the form without it is the one of the original paper.

    Args:
        x: float*[S, B, I].
        initial_h: float*[B, H].
        weight_ih: float*[3H, I]; rows of r, o, z.
        weight_hh: float*[3H, H]; likewise.
        bias: float*[3H]; 0 if None.
        direction: `forward` or `reverse`.
        output_sequence: whether the first result holds every step, or the last only.
        recurrent_activation: of r and z, a key of `ACTIVATIONS`.
        activation: of o, likewise.
        reset_after: whether r is applied after the product with W_ho.
        input_bias: float*[3H]; 0 if None.

    Returns:
        float*[S or 1, B, H], and float*[B, H] after the last step.
    """
    gate, act = _activation(recurrent_activation), _activation(activation)
    w_r, w_o, w_z = weight_hh.chunk(3)
    b_r, b_o, b_z = (weight_hh.new_zeros(len(weight_hh)) if bias is None else bias).chunk(3)
    w_rz, b_rz, w_o = torch.cat([w_r, w_z]).T, torch.cat([b_r, b_z]), w_o.T
    gates = _projected(x, weight_ih, input_bias, direction)
    h, states = initial_h, gates.new_empty(*x.shape[:2], initial_h.shape[-1])
    for step, state in zip(gates, states, strict=True):
        x_r, x_o, x_z = step.chunk(3, -1)
        r, z = gate(torch.addmm(b_rz, h, w_rz).add_(torch.cat([x_r, x_z], -1))).chunk(2, -1)
        hidden = torch.addmm(b_o, h, w_o).mul_(r) if reset_after else torch.addmm(b_o, r * h, w_o)
        h = torch.addcmul((1 - z) * act(hidden.add_(x_o)), z, h, out=state)
    return _results(states, h, output_sequence)


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
    """`c = f c + i z`, `h = o activation(c)` with the gates `i f o z` of `W_ih x + W_hh h + b`.

    A peephole adds `p_i c` and `p_f c` of the cell before, and `p_o c` of the new one. `clip` bounds the cell
    state to [-clip, clip], before the output gate sees it.

    Args:
        x: float*[S, B, I].
        initial_h: float*[B, D·H], where D is 2 in both directions at once and else 1; further rows are ignored.
        initial_c: float*[B, D·H].
        weight_ih: float*[4H, I]; rows of i, f, o, z.
        weight_hh: float*[4H, H]; likewise.
        bias: float*[4H]; 0 if None.
        peephole: float*[3H] for i, f, o; 0 if None.
        weight_ih_back: the weights of the second direction, used in `bidirectional` only; so the next three.
        weight_hh_back: likewise.
        bias_back: likewise.
        peephole_back: likewise.
        direction: `forward`, `reverse` or `bidirectional`.
        output_sequence: whether the first result holds every step, or the last of each direction only.
        recurrent_activation: of i, f and o, a key of `ACTIVATIONS`.
        cell_activation: of z, likewise.
        activation: of c, likewise.
        clip: the bound of the cell state; None for no bound.

    Returns:
        float*[S or 1, B, D·H], and float*[B, D·H] hidden and cell state after the last step of each direction.
    """
    acts = (recurrent_activation, cell_activation, activation)
    forward = (weight_ih, weight_hh, bias, peephole)
    if direction != "bidirectional":
        states, h, c = _lstm(x, initial_h, initial_c, forward, acts, direction, clip)
        return *_results(states, h, output_sequence), c
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("a bidirectional lstm needs weight_ih_back and weight_hh_back")
    backward = (weight_ih_back, weight_hh_back, bias_back, peephole_back)
    (h0, h1), (c0, c1) = initial_h.chunk(2, -1), initial_c.chunk(2, -1)
    states, h, c = _lstm(x, h0, c0, forward, acts, "forward", clip)
    back_states, back_h, back_c = _lstm(x, h1, c1, backward, acts, "reverse", clip)
    both = torch.cat([states, back_states.flip(0)], -1)
    return *_results(both, torch.cat([h, back_h], -1), output_sequence), torch.cat([c, back_c], -1)


def _lstm(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    activations: tuple[str, str, str],
    direction: str,
    clip: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """All hidden states in order of processing, the last one, and the last cell in memory of its own."""
    weight_ih, weight_hh, bias, peephole = weights
    gate, cell, act = map(_activation, activations)
    size, recurrent = h.shape[-1], weight_hh.T
    gates = _projected(x, weight_ih, bias, direction)
    # A packed sequence of torch is converted to initial zeros of S rows, of which Core ML takes those of the batch.
    states, h, c = gates.new_empty(*x.shape[:2], size), h[: x.shape[1]], c[: x.shape[1]].clone()
    for step, state in zip(gates, states, strict=True):
        step.addmm_(h, recurrent)
        if peephole is None:
            i, f, o = gate(step[:, : 3 * size]).chunk(3, -1)
        else:
            step[:, : 2 * size] += peephole[: 2 * size] * c.repeat(1, 2)
            i, f = gate(step[:, : 2 * size]).chunk(2, -1)
        c = (f * c).addcmul_(i, cell(step[:, 3 * size :]))
        if clip is not None:
            c.clamp_(-clip, clip)
        if peephole is not None:
            o = gate(step[:, 2 * size : 3 * size].addcmul_(peephole[2 * size :], c))
        h = torch.mul(o, act(c), out=state)
    return states, h, c


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    return ACTIVATIONS[name.lower()]


def _projected(x: Tensor, weight_ih: Tensor, bias: Tensor | None, direction: str) -> Tensor:
    """float*[S, B, gates]: the input's part of the gates, step by step in order of processing, to be written to."""
    projected = torch.nn.functional.linear(x, weight_ih, bias)
    return projected.flip(0) if direction == "reverse" else projected


def _results(states: Tensor, h: Tensor, output_sequence: bool) -> tuple[Tensor, Tensor]:
    """Every state, or the last in its place, and the last once more; each in memory of its own."""
    return states if output_sequence else h.unsqueeze(0).clone(), h.clone()
