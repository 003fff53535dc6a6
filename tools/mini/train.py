"""Trains parakeet-tdt-mini on one CPU core with a plain PyTorch loop.

    python -m tools.mini.train FOLDER --minutes 20

reads `FOLDER/train.jsonl` and `FOLDER/dev.jsonl` (made by `synthesize`), writes `FOLDER/tokenizer/` and
`FOLDER/trained.nemo`. The schedule runs by the clock, so how many steps fit, and with them the weights,
depend on the machine.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from layerdiff import audio, quiet
from tools.mini.evaluate import mel_of, score, transcribe_mel
from tools.mini.model import build, write_tokenizer
from tools.mini.tdt_loss import tdt_loss

BATCH_SIZE = 24
PEAK_LEARNING_RATE = 2.5e-3
WARMUP_STEPS = 250
MAX_GRADIENT_NORM = 5.0
LENGTH_JITTER = 12.0
"""Frames by which lengths are shaken before clips of like length are put in one batch."""


@dataclass(frozen=True)
class Example:
    """One utterance, ready for training."""

    mel: Tensor
    """float16[F, T]; half precision, so that the whole corpus stays in memory."""
    labels: Tensor
    """int64[U]; the tokenized text."""
    text: str


@dataclass(frozen=True)
class Batch:
    """Utterances padded with zeros to the longest."""

    mel: Tensor
    """float32[B, F, T]"""
    mel_lengths: Tensor
    """int64[B]"""
    labels: Tensor
    """int64[B, U]"""
    label_lengths: Tensor
    """int64[B]"""


def examples(model: Any, manifest: Path) -> list[Example]:
    """Every recording of `manifest` as a mel spectrogram with its labels."""
    model.eval()  # no dither
    made = []
    for clip in audio.read(audio.read_manifest(manifest), sample_rate_hz=model.cfg.sample_rate):
        mel, length = mel_of(model, clip.samples)
        text = clip.text or ""
        made.append(Example(mel[0, :, : int(length)].half(), torch.tensor(model.tokenizer.text_to_ids(text)), text))
    return made


def collated(chosen: Sequence[Example]) -> Batch:
    mel_lengths = torch.tensor([example.mel.shape[1] for example in chosen])
    label_lengths = torch.tensor([len(example.labels) for example in chosen])
    mel = torch.zeros(len(chosen), chosen[0].mel.shape[0], int(mel_lengths.max()))
    labels = torch.zeros(len(chosen), int(label_lengths.max()), dtype=torch.int64)
    for row, example in enumerate(chosen):
        mel[row, :, : mel_lengths[row]] = example.mel.float()
        labels[row, : label_lengths[row]] = example.labels
    return Batch(mel, mel_lengths, labels, label_lengths)


def epoch(data: Sequence[Example], rng: random.Random) -> Iterator[Batch]:
    """All of `data` once, in batches of like length, in random order."""
    shaken = {id(e): e.mel.shape[1] + rng.uniform(-LENGTH_JITTER, LENGTH_JITTER) for e in data}
    ordered = sorted(data, key=lambda example: shaken[id(example)])
    groups = [ordered[start : start + BATCH_SIZE] for start in range(0, len(ordered), BATCH_SIZE)]
    rng.shuffle(groups)
    return (collated(group) for group in groups)


def learning_rate(*, step: int, progress: float) -> float:
    """Linear warm-up by steps times a cosine by `progress` in [0, 1] that ends at 2 % of the peak."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return PEAK_LEARNING_RATE * warmup * (0.98 * cosine + 0.02)


def batch_loss(model: Any, batch: Batch) -> Tensor:
    """The mean over the batch of the TDT loss per label."""
    mel = model.spec_augmentation(input_spec=batch.mel, length=batch.mel_lengths)
    encoded, frames = model.encoder(audio_signal=mel, length=batch.mel_lengths)
    predicted, _, _ = model.decoder(targets=batch.labels, target_length=batch.label_lengths)
    losses = tdt_loss(
        model.joint(encoder_outputs=encoded, decoder_outputs=predicted),
        batch.labels,
        frames=frames,
        target_lengths=batch.label_lengths,
        durations=model.cfg.model_defaults.tdt_durations,
        sigma=model.cfg.loss.tdt_kwargs.sigma,
    )
    return (losses / batch.label_lengths).mean()


def take_step(model: Any, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """One gradient step, left out if the gradient is not finite; returns the loss."""
    loss = batch_loss(model, batch)
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    if torch.isfinite(norm):
        optimizer.step()
    return float(loss.detach())


def fit(model: Any, data: Sequence[Example], *, seconds: float, rng: random.Random) -> int:
    """Trains for `seconds`; returns the number of steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    model.train()
    model.joint.log_softmax = False  # the loss normalises tokens and durations apart
    batches = itertools.chain.from_iterable(epoch(data, rng) for _ in itertools.count())
    started, losses = time.monotonic(), []
    for step, batch in enumerate(batches):
        progress = (time.monotonic() - started) / seconds
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step=step, progress=progress)
        losses.append(take_step(model, optimizer, batch))
        if (step + 1) % 100 == 0:
            typer.echo(f"step {step + 1}, {progress:.0%} of the time, loss per label {np.mean(losses[-100:]):.3f}")
    model.joint.log_softmax = None
    model.eval()
    return len(losses)


def main(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The folder that synthesize wrote.")],
    minutes: Annotated[float, typer.Option(min=0.0, help="How long to train.")] = 20.0,
    layers: Annotated[int, typer.Option(min=1, help="Encoder layers.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the weights, the dropout and the order of batches.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Train on FOLDER/train.jsonl, evaluate on FOLDER/dev.jsonl, save FOLDER/trained.nemo."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    np.random.seed(seed)
    texts = [recording.text or "" for recording in audio.read_manifest(folder / "train.jsonl")]
    pieces = write_tokenizer(texts, folder / "tokenizer")
    with quiet.third_party():
        model = build(folder / "tokenizer", layers=layers)
    typer.echo(f"{sum(p.numel() for p in model.parameters())} parameters, {pieces} pieces")
    train, dev = examples(model, folder / "train.jsonl"), examples(model, folder / "dev.jsonl")
    steps = fit(model, train, seconds=minutes * 60, rng=random.Random(seed))
    heard = [transcribe_mel(model, e.mel.float()[None], torch.tensor([e.mel.shape[1]])) for e in dev]
    typer.echo(f"{steps} steps; {score(reference=[e.text for e in dev], candidate=heard)}")
    model.save_to(str(folder / "trained.nemo"))


if __name__ == "__main__":
    typer.run(main)
