"""Recurrent layers against torch's, whose gates stand in another order, and against the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff import mil, quiet
from layerdiff.mil.ops import recurrent

with quiet.third_party():
    import coremltools  # noqa: F401
    from coremltools.converters.mil import Builder as mb

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


# ------------------------------------------------------------------ the definitions, step by step in float64

CASES = settings(max_examples=60, deadline=None, derandomize=True)
HELD = pytest.mark.parametrize("held", [torch.float32, torch.float64])
FORMULAS = {
    "linear": lambda v: v,
    "relu": lambda v: np.maximum(v, 0),
    "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    "hard_sigmoid": lambda v: np.minimum(np.maximum(0.2 * v + 0.5, 0), 1),
    "sigmoid_hard": lambda v: np.minimum(np.maximum(0.2 * v + 0.5, 0), 1),
    "tanh": np.tanh,
    "scaled_tanh": lambda v: 1.0 * np.tanh(1.0 * v),
}
ACTIVATION = st.sampled_from([*FORMULAS, "TANH"])


def formula(name):
    return FORMULAS[name.lower()]


def rnn_steps(x, h, w, *, activation):
    states = []
    for v in x:
        h = formula(activation)(v @ w["weight_ih"].T + h @ w["weight_hh"].T + w.get("bias", 0))
        states.append(h)
    return np.stack(states), h


def gru_steps(x, h, w, *, recurrent_activation, activation, reset_after):
    gate, act, size = formula(recurrent_activation), formula(activation), h.shape[-1]
    (i_r, i_o, i_z), (h_r, h_o, h_z) = (w[name].reshape(3, size, -1) for name in ("weight_ih", "weight_hh"))
    (b_r, b_o, b_z), (a_r, a_o, a_z) = (
        w.get(name, np.zeros(3 * size)).reshape(3, size) for name in ("bias", "input_bias")
    )
    states = []
    for v in x:
        r, z = gate(v @ i_r.T + a_r + h @ h_r.T + b_r), gate(v @ i_z.T + a_z + h @ h_z.T + b_z)
        inner = r * (h @ h_o.T + b_o) if reset_after else (r * h) @ h_o.T + b_o
        h = (1 - z) * act(v @ i_o.T + a_o + inner) + z * h
        states.append(h)
    return np.stack(states), h


def lstm_steps(x, h, c, w, *, recurrent_activation, cell_activation, activation, clip):
    gate, size, states = formula(recurrent_activation), h.shape[-1], []
    p_i, p_f, p_o = w.get("peephole", np.zeros(3 * size)).reshape(3, size)
    for v in x:
        i, f, o, z = np.split(v @ w["weight_ih"].T + h @ w["weight_hh"].T + w.get("bias", 0), 4, -1)
        c = gate(f + p_f * c) * c + gate(i + p_i * c) * formula(cell_activation)(z)
        c = c if clip is None else np.clip(c, -clip, clip)
        h = gate(o + p_o * c) * formula(activation)(c)
        states.append(h)
    return np.stack(states), h, c


@st.composite
def layers(draw, gates, optional, directions=1):
    """An input, initial states, and the weights of each direction, without some of the optional ones."""
    steps, batch, inputs, size = (draw(st.integers(1, 4)) for _ in range(4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = {"weight_ih": (gates * size, inputs), "weight_hh": (gates * size, size)}
    shapes |= {name: (n * size,) for name, n in optional.items() if draw(st.booleans())}
    weights = [{name: 0.5 * rng.standard_normal(shape) for name, shape in shapes.items()} for _ in range(directions)]
    return rng.standard_normal((steps, batch, inputs)), rng.standard_normal((2, batch, directions * size)), weights


def tensors(held, **arrays):
    return {name: torch.from_numpy(np.ascontiguousarray(a)).to(held) for name, a in arrays.items()}


def check(results, expected, *, given_, before, held, output_sequence):
    states, *last = expected
    final = last[0][None]
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if held == torch.float64 else {"rtol": 2e-5, "atol": 2e-5}
    for result, value in zip(results, [states if output_sequence else final, *last], strict=True):
        assert result.dtype == held
        np.testing.assert_allclose(result, value, **tolerance)
    memory = {t.untyped_storage().data_ptr() for t in (*results, *given_.values())}
    assert len(memory) == len(results) + len(given_), "results are rounded in place"
    assert all(torch.equal(before[name], given_[name]) for name in given_)


@HELD
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@given(layers(1, {"bias": 1}), ACTIVATION, st.booleans())
@CASES
def test_rnn_is_its_formula(held, direction, layer, activation, output_sequence):
    x, (h, _), (w,) = layer
    given_ = tensors(held, x=x, initial_h=h, **w)
    before = {name: t.clone() for name, t in given_.items()}
    kwargs = {"direction": direction, "output_sequence": output_sequence, "activation": activation}
    results = recurrent.rnn(**given_, **kwargs)
    expected = rnn_steps(x[::-1] if direction == "reverse" else x, h, w, activation=activation)
    check(results, expected, given_=given_, before=before, held=held, output_sequence=output_sequence)


@HELD
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("reset_after", [False, True])
@given(layers(3, {"bias": 3, "input_bias": 3}), ACTIVATION, ACTIVATION, st.booleans())
@CASES
def test_gru_is_its_formula(held, direction, reset_after, layer, gate, activation, output_sequence):
    x, (h, _), (w,) = layer
    given_ = tensors(held, x=x, initial_h=h, **w)
    before = {name: t.clone() for name, t in given_.items()}
    acts = {"recurrent_activation": gate, "activation": activation, "reset_after": reset_after}
    results = recurrent.gru(**given_, **acts, direction=direction, output_sequence=output_sequence)
    expected = gru_steps(x[::-1] if direction == "reverse" else x, h, w, **acts)
    check(results, expected, given_=given_, before=before, held=held, output_sequence=output_sequence)


@HELD
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@given(st.data(), ACTIVATION, ACTIVATION, ACTIVATION, st.none() | st.floats(0.1, 1), st.booleans())
@CASES
def test_lstm_is_its_formula(held, direction, data, gate, cell, activation, clip, output_sequence):
    directions = 2 if direction == "bidirectional" else 1
    x, (h, c), weights = data.draw(layers(4, {"bias": 4, "peephole": 3}, directions))
    named = weights[0] | {f"{name}_back": w for name, w in weights[-1].items() if directions == 2}
    given_ = tensors(held, x=x, initial_h=h, initial_c=c, **named)
    before = {name: t.clone() for name, t in given_.items()}
    acts = {"recurrent_activation": gate, "cell_activation": cell, "activation": activation, "clip": clip}
    results = recurrent.lstm(**given_, **acts, direction=direction, output_sequence=output_sequence)
    parts = []
    for i, (w, h_, c_) in enumerate(zip(weights, *(np.split(s, directions, -1) for s in (h, c)), strict=True)):
        backwards = i == 1 or direction == "reverse"
        states, last_h, last_c = lstm_steps(x[::-1] if backwards else x, h_, c_, w, **acts)
        parts.append((states[::-1] if i == 1 else states, last_h, last_c))
    expected = [np.concatenate(part, -1) for part in zip(*parts, strict=True)]
    check(results, expected, given_=given_, before=before, held=held, output_sequence=output_sequence)


def test_rows_of_initial_states_beyond_the_batch_are_ignored():
    """coremltools converts the initial zeros of a packed sequence with as many rows as there are steps."""
    names = {"weight_ih": (4 * H, N_IN), "weight_hh": (4 * H, H), "initial_h": (B + 2, H), "initial_c": (B + 2, H)}
    given_ = {name: torch.randn(shape) for name, shape in names.items()} | {"x": torch.randn(S, B, N_IN)}
    exact = given_ | {name: given_[name][:B] for name in ("initial_h", "initial_c")}
    for results in zip(recurrent.lstm(**given_), recurrent.lstm(**exact), strict=True):
        assert torch.equal(*results)
        assert results[0].shape[-2:] == (B, H)


def test_a_bidirectional_lstm_without_its_second_weights_is_refused():
    with pytest.raises(ValueError, match="needs weight_ih_back"):
        recurrent.lstm(
            **tensors(torch.float32, x=np.ones((1, 1, 1)), initial_h=np.ones((1, 2)), initial_c=np.ones((1, 2))),
            **tensors(torch.float32, weight_ih=np.ones((4, 1)), weight_hh=np.ones((4, 1))),
            direction="bidirectional",
        )


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_in_a_program(build, kind, precision):
    rng = np.random.default_rng(5)
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[kind]
    w = {"weight_ih": (gates * H, N_IN), "weight_hh": (gates * H, H), "bias": (gates * H,)}
    w = {name: (0.5 * rng.standard_normal(shape)).astype(precision) for name, shape in w.items()}
    names = {"x": (S, B, N_IN), "initial_h": (B, H)} | ({"initial_c": (B, H)} if kind == "lstm" else {})
    feed = {name: rng.standard_normal(shape).astype(precision) for name, shape in names.items()}
    extra = {"gru": {"reset_after": True, "input_bias": w["bias"]}, "lstm": {"clip": np.dtype(precision).type(0.5)}}

    def layer(**inputs):
        return getattr(mb, kind)(**inputs, **w, **extra.get(kind, {}), output_sequence=True)

    def function_rnn(x, initial_h):
        return layer(x=x, initial_h=initial_h)

    def function_lstm(x, initial_h, initial_c):
        return layer(x=x, initial_h=initial_h, initial_c=initial_c)

    function = function_lstm if kind == "lstm" else function_rnn
    model = mil.load(build(function, opset="iOS18", precision=precision, **feed))
    assert kind in {t.op for t in model.tensors}
    wide = {name: a.astype(np.float64) for name, a in (feed | w).items()}
    common = {"activation": "tanh"} | ({} if kind == "rnn" else {"recurrent_activation": "sigmoid"})
    steps = {"rnn": rnn_steps, "gru": gru_steps, "lstm": lstm_steps}[kind]
    special = {
        "gru": {"reset_after": True},
        "lstm": {"cell_activation": "tanh", "clip": 0.5},
    }.get(kind, {})
    weights_ = wide | ({"input_bias": wide["bias"]} if kind == "gru" else {})
    expected = steps(wide["x"], *(wide[n] for n in names if n != "x"), weights_, **common, **special)
    results = model.predict(feed)
    assert len(results) == len(expected)
    tolerance = 1e-5 if precision == "float32" else 2**-11
    for value in expected:
        assert any(r.shape == value.shape and np.allclose(r, value, tolerance, tolerance) for r in results.values())
