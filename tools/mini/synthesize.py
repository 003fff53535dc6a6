"""The synthetic speech corpus of parakeet-tdt-mini: a small grammar spoken by espeak-ng.

    python -m tools.mini.synthesize FOLDER --train-count 4000

writes `FOLDER/dev/*.wav`, `FOLDER/dev.jsonl`, `FOLDER/train/*.wav` and `FOLDER/train.jsonl`: 16 kHz mono
16-bit audio with NeMo manifests. No sentence of the development set is in the training set, but both
share the grammar and the voices. The same seeds give the same sentences on any machine; the same samples
need the same version of espeak-ng.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import soxr
import typer
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16000
DEV_COUNT = 200
DEV_SEED = 99
TRAIN_SEED = 7

ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
VOICES = ("en-us", "en-gb", "en-gb-x-rp", "en-us+f2", "en-us+m3", "en-gb+f4", "en-us+m7", "en-us+f5")


@dataclass(frozen=True)
class Utterance:
    """Everything that determines the samples of one recording."""

    text: str
    voice: str
    """An espeak-ng voice, with its variant after a `+`."""
    speed_wpm: int
    pitch: int
    """espeak-ng's pitch, 0 to 99."""
    gain: float
    lead_samples: int
    """Silence before the speech, at 16 kHz."""
    tail_samples: int
    noise: float
    """Standard deviation of the white noise that is added; full scale is 1."""
    noise_seed: int


# ------------------------------------------------------------------ grammar


def number(rng: random.Random) -> str:
    """A spoken number from 1 to 99, or a multiple of 100 up to 900."""
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(ONES[1:])
    if kind < 0.5:
        return rng.choice(TEENS)
    if kind < 0.65:
        return rng.choice(TENS)
    if kind < 0.9:
        return rng.choice(TENS) + " " + rng.choice(ONES[1:])
    return rng.choice(ONES[1:]) + " hundred"


def digits(rng: random.Random, *, fewest: int, most: int) -> str:
    return " ".join(rng.choice(ONES) for _ in range(rng.randint(fewest, most)))


def sentence(rng: random.Random) -> str:
    """One sentence of the grammar: digits, devices, doors, timers, calls, sums, media, moves."""
    kind = rng.randrange(10)
    # Drawn before they are known to be needed: the corpus of the shipped model hangs on this order.
    device = rng.choice(("light", "radio", "fan", "heater", "door", "window"))
    room = rng.choice(("kitchen", "bedroom", "office", "garage"))
    if kind < 3:
        return digits(rng, fewest=3, most=6)
    if kind == 3:
        return f"turn {rng.choice(('on', 'off'))} the {rng.choice(('light', 'radio', 'fan', 'heater'))} in the {room}"
    if kind == 4:
        return f"{rng.choice(('open', 'close'))} the {room} {rng.choice(('door', 'window'))}"
    if kind == 5:
        return f"set a timer for {number(rng)} {rng.choice(('minutes', 'seconds', 'hours'))}"
    if kind == 6:
        return f"call {rng.choice(('anna', 'peter', 'maria', 'david'))} on {digits(rng, fewest=2, most=4)}"
    if kind == 7:
        return f"{number(rng)} {rng.choice(('plus', 'minus', 'times'))} {number(rng)}"
    if kind == 8:
        return media(rng)
    return f"move the {device} {number(rng)} {rng.choice(('left', 'right', 'up', 'down'))}"


def media(rng: random.Random) -> str:
    verb, what = rng.choice(("play", "stop", "start")), rng.choice(("music", "movie", "story", "radio"))
    return f"{verb} the {what} {rng.choice(('now', 'please', 'at ' + number(rng)))}"


def plan(count: int, *, seed: int, excluded: Collection[str] = ()) -> list[Utterance]:
    """`count` utterances whose texts are not in `excluded`; the same for the same arguments, anywhere."""
    rng = random.Random(seed)
    texts: list[str] = []
    while len(texts) < count:
        text = sentence(rng)
        if text not in excluded:
            texts.append(text)
    return [voiced(text, rng) for text in texts]


def voiced(text: str, rng: random.Random) -> Utterance:
    """`text` with a random voice, speed, pitch, gain, silence and noise."""
    return Utterance(
        text=text,
        voice=rng.choice(VOICES),
        speed_wpm=rng.randint(140, 195),
        pitch=rng.randint(30, 70),
        gain=rng.uniform(0.5, 1.0),
        lead_samples=rng.randint(1600, 4000),
        tail_samples=rng.randint(2400, 4800),
        noise=10 ** rng.uniform(-4, -2.7),
        noise_seed=rng.randrange(1 << 30),
    )


# ------------------------------------------------------------------ speech


def speak(utterance: Utterance) -> NDArray[np.float32]:
    """float32[samples] at 16 kHz: the bare speech, without silence, gain or noise."""
    command = ["espeak-ng", "-v", utterance.voice, "-s", str(utterance.speed_wpm), "-p", str(utterance.pitch)]
    done = subprocess.run([*command, "--stdout", utterance.text], capture_output=True, check=True)
    samples, rate_hz = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    return np.asarray(soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, quality="VHQ"), dtype=np.float32)


def render(utterance: Utterance) -> NDArray[np.int16]:
    """int16[samples] at 16 kHz: the finished recording."""
    return recorded(speak(utterance), utterance)


def recorded(speech: NDArray[np.float32], utterance: Utterance) -> NDArray[np.int16]:
    """`speech` between the utterance's silences, at its gain, with its noise; clipped to 16 bit."""
    padding = (utterance.lead_samples, utterance.tail_samples)
    samples = np.pad(speech, padding) * np.float32(utterance.gain)
    noise = np.random.default_rng(utterance.noise_seed).normal(0.0, utterance.noise, samples.shape)
    return np.clip((samples + noise) * 32767, -32768, 32767).astype(np.int16)


def require_espeak() -> None:
    if shutil.which("espeak-ng") is None:
        raise typer.BadParameter("espeak-ng is not installed; on Debian and Ubuntu: apt install espeak-ng")


# ------------------------------------------------------------------ files


def write_clip(path: Path, samples: NDArray[np.int16], *, text: str) -> dict[str, Any]:
    """Writes one WAV file; returns its line of a manifest that lies in the folder above."""
    soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
    return {
        "audio_filepath": f"{path.parent.name}/{path.name}",
        "duration": len(samples) / SAMPLE_RATE_HZ,
        "text": text,
    }


def write_manifest(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_corpus(folder: Path, name: str, utterances: list[Utterance], *, workers: int) -> None:
    """Renders `utterances` to `folder/name/` and their manifest to `folder/name.jsonl`."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        lines = [
            write_clip(folder / name / f"{name}_{index:05d}.wav", samples, text=utterance.text)
            for index, (utterance, samples) in enumerate(zip(utterances, pool.map(render, utterances), strict=True))
        ]
    write_manifest(folder / f"{name}.jsonl", lines)
    total_s = sum(line["duration"] for line in lines)
    typer.echo(f"{name}: {len(lines)} utterances, {total_s / 3600:.2f} h, mean {total_s / len(lines):.2f} s")


def main(
    folder: Annotated[Path, typer.Argument(help="Where the corpus goes.")],
    train_count: Annotated[int, typer.Option(min=1, help="Sentences of the training set.")] = 4000,
    dev_count: Annotated[int, typer.Option(min=1, help="Sentences of the development set.")] = DEV_COUNT,
    workers: Annotated[int, typer.Option(min=1, help="Sentences spoken at a time.")] = 2,
) -> None:
    """Speak the development set and the training set."""
    require_espeak()
    dev = plan(dev_count, seed=DEV_SEED)
    train = plan(train_count, seed=TRAIN_SEED, excluded={utterance.text for utterance in dev})
    write_corpus(folder, "dev", dev, workers=workers)
    write_corpus(folder, "train", train, workers=workers)


if __name__ == "__main__":
    typer.run(main)
