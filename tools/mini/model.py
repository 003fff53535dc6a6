"""Builds the untrained parakeet-tdt-mini: a sentencepiece tokenizer, `model.yaml`, and NeMo."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece

CONFIG = Path(__file__).with_name("model.yaml")
PIECES = 96


def tokenizer_model(texts: Iterable[str], *, pieces: int = PIECES, normalization: str = "nmt_nfkc") -> bytes:
    """A byte-pair tokenizer of at most `pieces` pieces for `texts`, as a sentencepiece model file.

    The same texts give the same bytes. `normalization` is a sentencepiece rule; `identity` leaves out the
    240 KB table that the default carries.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sorted(set(texts))),
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        hard_vocab_limit=False,
        character_coverage=1.0,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        normalization_rule_name=normalization,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def pieces_of(tokenizer: sentencepiece.SentencePieceProcessor) -> list[str]:
    return [tokenizer.id_to_piece(index) for index in range(tokenizer.get_piece_size())]


def write_tokenizer(texts: Iterable[str], folder: Path, *, pieces: int = PIECES) -> int:
    """Writes the three files that NeMo looks for; returns the number of pieces.

    `tokenizer.model` is sentencepiece's own, `tokenizer.vocab` lists its pieces, `vocab.txt` lists them
    without the unknown one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = tokenizer_model(texts, pieces=pieces)
    found = pieces_of(sentencepiece.SentencePieceProcessor(model_proto=model))
    (folder / "tokenizer.model").write_bytes(model)
    scores = ["0", *(f"-{index}" for index in range(len(found) - 1))]
    lines = (f"{piece}\t{score}\n" for piece, score in zip(found, scores, strict=True))
    (folder / "tokenizer.vocab").write_text("".join(lines), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(found[1:]), encoding="utf-8")
    return len(found)


def build(tokenizer_folder: Path, *, layers: int = 3) -> Any:
    """A NeMo EncDecRNNTBPEModel with random weights and `layers` encoder layers."""
    import nemo.collections.asr as nemo_asr
    from omegaconf import OmegaConf, open_dict

    config = OmegaConf.load(CONFIG)
    config.tokenizer.dir = str(tokenizer_folder)
    config.encoder.n_layers = layers
    model = nemo_asr.models.EncDecRNNTBPEModel(cfg=config, trainer=None)
    # The saved model's `transcribe(paths)` asks for this key; at construction NeMo would look for a data set.
    with open_dict(model.cfg):
        model.cfg.validation_ds = {"use_start_end_token": False}
    return model
