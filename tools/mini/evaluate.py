"""Word error rate of a `.nemo` transducer on a NeMo manifest.

    python -m tools.mini.evaluate layerdiff/assets/parakeet-tdt-mini.nemo audio/manifest.jsonl

Each recording is decoded alone (no padding), greedily, in float32, without dither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jiwer
import torch
import typer
from numpy.typing import NDArray

from layerdiff import audio, quiet


@dataclass(frozen=True)
class Score:
    """How well transcripts agree with what was spoken."""

    word_error_rate: float
    """(substitutions + deletions + insertions) / spoken words."""
    exact: int
    """Sentences without an error."""
    sentences: int

    def __str__(self) -> str:
        return f"{self.word_error_rate:.1%} WER, {self.exact} of {self.sentences} sentences exact"


def score(*, reference: list[str], candidate: list[str]) -> Score:
    """The word error rate over all words of `reference`, by jiwer, and the number of exact sentences."""
    exact = sum(spoken == heard for spoken, heard in zip(reference, candidate, strict=True))
    return Score(jiwer.wer(reference, candidate), exact, len(reference))


def restore(path: Path) -> Any:
    """The model at `path`, ready to be evaluated on a CPU."""
    with quiet.third_party():
        import nemo.collections.asr as nemo_asr

        model = nemo_asr.models.EncDecRNNTBPEModel.restore_from(str(path), map_location="cpu")
    model.eval()
    model.preprocessor.featurizer.dither = 0.0
    return model


def transcribe(model: Any, clips: Iterable[NDArray[Any]]) -> list[str]:
    """The greedy transcript of each clip, float32[samples] at the model's rate; one clip at a time."""
    return [transcribe_mel(model, *mel_of(model, samples)) for samples in clips]


def mel_of(model: Any, samples: NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """float32[1, F, T] and int64[1]: the log-mel spectrogram of one clip and its length."""
    signal = torch.from_numpy(samples)[None]
    with torch.inference_mode():
        mel, length = model.preprocessor(input_signal=signal, length=torch.tensor([signal.shape[1]]))
    return mel, length


def transcribe_mel(model: Any, mel: torch.Tensor, length: torch.Tensor) -> str:
    with torch.inference_mode():
        encoded, frames = model.encoder(audio_signal=mel, length=length)
        hypotheses = model.decoding.rnnt_decoder_predictions_tensor(encoder_output=encoded, encoded_lengths=frames)
    return str(hypotheses[0].text)


def main(
    model_path: Annotated[Path, typer.Argument(metavar="MODEL", exists=True, dir_okay=False, help="A .nemo file.")],
    manifest: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A NeMo manifest with the texts.")],
    show: Annotated[bool, typer.Option(help="Print every sentence that is not exact.")] = False,
) -> None:
    """Print the word error rate of MODEL on MANIFEST."""
    recordings = audio.read_manifest(manifest)
    model = restore(model_path)
    clips = audio.read(recordings, sample_rate_hz=model.cfg.sample_rate)
    candidate = transcribe(model, (clip.samples for clip in clips))
    reference = [recording.text or "" for recording in recordings]
    if show:
        for recording, spoken, heard in zip(recordings, reference, candidate, strict=True):
            if spoken != heard:
                typer.echo(f"{recording.name}\n  spoken: {spoken}\n  heard:  {heard}")
    typer.echo(str(score(reference=reference, candidate=candidate)))


if __name__ == "__main__":
    typer.run(main)
