"""Recurrent layers against torch's, whose gates stand in another order, and against the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerdiff.mil.ops import recurrent

S, B, N_IN, H = 4, 2, 3, 5


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def reordered(tensor, order):
    """The gates of torch, [i f g o] or [r z n], in MIL's order."""
    parts = tensor.chunk(len(order))
    return torch.cat([parts[i] for i in order])


def weights(layer, order, suffix=""):
    w_ih, w_hh, b_ih, b_hh = (
        reordered(getattr(layer, f"{name}_l0{suffix}").detach(), order)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    return {"weight_ih": w_ih, "weight_hh": w_hh, "bias": b_ih + b_hh}


@pytest.mark.parametrize("output_sequence", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_lstm(direction, output_sequence):
    layer = torch.nn.LSTM(N_IN, H).double()
    x, h, c = torch.randn(S, B, N_IN).double(), torch.randn(B, H).double(), torch.randn(B, H).double()
    with torch.no_grad():
        states, (last_h, last_c) = layer(x.flip(0) if direction == "reverse" else x, (h[None], c[None]))
    out, got_h, got_c = recurrent.lstm(
        x=x,
        initial_h=h,
        initial_c=c,
        **weights(layer, (0, 1, 3, 2)),
        direction=direction,
        output_sequence=output_sequence,
    )
    torch.testing.assert_close(out, states if output_sequence else states[-1:])
    torch.testing.assert_close(got_h, last_h[0])
    torch.testing.assert_close(got_c, last_c[0])


def test_bidirectional_lstm_is_aligned_in_time():
    layer = torch.nn.LSTM(N_IN, H, bidirectional=True).double()
    x, h, c = torch.randn(S, B, N_IN).double(), torch.randn(2, B, H).double(), torch.randn(2, B, H).double()
    with torch.no_grad():
        states, (last_h, last_c) = layer(x, (h, c))
    back = {f"{name}_back": value for name, value in weights(layer, (0, 1, 3, 2), "_reverse").items()}
    out, got_h, got_c = recurrent.lstm(
        x=x,
        initial_h=torch.cat([*h], -1),
        initial_c=torch.cat([*c], -1),
        **weights(layer, (0, 1, 3, 2)),
        **back,
        direction="bidirectional",
        output_sequence=True,
    )
    torch.testing.assert_close(out, states)
    torch.testing.assert_close(got_h, torch.cat([*last_h], -1))
    torch.testing.assert_close(got_c, torch.cat([*last_c], -1))


def test_lstm_with_peephole_clip_and_other_activations():
    rng = np.random.default_rng(0)
    x, h, c = rng.standard_normal((1, B, N_IN)), rng.standard_normal((B, H)), rng.standard_normal((B, H))
    w, u, b, p = (rng.standard_normal(s) for s in ((4 * H, N_IN), (4 * H, H), (4 * H,), (3 * H,)))
    i, f, o, z = np.split(x[0] @ w.T + h @ u.T + b, 4, -1)
    p_i, p_f, p_o = np.split(p, 3)
    gate = lambda v: np.clip(0.2 * v + 0.5, 0, 1)  # noqa: E731
    cell = np.clip(gate(f + p_f * c) * c + gate(i + p_i * c) * np.maximum(z, 0), -0.4, 0.4)
    hidden = gate(o + p_o * cell) * cell
    arrays = {"x": x, "initial_h": h, "initial_c": c, "weight_ih": w, "weight_hh": u, "bias": b, "peephole": p}
    out, got_h, got_c = recurrent.lstm(
        **{name: torch.from_numpy(a) for name, a in arrays.items()},
        recurrent_activation="hard_sigmoid",
        cell_activation="relu",
        activation="linear",
        clip=0.4,
    )
    np.testing.assert_allclose(got_c, cell)
    np.testing.assert_allclose(got_h, hidden)
    np.testing.assert_allclose(out[0], hidden)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_rnn(direction):
    layer = torch.nn.RNN(N_IN, H).double()
    x, h = torch.randn(S, B, N_IN).double(), torch.randn(B, H).double()
    with torch.no_grad():
        states, last = layer(x.flip(0) if direction == "reverse" else x, h[None])
    out, got = recurrent.rnn(x=x, initial_h=h, **weights(layer, (0,)), direction=direction, output_sequence=True)
    torch.testing.assert_close(out, states)
    torch.testing.assert_close(got, last[0])


def test_gru_with_the_reset_gate_after_the_product_is_torchs():
    layer = torch.nn.GRU(N_IN, H).double()
    x, h = torch.randn(S, B, N_IN).double(), torch.randn(B, H).double()
    with torch.no_grad():
        states, last = layer(x, h[None])
    order = (0, 2, 1)  # r z n → r o z
    out, got = recurrent.gru(
        x=x,
        initial_h=h,
        weight_ih=reordered(layer.weight_ih_l0.detach(), order),
        weight_hh=reordered(layer.weight_hh_l0.detach(), order),
        bias=reordered(layer.bias_hh_l0.detach(), order),
        input_bias=reordered(layer.bias_ih_l0.detach(), order),
        reset_after=True,
        output_sequence=True,
    )
    torch.testing.assert_close(out, states)
    torch.testing.assert_close(got, last[0])


def test_gru_by_its_formula():
    rng = np.random.default_rng(0)
    x, h = rng.standard_normal((1, B, N_IN)), rng.standard_normal((B, H))
    w, u, b = rng.standard_normal((3 * H, N_IN)), rng.standard_normal((3 * H, H)), rng.standard_normal(3 * H)
    (w_r, w_o, w_z), (u_r, u_o, u_z), (b_r, b_o, b_z) = (np.split(a, 3) for a in (w, u, b))
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    r, z = sigmoid(x[0] @ w_r.T + h @ u_r.T + b_r), sigmoid(x[0] @ w_z.T + h @ u_z.T + b_z)
    expected = (1 - z) * np.tanh(x[0] @ w_o.T + (r * h) @ u_o.T + b_o) + z * h
    arrays = {"x": x, "initial_h": h, "weight_ih": w, "weight_hh": u, "bias": b}
    out, got = recurrent.gru(**{name: torch.from_numpy(a) for name, a in arrays.items()})
    np.testing.assert_allclose(got, expected)
    np.testing.assert_allclose(out[0], expected)


def test_scaled_tanh_inside_a_layer_is_tanh():
    x = torch.randn(5).double()
    assert torch.equal(recurrent.ACTIVATIONS["scaled_tanh"](x), recurrent.ACTIVATIONS["tanh"](x))
