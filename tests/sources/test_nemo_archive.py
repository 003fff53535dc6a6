"""Archives that a stranger could send; none of these tests imports NeMo."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from layerdiff.errors import CheckpointError
from layerdiff.sources import nemo_archive
from layerdiff.sources.nemo_archive import is_allowed_target, read_config, unpacked

MINI = Path(str(resources.files("layerdiff") / "assets" / "parakeet-tdt-mini.nemo"))


def member(name: str, data: bytes = b"x", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


GOOD = [member("./model_config.yaml", b"a: 1\n"), member("./model_weights.ckpt", b"weights")]


def archive(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], *, mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path


def refused(path: Path) -> str:
    """The message of the refusal; nothing is left in the folder for temporary files."""
    with pytest.raises(CheckpointError) as caught, unpacked(path):
        pytest.fail("it was unpacked")
    lines = str(caught.value).splitlines()
    assert path.name in lines[0]
    assert lines[0].endswith(".")
    assert all(line.startswith("  ") for line in lines[1:])
    assert len(lines) >= 3
    return str(caught.value)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made in the test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_good_archive_is_unpacked_and_removed(tmp_path: Path, temporary: Path, mode: str) -> None:
    path = archive(tmp_path / "good.nemo", [*GOOD, member("sub/tokenizer.model", b"tok")], mode=mode)
    with unpacked(path) as folder:
        assert folder.parent == temporary
        files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert files == {
        "model_config.yaml": b"a: 1\n",
        "model_weights.ckpt": b"weights",
        str(Path("sub", "tokenizer.model")): b"tok",
    }
    assert not list(temporary.iterdir())


def test_the_folder_is_removed_when_the_body_fails(tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(KeyError), unpacked(archive(tmp_path / "good.nemo", GOOD)):
        raise KeyError
    assert not list(temporary.iterdir())


UNSAFE = {
    "absolute": member("/tmp/evil"),
    "parent": member("../evil"),
    "parent inside": member("a/../../evil"),
    "windows": member("..\\evil"),
    "drive": member("C:evil"),
    "symbolic link": member("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "symbolic link inside": member("link", b"", type=tarfile.SYMTYPE, linkname="model_config.yaml"),
    "hard link": member("link", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "character device": member("device", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "block device": member("device", b"", type=tarfile.BLKTYPE),
    "pipe": member("pipe", b"", type=tarfile.FIFOTYPE),
    "twice": member("model_config.yaml", b"b: 2\n"),
    "over a file": member("model_config.yaml/x"),
    "config too large": member("./model_config.yaml", b" " * (nemo_archive.MAX_CONFIG_BYTES + 1)),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_unsafe_members_are_refused(tmp_path: Path, temporary: Path, kind: str) -> None:
    members = [UNSAFE[kind]] if kind == "config too large" else [*GOOD, UNSAFE[kind]]
    path = archive(tmp_path / "evil.nemo", members)
    before = set(tmp_path.rglob("*"))
    message = refused(path)
    assert "unsafe" in message or "can't be unpacked" in message
    assert set(tmp_path.rglob("*")) == before
    assert not Path("/tmp/evil").exists()


def test_too_many_members(tmp_path: Path, temporary: Path) -> None:
    path = archive(tmp_path / "many.nemo", GOOD + [member(f"f{n}", b"") for n in range(nemo_archive.MAX_MEMBERS)])
    assert "larger than a checkpoint" in refused(path)


def test_a_decompression_bomb_is_refused_before_it_is_written(tmp_path: Path, temporary: Path) -> None:
    path = archive(tmp_path / "bomb.nemo", [member("./model_weights.ckpt", bytes(2**27))], mode="w:gz")
    assert path.stat().st_size < 2**20
    assert "larger than a checkpoint" in refused(path)


def test_a_header_that_claims_more_than_there_is(tmp_path: Path, temporary: Path) -> None:
    info, _ = member("./model_weights.ckpt", b"")
    info.size = 2**40
    path = tmp_path / "claims.nemo"
    path.write_bytes(info.tobuf() + bytes(10_240))
    assert "larger than a checkpoint" in refused(path)


@pytest.mark.parametrize("keep", [0, 1, 100, 511, 512, 700, 100_000, 2_000_000, 2_500_000])
def test_a_truncated_checkpoint(tmp_path: Path, temporary: Path, keep: int) -> None:
    path = tmp_path / "short.nemo"
    path.write_bytes(MINI.read_bytes()[:keep])
    refused(path)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("keep", [3, 20, 50_000, 1_000_000])
def test_a_truncated_gzipped_checkpoint(tmp_path: Path, temporary: Path, keep: int) -> None:
    path = tmp_path / "short.nemo"
    path.write_bytes(gzip.compress(MINI.read_bytes(), compresslevel=1)[:keep])
    refused(path)


@pytest.mark.parametrize("content", [b"", b"not an archive" * 100, b"PK\x03\x04" + bytes(600), bytes(10_240)])
def test_what_is_no_archive(tmp_path: Path, temporary: Path, content: bytes) -> None:
    path = tmp_path / "other.nemo"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("missing", [0, 1])
def test_missing_members(tmp_path: Path, temporary: Path, missing: int) -> None:
    kept = [m for n, m in enumerate(GOOD) if n != missing]
    message = refused(archive(tmp_path / "half.nemo", kept))
    assert f"holds no '{GOOD[missing][0].name[2:]}'" in message
    assert f"it holds: {kept[0][0].name[2:]}" in message


# ------------------------------------------------------------------ configuration


def mini_config() -> dict[str, Any]:
    with tarfile.open(MINI) as tar:
        file = tar.extractfile("./model_config.yaml")
        assert file is not None
        return dict(yaml.safe_load(file.read()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An unpacked archive with the bundled model's tokenizer files, empty."""
    with tarfile.open(MINI) as tar:
        for name in tar.getnames():
            (tmp_path / Path(name).name).touch()
    return tmp_path


Change = Callable[[dict[str, Any]], None]


def read(folder: Path, change: Change = lambda config: None) -> dict[str, Any]:
    config = mini_config()
    change(config)
    (folder / "model_config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return read_config(folder, checkpoint="x.nemo")


def read_text(folder: Path, text: str) -> dict[str, Any]:
    (folder / "model_config.yaml").write_text(text, encoding="utf-8")
    return read_config(folder, checkpoint="x.nemo")


def test_the_bundled_configuration(folder: Path) -> None:
    config, original = read(folder), mini_config()
    for key in ("preprocessor", "encoder", "decoder", "joint", "loss", "labels", "target"):
        assert config[key] == original[key]
    assert config["tokenizer"] == {**original["tokenizer"], "dir": str(folder)}
    assert not {"train_ds", "test_ds", "optim"} & set(config)
    assert config["decoding"]["durations"] == [0, 1, 2, 3, 4]
    assert config["decoding"]["greedy"] == {"max_symbols": 10, "use_cuda_graph_decoder": False}


def test_an_unlimited_number_of_symbols_gets_nemos_default_limit(folder: Path) -> None:
    config = read(folder, lambda c: c["decoding"]["greedy"].update(max_symbols=None))
    assert config["decoding"]["greedy"]["max_symbols"] == 10


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "nemo.utils.exp_manager.exp_manager",
        "torch.hub.load",
        "torch.load",
        "nemo.collections.asr_evil.X",
        "nemo.collections.asr.modules.X(); import os",
        "nemo.collections.asr..X",
        "nemo.collections.asr.modules.ConformerEncoder.__init__",
        "",
    ],
)
@pytest.mark.parametrize("place", ["encoder", "target", "deep", "list", "cls", "train_ds"])
def test_a_configuration_that_would_call_something_else(folder: Path, target: str, place: str) -> None:
    def change(config: dict[str, Any]) -> None:
        if place == "target":
            config["target"] = target
        elif place == "list":
            config["encoder"]["extras"] = [{"a": [{"_target_": target}]}]
        elif place == "deep":
            config["encoder"]["a"] = {"b": {"_target_": target, "_args_": ["touch /tmp/evil"]}}
        elif place == "cls":
            config["preprocessor"]["cls"] = target
        else:
            config[place] = {"_target_": target}

    with pytest.raises(CheckpointError, match="would call"):
        read(folder, change)


def test_a_target_behind_a_reference_is_seen(folder: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["harmless"] = "os.system"
        config["encoder"]["_target_"] = "${harmless}"

    with pytest.raises(CheckpointError, match=r"would call 'os\.system'"):
        read(folder, change)


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a ${oc.env:HOME} b", "${oc.decode:'1'}", "${x:${y}}"])
def test_resolvers_are_not_called(folder: Path, value: str) -> None:
    with pytest.raises(CheckpointError, match="calls a resolver"):
        read(folder, lambda config: config.update(note=value))


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 2]\nb: *a\n",
        "a: !!python/object/apply:os.system ['true']\n",
        "a: !evil 1\n",
        "a: [1\n",
        "\x00",
        "- 1\n- 2\n",
        "just text",
        "",
        "a: ${missing}\n",
    ],
)
def test_configurations_that_are_none(folder: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match=r"the configuration of 'x\.nemo'"):
        read_text(folder, text)


def test_a_configuration_that_is_not_text(folder: Path) -> None:
    (folder / "model_config.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(CheckpointError, match="can't be read"):
        read_config(folder, checkpoint="x.nemo")


@pytest.mark.parametrize("name", ["nemo:../secret", "nemo:/etc/passwd", "nemo:absent.model", "nemo:"])
def test_files_outside_the_archive(folder: Path, name: str) -> None:
    (folder.parent / "secret").touch()
    with pytest.raises(CheckpointError, match="not in the archive"):
        read(folder, lambda config: config["tokenizer"].update(model_path=name))


def test_a_tokenizer_under_a_path_of_this_machine_is_taken_from_the_archive(folder: Path, tmp_path: Path) -> None:
    (folder / "tok.model").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tok.model").touch()
    config = read(folder, lambda c: c["tokenizer"].update(model_path=str(elsewhere / "tok.model")))
    assert config["tokenizer"]["model_path"] == str(folder / "tok.model")
    (folder / "tok.model").unlink()
    with pytest.raises(CheckpointError, match="not in the archive"):
        read(folder, lambda c: c["tokenizer"].update(model_path=str(elsewhere / "tok.model")))


def test_tokenizers_that_would_be_downloaded(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="type 'wpe'"):
        read(folder, lambda config: config["tokenizer"].update(type="wpe"))


def test_the_tokenizers_of_several_languages(folder: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        one = config["tokenizer"]
        config["tokenizer"] = {"type": "agg", "langs": {"en": dict(one), "de": {**one, "dir": "/home/x"}}}

    langs = read(folder, change)["tokenizer"]["langs"]
    assert {lang["dir"] for lang in langs.values()} == {str(folder)}


def test_allowed_targets() -> None:
    assert is_allowed_target("nemo.collections.asr.modules.ConformerEncoder")
    assert not is_allowed_target("nemo.collections.asr.")
    assert not is_allowed_target("nemo.core.config.hydra_runner")
