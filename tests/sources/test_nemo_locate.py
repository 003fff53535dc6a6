from __future__ import annotations

from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from layerdiff.errors import CheckpointError
from layerdiff.sources import nemo_locate
from layerdiff.sources.nemo_locate import locate

V3 = "nvidia/parakeet-tdt-0.6b-v3"


def message_of(name: str) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        locate(name)
    return str(caught.value).splitlines()


def test_bundled_model() -> None:
    path = locate("parakeet-tdt-mini")
    assert path.is_file()
    assert path.suffix == ".nemo"


def test_a_path_comes_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.nemo"
    path.touch()
    assert locate(path) == locate(str(path)) == path


def test_a_bundled_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nemo_locate, "BUNDLED", ("absent",))
    assert message_of("absent")[0] == "the bundled checkpoint 'absent' is missing from this installation."


@pytest.mark.parametrize("name", ["absent.nemo", "folder/absent.nemo", "parakeet", "a/b/c", "../x", ""])
def test_what_does_not_exist(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "..")
    lines = message_of(name)
    assert f"'{name}'" in lines[0]
    assert "nvidia/parakeet-tdt-0.6b-v3" in lines[-1] or "folder" in lines[0]


def test_the_nearest_bundled_name_is_suggested() -> None:
    assert "did you mean 'parakeet-tdt-mini'?" in "\n".join(message_of("parakeet-tdt-min"))


def test_a_folder(tmp_path: Path) -> None:
    assert message_of(str(tmp_path))[0].endswith("is a folder.")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_hub_name_that_cannot_be_had_says_which_file_to_give(hub_cache: Path) -> None:
    lines = message_of(V3)
    assert lines[0] == f"the checkpoint '{V3}' is not on this machine and can't be fetched from the hub."
    assert "parakeet-tdt-0.6b-v3.nemo" in lines[2]
    assert "Give the path of parakeet-tdt-0.6b-v3.nemo" in lines[-1]


def test_a_hub_name_is_found_in_the_local_cache(hub_cache: Path) -> None:
    repository = hub_cache / "models--nvidia--parakeet-tdt-0.6b-v3"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    (snapshot / "parakeet-tdt-0.6b-v3.nemo").write_bytes(b"x")
    assert locate(V3) == snapshot / "parakeet-tdt-0.6b-v3.nemo"


def test_a_file_of_that_name_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "model").touch()
    monkeypatch.chdir(tmp_path)
    assert locate("owner/model") == Path("owner/model")


def test_an_unreachable_hub_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """hf_hub_download alone would retry for 23 seconds."""
    import socket

    asked: list[object] = []

    def unresolved(*args: object, **kwargs: object) -> object:
        asked.append(args[0])
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    huggingface_hub.close_session()
    try:
        assert "Give the path of parakeet-tdt-0.6b-v3.nemo" in message_of(V3)[-1]
    finally:
        huggingface_hub.close_session()
    assert len(asked) == 1
