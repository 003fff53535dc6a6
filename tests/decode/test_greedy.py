from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch

from layerdiff.decode.greedy import Emission, Path, decision, greedy_path, lattice
from layerdiff.records import Call

if TYPE_CHECKING:
    from layerdiff.records import Array
    from layerdiff.sources.nemo import NemoSource

CLIPS = sorted((FilePath(__file__).resolve().parents[2] / "audio").glob("*.wav"))
DURATIONS = (0, 1, 2, 3, 4)


def test_there_are_clips() -> None:
    assert len(CLIPS) >= 12


# ------------------------------------------------------------------ against NeMo


@contextmanager
def duration_zero_favoured(model: Any, amount: float) -> Iterator[None]:
    """The joint with a bias on duration 0, which never wins in the bundled model."""
    bias = model.joint.joint_net[-1].bias
    before = bias[-5].item()
    try:
        with torch.no_grad():
            bias[-5] += amount
        yield
    finally:
        with torch.no_grad():
            bias[-5] = before


def encode(reference: NemoSource, path: FilePath) -> Array:
    """float32[T, D]; the encoder's valid frames."""
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == reference.sample_rate_hz
    feed = {"audio_signal": samples[None], "audio_length": np.array([len(samples)], np.int32)}
    mel = reference.run(Call("preprocessor", feed), ()).outputs
    encoded = reference.run(Call("encoder", mel), ()).outputs
    return encoded["encoder"][0, :, : int(encoded["encoder_length"][0])].T.copy()


@pytest.fixture(scope="module")
def encoded(reference: NemoSource) -> dict[str, Array]:
    return {path.name: encode(reference, path) for path in CLIPS}


def ours(reference: NemoSource, frames: Array, *, max_symbols: int = 10) -> Path:
    return greedy_path(
        frames,
        predict=reference.predict_step,
        joint=reference.joint_step,
        blank=reference.blank,
        durations=reference.durations,
        frame_s=reference.frame_s,
        max_symbols=max_symbols,
    )


Emissions = list[tuple[int, int, int]]


def theirs(reference: NemoSource, frames: Array, *, strategy: str, max_symbols: int = 10) -> Emissions:
    """(token, frame, duration) of every token that NeMo's own decoding emits."""
    from nemo.collections.asr.parts.submodules import rnnt_greedy_decoding as decoding

    model = reference.model
    infer = {"greedy": decoding.GreedyTDTInfer, "greedy_batch": decoding.GreedyBatchedTDTInfer}[strategy](
        decoder_model=model.decoder,
        joint_model=model.joint,
        blank_index=reference.blank,
        durations=list(reference.durations),
        max_symbols_per_step=max_symbols,
        include_duration=True,
        **({"use_cuda_graph_decoder": False} if strategy == "greedy_batch" else {}),
    )
    with torch.no_grad():
        (hypotheses,) = infer(encoder_output=torch.tensor(frames.T[None]), encoded_lengths=torch.tensor([len(frames)]))
    found = hypotheses[0]
    columns = (found.y_sequence, found.timestamp, found.token_duration)
    return list(zip(*([int(value) for value in column] for column in columns), strict=True))


def emissions(path: Path) -> Emissions:
    return [(e.token, e.frame, e.duration) for e in path.emissions]


@pytest.mark.parametrize("strategy", ["greedy", "greedy_batch"])
def test_every_clip_is_decoded_as_nemo_does(reference: NemoSource, encoded: dict[str, Array], strategy: str) -> None:
    total = 0
    for name, frames in encoded.items():
        expected = theirs(reference, frames, strategy=strategy)
        assert emissions(ours(reference, frames)) == expected, name
        total += len(expected)
    assert total > 100


def test_the_transcripts_are_those_of_transcribe(reference: NemoSource, encoded: dict[str, Array]) -> None:
    for name, frames in list(encoded.items())[:3]:
        with torch.no_grad():
            hypothesis = reference.model.decoding.rnnt_decoder_predictions_tensor(
                encoder_output=torch.tensor(frames.T[None]), encoded_lengths=torch.tensor([len(frames)])
            )[0]
        assert reference.tokenizer.text(ours(reference, frames).tokens) == hypothesis.text, name


@pytest.mark.parametrize("max_symbols", [1, 2, 3, 10])
@pytest.mark.parametrize("amount", [5.0, 10.0, 15.0, 40.0])
def test_paths_with_duration_zero(
    reference: NemoSource, encoded: dict[str, Array], amount: float, max_symbols: int
) -> None:
    zeros = 0
    with duration_zero_favoured(reference.model, amount):
        for name, frames in encoded.items():
            path = ours(reference, frames[:40], max_symbols=max_symbols)
            batched = theirs(reference, frames[:40], strategy="greedy_batch", max_symbols=max_symbols)
            assert emissions(path) == batched, name
            zeros += sum(emission.duration == 0 for emission in path.emissions)
    assert zeros > 0


def test_nemos_unbatched_decoding_agrees_while_no_frame_reaches_the_limit(
    reference: NemoSource, encoded: dict[str, Array]
) -> None:
    compared = 0
    with duration_zero_favoured(reference.model, 5.0):
        for name, frames in encoded.items():
            path = ours(reference, frames)
            if np.bincount([emission.frame for emission in path.emissions]).max() < 9:
                compared += any(emission.duration == 0 for emission in path.emissions)
                assert emissions(path) == theirs(reference, frames, strategy="greedy"), name
    assert compared > 0


def test_at_the_limit_nemos_two_decodings_differ_and_ours_is_the_batched_one(
    reference: NemoSource, encoded: dict[str, Array]
) -> None:
    frames = next(iter(encoded.values()))
    batched = theirs(reference, frames, strategy="greedy_batch", max_symbols=1)
    assert emissions(ours(reference, frames, max_symbols=1)) == batched
    assert theirs(reference, frames, strategy="greedy", max_symbols=1) != batched


def test_the_points_are_those_at_which_nemo_evaluates_the_joint(
    reference: NemoSource, encoded: dict[str, Array]
) -> None:
    """A hook knows no (t, u), but the sum of the two projections, which the joint's network is fed, tells them."""
    frames = next(iter(encoded.values()))
    seen: list[bytes] = []
    model = reference.model

    def hook(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].numpy().tobytes())

    handle = model.joint.joint_net.register_forward_pre_hook(hook)
    try:
        theirs(reference, frames, strategy="greedy")
        by_nemo, seen = seen, []
        path = ours(reference, frames)
    finally:
        handle.remove()
    assert len(seen) == len(path.points)
    assert seen == by_nemo


# ------------------------------------------------------------------ against a naive decoder, on tables


class Table:
    """A transducer whose joint is a table of random logits over (frame, last token, number of tokens)."""

    def __init__(self, *, frames: int, tokens: int, durations: tuple[int, ...], seed: int, levels: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.frames = np.arange(frames, dtype=np.float32)[:, None]
        self.blank, self.durations = tokens, durations
        shape = (frames, tokens + 1, 7, tokens + 1 + len(durations))
        self.logits = generator.standard_normal(shape).astype(np.float32)
        if levels:  # few different values: many ties
            self.logits = np.round(self.logits * levels) / levels
        self.fed: list[int] = []

    def predict(self, token: int, state: int | None) -> tuple[Array, int]:
        self.fed.append(token)
        count = 0 if state is None else state + 1
        return np.array([token, count], np.float32), count

    def joint(self, frame: Array, prediction: Array) -> Array:
        return self.logits[int(frame[0]), int(prediction[0]), int(prediction[1]) % 7]

    def row(self, t: int, tokens: list[int]) -> Array:
        return self.logits[t, tokens[-1] if tokens else self.blank, len(tokens) % 7]


def naive(table: Table, max_symbols: int) -> tuple[list[tuple[int, int]], Emissions]:
    """Greedy decoding written from the definition: a list of (t, u), a list of emissions."""
    visited, emitted = [], []
    t, here = 0, 0
    while t < len(table.frames):
        tokens = [token for token, _, _ in emitted]
        row = table.row(t, tokens)
        visited.append((t, len(tokens)))
        split = table.blank + 1
        best = max(range(split), key=lambda k: row[k])
        if table.durations:
            duration = table.durations[max(range(len(table.durations)), key=lambda k: row[split + k])]
        else:
            duration = 1 if best == table.blank else 0
        if best != table.blank:
            emitted.append((best, t, duration))
            here += 1
        jump = duration
        if jump == 0 and (best == table.blank or here >= max_symbols):
            jump = 1
        if jump:
            here = 0
        t += jump
    return visited, emitted


def run(table: Table, max_symbols: int) -> Path:
    return greedy_path(
        table.frames,
        predict=table.predict,
        joint=table.joint,
        blank=table.blank,
        durations=table.durations,
        frame_s=0.08,
        max_symbols=max_symbols,
    )


@pytest.mark.parametrize("durations", [DURATIONS, (0, 1), (4, 0, 2), (1, 2), ()])
@pytest.mark.parametrize("max_symbols", [1, 3, 10])
def test_random_tables(durations: tuple[int, ...], max_symbols: int) -> None:
    zeros = blanks_with_zero = 0
    for seed in range(40):
        table = Table(frames=23, tokens=4, durations=durations, seed=seed, levels=2 * (seed % 2))
        path = run(table, max_symbols)
        visited, emitted = naive(table, max_symbols)
        assert list(zip(path.points.frames.tolist(), path.points.steps.tolist(), strict=True)) == visited
        assert emissions(path) == emitted
        tokens = [table.blank, *path.tokens][: visited[-1][1] + 1]
        assert path.points.tokens.tolist() == table.fed == tokens
        zeros += sum(duration == 0 for _, _, duration in emitted)
        for t, u in visited:
            chosen = decision(table.row(t, [e[0] for e in emitted[:u]]), durations=durations)
            blanks_with_zero += chosen.token == table.blank and chosen.duration == 0
    if 0 in durations:
        assert min(zeros, blanks_with_zero) > 0


def constant(token: int, duration: int) -> Any:
    row = np.zeros(4 + 5, np.float32)
    row[token] = row[4 + duration] = 1.0
    return lambda frame, prediction: row


@pytest.mark.parametrize(
    ("token", "duration", "max_symbols", "frames", "steps"),
    [
        (3, 0, 10, [0, 1, 2], [0, 0, 0]),  # blank with duration 0 moves on by 1
        (3, 2, 10, [0, 2], [0, 0]),
        (1, 0, 2, [0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 5]),  # two tokens per frame, then on
        (1, 2, 1, [0, 2], [0, 1]),  # a duration above 0 is not added to by the limit
        (1, 4, 10, [0], [0]),
    ],
)
def test_rules(token: int, duration: int, max_symbols: int, frames: list[int], steps: list[int]) -> None:
    path = greedy_path(
        np.zeros((3, 1), np.float32),
        predict=lambda token, state: (np.zeros(1, np.float32), None),
        joint=constant(token, duration),
        blank=3,
        durations=DURATIONS,
        frame_s=0.08,
        max_symbols=max_symbols,
    )
    assert path.points.frames.tolist() == frames
    assert path.points.steps.tolist() == steps
    assert path.points.is_path
    if token != 3:
        assert path.emissions == tuple(Emission(1, frame, duration) for frame in frames)


def test_no_frames() -> None:
    table = Table(frames=1, tokens=3, durations=DURATIONS, seed=0)
    table.frames = table.frames[:0]
    path = run(table, 10)
    assert (len(path.points), path.tokens, path.points.frames.dtype) == (0, (), np.int64)


def test_max_symbols_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        run(Table(frames=1, tokens=3, durations=DURATIONS, seed=0), 0)


# ------------------------------------------------------------------ lattice


def test_lattice() -> None:
    points = lattice(3, tokens=[9, 4], frame_s=0.08)
    pairs = list(zip(points.frames.tolist(), points.steps.tolist(), strict=True))
    assert pairs == [(t, u) for t in range(3) for u in range(2)]
    assert points.tokens.tolist() == [9, 4]
    assert (points.is_path, points.frame_s) == (False, 0.08)
