"""Random tensors: moments, seeds."""

from __future__ import annotations

import pytest
import torch

from layerdiff.mil.ops import random
from layerdiff.mil.ops.signature import Out

F32, I32 = Out("y", "float32", torch.float32), Out("y", "int32", torch.int32)


@pytest.mark.parametrize(
    ("draw", "mean", "deviation"),
    [
        (lambda seed: random.random_uniform(shape=(40_000,), low=-1.0, high=3.0, seed=seed, out=F32), 1, 4 / 12**0.5),
        (lambda seed: random.random_normal(shape=(40_000,), mean=2.0, stddev=3.0, seed=seed, out=F32), 2, 3),
        (lambda seed: random.random_bernoulli(shape=(40_000,), prob=0.3, seed=seed, out=F32), 0.3, 0.21**0.5),
    ],
)
def test_random_tensors_have_their_moments_and_repeat_with_a_seed(draw, mean, deviation):
    values = draw(5)
    assert abs(values.mean().item() - mean) < 5 * deviation / 200
    assert abs(values.std().item() - deviation) < 0.03 * deviation
    assert torch.equal(values, draw(5))
    assert not torch.equal(values, draw(6))
    assert not torch.equal(draw(-1), draw(-1))


def test_categorical_draws_follow_logits_or_probabilities():
    probabilities = torch.tensor([[0.1, 0.6, 0.3]])
    for mode, x in (("probs", probabilities), ("logits", probabilities.log() + 2)):
        drawn = random.random_categorical(x=x, mode=mode, size=20_000, seed=1, out=I32)
        assert drawn.dtype == torch.int32
        shares = torch.bincount(drawn[0], minlength=3) / 20_000
        torch.testing.assert_close(shares, probabilities[0], atol=0.02, rtol=0)
