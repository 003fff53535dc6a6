"""A tokenizer without its normalisation table encodes the same; the archive around it stays."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import sentencepiece

from tools.mini import model, synthesize
from tools.mini.shrink_tokenizer import rewrite, shrunk

SHIPPED = Path(__file__).parents[2] / "layerdiff" / "assets" / "parakeet-tdt-mini.nemo"
TRAIN_COUNT = 4000


@pytest.fixture(scope="module")
def texts() -> set[str]:
    """The sentences that the shipped model was trained on."""
    dev = {utterance.text for utterance in synthesize.plan(synthesize.DEV_COUNT, seed=synthesize.DEV_SEED)}
    train = synthesize.plan(TRAIN_COUNT, seed=synthesize.TRAIN_SEED, excluded=dev)
    return {utterance.text for utterance in train}


def member_ending(archive: Path, ending: str) -> bytes:
    with tarfile.open(archive) as members:
        (found,) = [member for member in members.getmembers() if member.name.endswith(ending)]
        content = members.extractfile(found)
        assert content is not None
        return content.read()


def archive_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(_folder("./"))
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.uname = len(data), 1_600_000_000, 1000, "somebody"
            archive.addfile(info, io.BytesIO(data))
    return path


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def test_the_recipe_gives_the_shipped_tokenizer_byte_for_byte(texts: set[str]) -> None:
    assert model.tokenizer_model(texts, normalization="identity") == member_ending(SHIPPED, "tokenizer.model")


def test_the_written_vocabularies_are_the_shipped_ones(texts: set[str], tmp_path: Path) -> None:
    assert model.write_tokenizer(texts, tmp_path) == model.PIECES
    for name in ("tokenizer.vocab", "vocab.txt"):
        assert (tmp_path / name).read_bytes() == member_ending(SHIPPED, name)


def test_shrinking_drops_the_table_and_nothing_else(texts: set[str]) -> None:
    full = model.tokenizer_model(texts)
    small = shrunk(full, texts)
    assert len(full) > 200_000
    assert len(small) < 2_000
    old, new = (sentencepiece.SentencePieceProcessor(model_proto=proto) for proto in (full, small))
    assert all(old.encode(text) == new.encode(text) for text in texts)


def test_other_texts_than_the_trained_ones_are_refused(texts: set[str]) -> None:
    with pytest.raises(ValueError, match="the pieces differ"):
        shrunk(model.tokenizer_model(texts), {text for text in texts if "the" in text})


def test_rewriting_keeps_the_members_and_drops_times_and_owners(texts: set[str], tmp_path: Path) -> None:
    full = model.tokenizer_model(texts)
    members = {"./model_weights.ckpt": b"weights", "./0123_tokenizer.model": full, "./model_config.yaml": b"a: 1"}
    target = tmp_path / "small.nemo"
    rewrite(archive_of(tmp_path / "full.nemo", members), target, texts=texts)
    with tarfile.open(target) as archive:
        found = archive.getmembers()
    assert [member.name for member in found] == sorted(members)
    assert {(member.mtime, member.uid, member.uname) for member in found} == {(0, 0, "")}
    assert member_ending(target, "model_weights.ckpt") == b"weights"
    assert member_ending(target, "tokenizer.model") == shrunk(full, texts)


def test_rewriting_twice_gives_the_same_bytes(texts: set[str], tmp_path: Path) -> None:
    members = {"./b": b"2", "./tokenizer.model": model.tokenizer_model(texts), "./a": b"1"}
    first, second = tmp_path / "first.nemo", tmp_path / "second.nemo"
    rewrite(archive_of(tmp_path / "full.nemo", members), first, texts=texts)
    rewrite(archive_of(tmp_path / "turned.nemo", dict(reversed(members.items()))), second, texts=texts)
    assert first.read_bytes() == second.read_bytes()
