"""Calls split for packages of every declared shape give the rows that one big batch gives.

The packages are stood in for by their declared shapes and by the joint's own formula in NumPy; the same
through real packages is in tests/run.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from layerdiff.errors import ConfigError, FeedError
from layerdiff.records import Call, Points
from layerdiff.sources.coreml_calls import admits, pad_to_declared, run_call, runs_of_equal

RNG = np.random.default_rng(0)
W_ENC, W_DEC, W_OUT = RNG.normal(size=(6, 4)), RNG.normal(size=(5, 4)), RNG.normal(size=(4, 9))


def package(**shapes: Any) -> Any:
    inputs = {name: SimpleNamespace(shape=shape, optional=False) for name, shape in shapes.items()}
    tensors = [SimpleNamespace(name="state", shape=(2, 1, 3))]
    return SimpleNamespace(
        inputs=inputs, outputs={"enc_proj": None, "dec_proj": None, "logits": None}, tensors=tensors, path="joint"
    )


def joint(feed: Any, fetch: Any, inject: Any) -> dict[str, np.ndarray]:
    f, g = feed["encoder"].transpose(0, 2, 1) @ W_ENC, feed["decoder"].transpose(0, 2, 1) @ W_DEC
    hidden = np.maximum(f[:, :, None] + g[:, None], 0)
    return {"enc_proj": f, "dec_proj": g, "logits": hidden @ W_OUT}


def joint_call(steps: list[int]) -> Call:
    frames = RNG.normal(size=(len(steps), 6, 1))
    decoder = RNG.normal(size=(max(steps) + 1, 5, 1))[steps]
    points = Points(np.arange(len(steps)), np.array(steps), np.zeros(max(steps) + 1, np.int64), 0.08)
    return Call("joint", {"encoder": frames, "decoder": decoder}, points=points)


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        pytest.param((1, 6, 1), (1, 5, 1), id="single step"),
        pytest.param((1, 6, 12), (1, 5, 1), id="fixed window"),
        pytest.param((1, 6, (1, 50)), (1, 5, (1, 50)), id="flexible frames"),
        pytest.param(((1, None), 6, 1), ((1, None), 5, 1), id="flexible batch"),
    ],
)
@pytest.mark.parametrize("steps", [[0, 0, 0, 1, 2, 2], [0]], ids=["six points", "one point"])
def test_every_declared_shape_gives_the_same_rows(encoder: Any, decoder: Any, steps: list[int]) -> None:
    call = joint_call(steps)
    expected = joint(call.feed, (), {})
    model = package(encoder=encoder, decoder=decoder)

    def predict(feed: Any, fetch: Any, inject: Any) -> dict[str, np.ndarray]:
        for name, declared in model.inputs.items():
            assert all(map(admits, declared.shape, feed[name].shape)), f"{name} {feed[name].shape}"
        return joint(feed, fetch, inject)

    captured = run_call(call, ["enc_proj", "dec_proj"], model=model, predict=predict)
    for name, value in {**captured.outputs, **captured.tensors}.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12)


@pytest.mark.parametrize("frames", [1, 12, (1, 50)], ids=["single step", "fixed window", "flexible frames"])
def test_injected_rows_reach_the_frames_of_their_points(frames: Any) -> None:
    """Given twice the projections that it would compute, the joint answers as if it had computed them."""
    model = package(encoder=(1, 6, frames), decoder=(1, 5, 1))
    width = frames if isinstance(frames, int) else None
    model.tensors = [SimpleNamespace(name=name, shape=(1, n, 4)) for name, n in (("enc_proj", width), ("dec_proj", 1))]
    call = joint_call([0, 0, 0, 1, 2, 2])
    plain = joint(call.feed, (), {})
    given = {name: 2 * plain[name] for name in ("enc_proj", "dec_proj")}

    def predict(feed: Any, fetch: Any, inject: Any) -> dict[str, np.ndarray]:
        assert inject["enc_proj"].shape[1] == feed["encoder"].shape[2]
        assert inject["dec_proj"].shape == (1, 1, 4)
        hidden = np.maximum(inject["enc_proj"][:, :, None] + inject["dec_proj"][:, None], 0)
        return {"logits": hidden @ W_OUT}

    captured = run_call(call, ["logits"], model=model, predict=predict, inject=given)
    np.testing.assert_allclose(captured.tensors["logits"], 2 * plain["logits"], rtol=1e-12)


def test_a_joint_of_another_rank_is_refused() -> None:
    with pytest.raises(FeedError, match="not of rank 3"):
        run_call(joint_call([0]), [], model=package(encoder=(1, 6), decoder=(1, 5)), predict=joint)


def test_an_input_that_the_component_does_not_get_is_refused() -> None:
    with pytest.raises(ConfigError, match="an input 'mel' that a joint does not get"):
        run_call(joint_call([0]), [], model=package(mel=(1, 2)), predict=joint)


def test_shorter_audio_is_padded_and_said_so() -> None:
    model = package(audio_signal=(1, 10), audio_length=(1,))
    feed, note = pad_to_declared({"audio_signal": np.ones((1, 4)), "audio_length": np.array([4])}, model)
    assert feed["audio_signal"].tolist() == [[1] * 4 + [0] * 6]
    assert note == "audio_signal padded from 4 to 10 along axis 1"


def test_audio_beyond_the_window_is_refused() -> None:
    with pytest.raises(FeedError, match="expected at most 3, got 4"):
        pad_to_declared({"audio_signal": np.ones((1, 4))}, package(audio_signal=(1, (1, 3))))


def test_chained_steps_carry_the_packages_own_states() -> None:
    def count(feed: Any, fetch: Any, inject: Any) -> dict[str, np.ndarray]:
        return {"h_out": feed["h_in"] + 1, "c_out": feed["c_in"] + feed["targets"], "decoder": feed["h_in"][:1]}

    model = package(targets=(1, 1), target_length=(1,), h_in=(2, 1, 3), c_in=(2, 1, 3))
    model.outputs = {"decoder": None, "h_out": None, "c_out": None}
    feed = {
        "targets": np.array([[5], [6], [7]]),
        "target_length": np.ones(3),
        "h_in": np.zeros((3, 2, 1, 3)),
        "c_in": np.zeros((3, 2, 1, 3)),
    }
    chained = run_call(Call("decoder", feed, chained=True), [], model=model, predict=count).outputs
    assert chained["h_out"][:, 0, 0, 0].tolist() == [1, 2, 3]
    assert chained["c_out"][:, 0, 0, 0].tolist() == [5, 11, 18]
    assert chained["decoder"].shape == (3, 1, 3)
    given = run_call(Call("decoder", feed), [], model=model, predict=count).outputs
    assert given["h_out"][:, 0, 0, 0].tolist() == [1, 1, 1]


def test_runs_of_equal_are_cut_at_the_longest() -> None:
    assert [(r.start, r.stop) for r in runs_of_equal([0, 0, 0, 1, 1, 2], longest=2)] == [(0, 2), (2, 3), (3, 5), (5, 6)]


def test_admits_reads_declared_dimensions() -> None:
    assert admits(3, 3)
    assert not admits(3, 2)
    assert admits((1, None), 99)
    assert not admits((2, 5), 6)
