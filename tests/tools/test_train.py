"""The parts of the training loop that need no model: batches, padding, schedule, score."""

from __future__ import annotations

import random

import pytest
import torch

from tools.mini import train
from tools.mini.evaluate import score


def example(frames: int, labels: int) -> train.Example:
    mel = torch.full((4, frames), float(frames)).half()
    return train.Example(mel, torch.arange(1, labels + 1), f"{frames} {labels}")


def test_padding_is_zeros_and_lengths_are_kept() -> None:
    batch = train.collated([example(3, 2), example(5, 1)])
    assert batch.mel.shape == (2, 4, 5)
    assert batch.mel.dtype == torch.float32
    assert batch.mel_lengths.tolist() == [3, 5]
    assert batch.mel[0, 0].tolist() == [3, 3, 3, 0, 0]
    assert batch.labels.tolist() == [[1, 2], [1, 0]]
    assert batch.label_lengths.tolist() == [2, 1]


def test_an_epoch_holds_every_example_once_in_batches_of_like_length() -> None:
    data = [example(frames, 1) for frames in range(10, 1010, 10)]
    batches = list(train.epoch(data, random.Random(0)))
    lengths = [length for batch in batches for length in batch.mel_lengths.tolist()]
    assert sorted(lengths) == [e.mel.shape[1] for e in data]
    assert [len(batch.mel) for batch in batches].count(train.BATCH_SIZE) == len(data) // train.BATCH_SIZE
    for batch in batches:
        spread = int(batch.mel_lengths.max() - batch.mel_lengths.min())
        assert spread <= 10 * train.BATCH_SIZE + 2 * train.LENGTH_JITTER


def test_epochs_differ_and_are_repeatable() -> None:
    data = [example(frames, 1) for frames in range(10, 1010, 10)]
    rng, same = random.Random(0), random.Random(0)
    first, second = ([batch.mel_lengths.tolist() for batch in train.epoch(data, rng)] for _ in range(2))
    assert first != second
    assert first == [batch.mel_lengths.tolist() for batch in train.epoch(data, same)]


def test_learning_rate_warms_up_and_ends_at_two_percent() -> None:
    peak, warmup = train.PEAK_LEARNING_RATE, train.WARMUP_STEPS
    assert train.learning_rate(step=0, progress=0.0) == pytest.approx(peak / warmup)
    assert train.learning_rate(step=warmup - 1, progress=0.0) == pytest.approx(peak)
    assert train.learning_rate(step=9 * warmup, progress=0.5) == pytest.approx(0.51 * peak)
    assert train.learning_rate(step=9 * warmup, progress=1.0) == pytest.approx(0.02 * peak)


def test_score_counts_words_and_exact_sentences() -> None:
    """One substitution, one deletion and one insertion in nine words."""
    found = score(
        reference=["one two three", "four five six", "stop the radio"],
        candidate=["one too three", "four five", "stop the radio now"],
    )
    assert (found.word_error_rate, found.exact, found.sentences) == (pytest.approx(3 / 9), 0, 3)
    assert str(score(reference=["one two"], candidate=["one two"])) == "0.0% WER, 1 of 1 sentences exact"
