"""Random tensors: their distributions, within what chance allows, and their seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from layerdiff.mil.ops import random
from layerdiff.mil.ops.signature import Out

N = 40_000
SIGMAS = 5
"""Statistics may be this many standard deviations off; all seeds are fixed, so the tests never flicker."""


def normal_cdf(x):
    return 0.5 * np.vectorize(math.erfc)(-x / math.sqrt(2))


DISTRIBUTIONS = {
    "standard uniform": ("random_uniform", {}, lambda x: x, 0.5, 12**-0.5),
    "uniform": ("random_uniform", {"low": -1.0, "high": 3.0}, lambda x: (x + 1) / 4, 1, 4 * 12**-0.5),
    "standard normal": ("random_normal", {}, normal_cdf, 0, 1),
    "normal": ("random_normal", {"mean": 2.0, "stddev": 3.0}, lambda x: normal_cdf((x - 2) / 3), 2, 3),
}
"""Name → op, parameters, cumulative distribution function, mean and standard deviation."""

DRAWS = {
    "uniform": ("random_uniform", {"shape": (8, 50)}),
    "normal": ("random_normal", {"shape": (8, 50)}),
    "bernoulli": ("random_bernoulli", {"shape": (8, 50)}),
    "categorical": ("random_categorical", {"x": np.zeros((8, 30), np.float32), "size": 50}),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("out", ["float32", "float64"])
def test_continuous_distributions(run, name, out):
    """Kolmogorov and Smirnov's statistic and the first two moments."""
    op, parameters, cdf, mean, deviation = DISTRIBUTIONS[name]
    values = run(op, shape=(N,), seed=5, out=out, **parameters)
    assert (values.dtype, values.shape) == (out, (N,))
    steps = np.arange(N + 1) / N
    below = cdf(np.sort(values.astype(np.float64)))
    assert max((steps[1:] - below).max(), (below - steps[:-1]).max()) < 1.95 / N**0.5  # p = 0.001
    assert abs(values.mean() - mean) < SIGMAS * deviation / N**0.5
    assert abs(values.std() / deviation - 1) < SIGMAS / N**0.5


@pytest.mark.parametrize("op", ["random_uniform", "random_normal"])
def test_neighbours_are_independent(run, op):
    values = run(op, shape=(200, 200), seed=3)
    centred = values - values.mean()
    for lag in (centred[:, :-1] * centred[:, 1:], centred[:-1] * centred[1:]):
        assert abs(lag.mean()) < SIGMAS * values.var() / lag.size**0.5


@pytest.mark.parametrize("prob", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_bernoulli(run, prob):
    values = run("random_bernoulli", shape=(N,), prob=prob, seed=7)
    assert set(np.unique(values)) <= {0.0, 1.0}
    assert abs(values.mean() - prob) <= SIGMAS * (prob * (1 - prob) / N) ** 0.5


def test_bernoulli_is_a_fair_coin_by_default(run):
    assert abs(run("random_bernoulli", shape=(N,), seed=1).mean() - 0.5) < SIGMAS * 0.5 / N**0.5


@pytest.mark.parametrize(
    ("mode", "given"),
    [
        ("probs", lambda p: p),
        ("probs", lambda p: 4 * p),  # probabilities are normalised: their logarithms are logits
        ("logits", np.log),
        ("logits", lambda p: np.log(p) + 300),
        (None, np.log),
    ],
)
def test_categorical(run, mode, given):
    probabilities = np.array([[[0.1, 0.6, 0.3]], [[0.0, 0.02, 0.98]]])
    with np.errstate(divide="ignore"):
        x = given(probabilities).astype(np.float32)
    drawn = run("random_categorical", x=x, size=N, seed=1, **({"mode": mode} if mode else {}))
    assert (drawn.shape, drawn.dtype) == ((2, 1, N), np.float32)
    shares = np.stack([(drawn == k).mean(-1) for k in range(3)], -1)
    assert (np.abs(shares - probabilities) <= SIGMAS * (probabilities * (1 - probabilities) / N) ** 0.5).all()
    together = ((drawn[0, 0] == 1) & (drawn[1, 0] == 2)).mean()
    assert abs(together - 0.6 * 0.98) < SIGMAS * 0.5 / N**0.5


def test_one_draw_from_a_vector(run):
    assert run("random_categorical", x=np.array([-np.inf, 0, -np.inf], np.float32), seed=2).tolist() == [1]


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_repeats_and_none_does_not(run, name):
    op, parameters = DRAWS[name]

    def draw(seed):
        return run(op, **parameters, **({} if seed is None else {"seed": seed}))

    np.testing.assert_array_equal(draw(5), draw(5))
    assert (draw(5) != draw(6)).any()
    assert (draw(0) != draw(-1)).any()
    assert (draw(-1) != draw(-1)).any()
    assert (draw(None) != draw(None)).any()


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_means_the_same_under_every_precision(run, name):
    op, parameters = DRAWS[name]
    wide = {k: v.astype(np.float64) if k == "x" else v for k, v in parameters.items()}
    one, other = run(op, **parameters, seed=9), run(op, **wide, seed=9, out="float64")
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_shapes(run):
    for shape in ((), (0, 3), (1,), (2, 1, 3)):
        for op in ("random_uniform", "random_normal", "random_bernoulli"):
            assert run(op, shape=shape, seed=1).shape == shape


def test_the_upper_end_is_never_drawn(run):
    """Rounded to its dtype, a value just below `high` would become it: float16 has 2048 values in [0.5, 1)."""
    out = Out("y", "float16", torch.float32)
    values = random.random_uniform(shape=(N,), low=0.0, high=1.0, seed=1, out=out).half()
    assert values.min() >= 0
    assert 0.99 < values.max() < 1
    narrow = run("random_uniform", shape=(N,), low=1000.0, high=1000.0 + 2**-12, seed=1)
    assert narrow.min() == 1000
    assert narrow.max() < 1000 + 2**-12
    np.testing.assert_array_equal(run("random_uniform", shape=(5,), low=2.0, high=2.0), 2)
