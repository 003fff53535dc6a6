"""The vectorised TDT loss agrees with the sum over every alignment, enumerated one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tools.mini.tdt_loss import tdt_loss


def log_softmax(values: Sequence[float]) -> list[float]:
    total = math.log(math.fsum(math.exp(value) for value in values))
    return [value - total for value in values]


def enumerated(
    logits: list[list[list[float]]], labels: Sequence[int], *, durations: Sequence[int], sigma: float
) -> float:
    """The negative log of the summed probability of all alignments of one utterance, by recursion."""
    n_frames, n_durations = len(logits), len(durations)

    def paths(t: int, u: int) -> list[float]:
        if t >= n_frames:
            return []
        tokens = [value - sigma for value in log_softmax(logits[t][u][:-n_durations])]
        by_duration = log_softmax(logits[t][u][-n_durations:])
        found = []
        for log_p, duration in zip(by_duration, durations, strict=True):
            if duration > 0 and u == len(labels) and t + duration == n_frames:
                found.append(tokens[-1] + log_p)
            if duration > 0:
                found += [tokens[-1] + log_p + rest for rest in paths(t + duration, u)]
            if u < len(labels):
                found += [tokens[labels[u]] + log_p + rest for rest in paths(t + duration, u + 1)]
        return found

    return -math.log(math.fsum(math.exp(path) for path in paths(0, 0)))


def lattice(*, frames: int, labels: int, vocabulary: int, n_durations: int, batch: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, frames, labels + 1, vocabulary + 1 + n_durations)
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("durations", [(0, 1, 2, 3, 4), (1,), (0, 1), (1, 2), (2, 0, 1)])
@pytest.mark.parametrize(("frames", "labels"), [(1, 0), (2, 1), (4, 2), (5, 3), (3, 1)])
@pytest.mark.parametrize("sigma", [0.0, 0.02])
def test_loss_equals_the_sum_over_all_alignments(
    durations: tuple[int, ...], frames: int, labels: int, sigma: float
) -> None:
    logits = lattice(frames=frames, labels=labels, vocabulary=3, n_durations=len(durations), seed=frames)
    targets = torch.arange(labels)[None] % 3
    lengths = {"frames": torch.tensor([frames]), "target_lengths": torch.tensor([labels])}
    loss = tdt_loss(logits, targets, **lengths, durations=durations, sigma=sigma)
    oracle = enumerated(logits[0].tolist(), targets[0].tolist(), durations=durations, sigma=sigma)
    assert loss.item() == pytest.approx(oracle, rel=1e-12, abs=1e-12)


def test_padding_of_a_batch_does_not_matter() -> None:
    durations, frames, lengths = (0, 1, 2, 3, 4), [5, 3, 4], [3, 1, 0]
    logits = lattice(frames=5, labels=3, vocabulary=4, n_durations=5, batch=3, seed=1)
    targets = torch.tensor([[0, 3, 1], [2, 0, 0], [3, 3, 3]])
    losses = tdt_loss(
        logits, targets, frames=torch.tensor(frames), target_lengths=torch.tensor(lengths), durations=durations
    )
    for row, (n_frames, n_labels) in enumerate(zip(frames, lengths, strict=True)):
        own = logits[row, :n_frames, : n_labels + 1].tolist()
        oracle = enumerated(own, targets[row, :n_labels].tolist(), durations=durations, sigma=0.0)
        assert losses[row].item() == pytest.approx(oracle, rel=1e-12)


def test_gradient_agrees_with_finite_differences() -> None:
    logits = lattice(frames=3, labels=2, vocabulary=2, n_durations=3).requires_grad_()
    lengths = {"frames": torch.tensor([3]), "target_lengths": torch.tensor([2])}

    def loss(values: Tensor) -> Tensor:
        return tdt_loss(values, torch.tensor([[1, 0]]), **lengths, durations=(0, 1, 2), sigma=0.02)

    assert torch.autograd.gradcheck(loss, (logits,))


def test_what_cannot_be_aligned_costs_as_much_as_impossible() -> None:
    """One label per frame at least when no duration is 0: three labels need more than two frames."""
    logits = lattice(frames=2, labels=3, vocabulary=2, n_durations=1)
    lengths = {"frames": torch.tensor([2]), "target_lengths": torch.tensor([3])}
    assert tdt_loss(logits, torch.tensor([[0, 1, 0]]), **lengths, durations=(1,)).item() > 9000
