"""Puts a tokenizer without its 240 KB normalisation table into a `.nemo`, and makes the archive repeatable.

    python -m tools.mini.shrink_tokenizer FOLDER/trained.nemo FOLDER/train.jsonl FOLDER/parakeet-tdt-mini.nemo

The grammar is lower-case ASCII, so the table changes nothing; the same pieces and the same encoding of
every sentence are checked. Members are sorted and without times and owners: equal weights, equal bytes.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import sentencepiece
import typer

from layerdiff import audio
from tools.mini.model import pieces_of, tokenizer_model


def shrunk(model: bytes, texts: Collection[str]) -> bytes:
    """`model` trained anew on `texts` without normalisation; ValueError unless it encodes the same."""
    old = sentencepiece.SentencePieceProcessor(model_proto=model)
    small = tokenizer_model(texts, pieces=old.get_piece_size(), normalization="identity")
    new = sentencepiece.SentencePieceProcessor(model_proto=small)
    if pieces_of(old) != pieces_of(new):
        raise ValueError("the pieces differ: these are not the texts that the tokenizer was trained on")
    for text in texts:
        if old.encode(text) != new.encode(text):
            raise ValueError(f"'{text}' is encoded as {new.encode(text)} instead of {old.encode(text)}")
    return small


def rewrite(source: Path, target: Path, *, texts: Collection[str]) -> None:
    """Copies the archive with its tokenizer shrunk."""
    with tarfile.open(source) as old, tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            content = old.extractfile(member)
            if content is None:  # a folder
                continue
            data = content.read()
            if member.name.endswith("tokenizer.model"):
                data = shrunk(data, texts)
            bare = tarfile.TarInfo(member.name)
            bare.size = len(data)
            new.addfile(bare, io.BytesIO(data))


def main(
    source: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The .nemo to copy.")],
    manifest: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The manifest it was trained on.")],
    target: Annotated[Path, typer.Argument(help="The .nemo to write.")],
) -> None:
    """Copy SOURCE to TARGET with a small tokenizer."""
    texts = {recording.text or "" for recording in audio.read_manifest(manifest)}
    rewrite(source, target, texts=texts)
    typer.echo(f"{target}: {source.stat().st_size} → {target.stat().st_size} bytes")


if __name__ == "__main__":
    typer.run(main)
