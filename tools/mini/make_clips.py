"""The four clips of `audio/` that test more than a plain short sentence.

    python -m tools.mini.make_clips FOLDER

writes them with a manifest of their own, `FOLDER/manifest.jsonl`. Nothing is drawn at random but the
noise, whose seeds are fixed: the same version of espeak-ng gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from tools.mini.synthesize import SAMPLE_RATE_HZ, Utterance, render, require_espeak, write_clip, write_manifest

LONG_TEXTS = (
    "start the story now",
    "nine one five four nine",
    "zero nine three zero",
    "six zero two six",
    "two one nine three",
)

CLIPS: dict[str, tuple[Utterance, ...]] = {
    # Longer than anything in training: digits survive that, long commands don't.
    "five_sentences": tuple(
        Utterance(
            text=text,
            voice="en-us",
            speed_wpm=150,
            pitch=50,
            gain=0.8,
            lead_samples=1600,
            tail_samples=2400,
            noise=1e-3,
            noise_seed=1,
        )
        for text in LONG_TEXTS
    ),
    # 1.2 s of exact zeros: the logarithm of nothing in the mel spectrogram.
    "leading_silence": (
        Utterance(
            text="eight hundred plus ninety five",
            voice="en-gb",
            speed_wpm=165,
            pitch=50,
            gain=0.8,
            lead_samples=SAMPLE_RATE_HZ * 12 // 10,
            tail_samples=2400,
            noise=0.0,
            noise_seed=1,
        ),
    ),
    "quiet_trailing_silence": (
        Utterance(
            text="turn off the fan in the bedroom",
            voice="en-us",
            speed_wpm=165,
            pitch=50,
            gain=0.05,
            lead_samples=1600,
            tail_samples=SAMPLE_RATE_HZ * 15 // 10,
            noise=1e-4,
            noise_seed=1,
        ),
    ),
    # A voice that is not among the training voices.
    "unheard_voice": (
        Utterance(
            text="call david on six zero one",
            voice="en-gb-scotland",
            speed_wpm=165,
            pitch=50,
            gain=0.8,
            lead_samples=1600,
            tail_samples=2400,
            noise=3e-4,
            noise_seed=1,
        ),
    ),
}
"""File name without its ending → the utterances that follow one another in it."""


def samples_of(utterances: tuple[Utterance, ...]) -> NDArray[np.int16]:
    return np.concatenate([render(utterance) for utterance in utterances])


def main(folder: Annotated[Path, typer.Argument(help="Where the clips go.")]) -> None:
    """Speak the clips that are longer, quieter, or stranger than the development set."""
    require_espeak()
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, utterances in CLIPS.items():
        text = " ".join(utterance.text for utterance in utterances)
        line = write_clip(folder / f"{name}.wav", samples_of(utterances), text=text)
        lines.append(line | {"audio_filepath": f"{name}.wav"})
        typer.echo(f"{name}.wav: {line['duration']:.2f} s, {text}")
    write_manifest(folder / "manifest.jsonl", lines)


if __name__ == "__main__":
    typer.run(main)
