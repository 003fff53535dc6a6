"""The corpus of `audio/corpus`: the 200 sentences of the development set, compressed, with their manifest.

    python -m tools.mini.make_corpus FOLDER

Opus at libsndfile's default keeps a clip in a tenth of the space. The samples that are decoded are what counts: the
transcripts of reference and candidate are made of the same ones.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import soundfile
import typer

from tools.mini.synthesize import (
    DEV_COUNT,
    DEV_SEED,
    SAMPLE_RATE_HZ,
    plan,
    render,
    require_espeak,
    write_manifest,
)


def main(
    folder: Annotated[Path, typer.Argument(help="Where the clips and the manifest go.")],
    count: Annotated[int, typer.Option(min=1, help="Sentences.")] = DEV_COUNT,
    workers: Annotated[int, typer.Option(min=1, help="Sentences spoken at a time.")] = 2,
) -> None:
    """Speak the development set and compress it."""
    require_espeak()
    folder.mkdir(parents=True, exist_ok=True)
    utterances = plan(count, seed=DEV_SEED)
    lines = []
    with ThreadPoolExecutor(workers) as pool:
        for index, (utterance, samples) in enumerate(zip(utterances, pool.map(render, utterances), strict=True)):
            path = folder / f"dev_{index:03d}.opus"
            soundfile.write(path, samples, SAMPLE_RATE_HZ, format="OGG", subtype="OPUS")
            duration_s = len(samples) / SAMPLE_RATE_HZ
            lines.append({"audio_filepath": path.name, "duration": round(duration_s, 4), "text": utterance.text})
    write_manifest(folder / "manifest.jsonl", lines)


if __name__ == "__main__":
    typer.run(main)
