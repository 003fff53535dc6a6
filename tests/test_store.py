"""Writes are complete or absent, hashes don't depend on the machine, damaged cache entries are rebuilt."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff import store
from layerdiff.errors import OutputError

KEY = {"recipe": "raw_logits", "precision": "float16", "versions": {"torch": "2.13.0"}}


def build_package(path: Path) -> None:
    """A package of two files, one of them in a folder."""
    (path / "Data").mkdir(parents=True)
    (path / "Manifest.json").write_text("{}")
    (path / "Data" / "weight.bin").write_bytes(bytes(range(256)) * 64)


def never(path: Path) -> None:
    raise AssertionError("an intact entry must not be built again")


# ------------------------------------------------------------------ atomic writes


def test_write_creates_the_folder_and_the_file(tmp_path: Path) -> None:
    path = store.write_atomically(tmp_path / "a" / "b.csv", "naïve\n")
    assert path.read_bytes() == "naïve\n".encode()
    assert os.listdir(path.parent) == ["b.csv"]


def test_write_replaces_and_keeps_permissions(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    path.chmod(0o640)
    store.write_atomically(path, b"new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o640)


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        path = store.write_atomically(tmp_path / "x", b"")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_failed_write_leaves_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left on device\.\n  choose another place"):
        store.write_atomically(path, b"new")
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["report.json"])


def test_writing_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"'.*report.json' cannot be written"):
        store.write_atomically(tmp_path / "file" / "report.json", "x")


@pytest.mark.parametrize("previous", [True, False])
def test_replace_folder(tmp_path: Path, previous: bool) -> None:
    final, temporary = tmp_path / "final", tmp_path / "temporary"
    if previous:
        final.mkdir()
        (final / "stale").write_text("")
    temporary.mkdir()
    (temporary / "fresh").write_text("")
    assert store.replace_folder(temporary, final) == final
    assert (os.listdir(tmp_path), os.listdir(final)) == (["final"], ["fresh"])


def test_a_failed_replacement_keeps_the_old_folder(tmp_path: Path) -> None:
    final = tmp_path / "final"
    final.mkdir()
    (final / "old").write_text("")
    with pytest.raises(OutputError):
        store.replace_folder(tmp_path / "absent", final)
    assert (os.listdir(tmp_path), os.listdir(final)) == (["final"], ["old"])


# ------------------------------------------------------------------ hashes


def test_hashes_are_those_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"layerdiff" * 100_000)
    assert store.sha256_file(path) == hashlib.sha256(b"layerdiff" * 100_000).hexdigest()
    little = np.arange(6, dtype="<f4").reshape(2, 3)
    expected = hashlib.sha256(b"float32[2, 3]" + little.tobytes()).hexdigest()
    assert store.sha256_array(little) == expected
    assert store.sha256_array(little.astype(">f4")) == expected
    assert store.sha256_array(np.asfortranarray(little)) == expected


def test_hashes_tell_dtype_and_shape_apart() -> None:
    zeros = np.zeros(4, np.float32)
    others = [zeros.reshape(2, 2), zeros.view(np.int32), np.zeros((), np.float32), np.zeros(0, np.float32)]
    assert len({store.sha256_array(array) for array in [zeros, *others]}) == 5


def test_json_hash_ignores_the_order_of_keys() -> None:
    assert store.sha256_json({"a": 1, "b": (1, 2)}) == store.sha256_json({"b": [1, 2], "a": 1})
    assert store.sha256_json({"a": 1}) != store.sha256_json({"a": "1"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.sha256_json(float("nan"))


# ------------------------------------------------------------------ cache


def test_an_entry_is_built_once(tmp_path: Path) -> None:
    cache = store.Cache(tmp_path / "cache")
    assert cache.find(KEY, "x.mlpackage") is None
    path = cache.entry(KEY, "x.mlpackage", build_package)
    assert cache.entry(dict(reversed(KEY.items())), "x.mlpackage", never) == path == cache.find(KEY, "x.mlpackage")
    record = json.loads((path.parent / "entry.json").read_text())
    assert record["key"] == KEY
    assert record["files"]["x.mlpackage/Data/weight.bin"] == {
        "bytes": 16384,
        "sha256": hashlib.sha256(bytes(range(256)) * 64).hexdigest(),
    }


def test_another_key_is_another_entry(tmp_path: Path) -> None:
    cache = store.Cache(tmp_path)
    first = cache.entry(KEY, "x", build_package)
    assert cache.find({**KEY, "precision": "float32"}, "x") is None
    assert cache.entry({**KEY, "precision": "float32"}, "x", build_package) != first


def flip_a_byte(path: Path) -> None:
    weights = path / "Data" / "weight.bin"
    data = bytearray(weights.read_bytes())
    data[1000] ^= 1
    weights.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path / "Data" / "weight.bin", 100)


def remove_a_file(path: Path) -> None:
    (path / "Manifest.json").unlink()


def add_a_file(path: Path) -> None:
    (path / "Data" / "extra").write_text("")


def remove_the_listing(path: Path) -> None:
    (path.parent / "entry.json").unlink()


def spoil_the_listing(path: Path) -> None:
    (path.parent / "entry.json").write_text('{"files": []}')


DAMAGES = [flip_a_byte, truncate, remove_a_file, add_a_file, remove_the_listing, spoil_the_listing]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_rebuilt(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    cache = store.Cache(tmp_path)
    path = cache.entry(KEY, "x", build_package)
    damage(path)
    assert cache.find(KEY, "x") is None
    assert cache.entry(KEY, "x", build_package) == path == cache.find(KEY, "x")
    assert (path / "Data" / "weight.bin").read_bytes() == bytes(range(256)) * 64


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        build_package(path)
        raise ValueError("no conversion")

    cache = store.Cache(tmp_path)
    with pytest.raises(ValueError, match="no conversion"):
        cache.entry(KEY, "x", fail)
    assert [name for name in os.listdir(tmp_path) if not name.endswith(".lock")] == []


def test_what_killed_builders_left_is_removed_after_a_day(tmp_path: Path) -> None:
    for name, age_s in {".partial-old": 25 * 3600, ".partial-young": 60}.items():
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    store.Cache(tmp_path).entry(KEY, "x", build_package)
    assert sorted(path.name for path in tmp_path.glob(".partial-*")) == [".partial-young"]


def build_slowly(path: Path) -> None:
    with open(path.parents[1] / "builds", "a") as file:
        file.write("x")
    time.sleep(0.3)
    build_package(path)


def fill(root: Path, results: Any) -> None:
    results.put(str(store.Cache(root).entry(KEY, "x", build_slowly)))


def test_concurrent_processes_build_one_entry(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    processes = [spawn.Process(target=fill, args=(tmp_path, results)) for _ in range(3)]
    for process in processes:
        process.start()
    paths = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(paths) == 1
    assert (tmp_path / "builds").read_text() == "x"
    assert store.Cache(tmp_path).find(KEY, "x") is not None


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"the cache '.*file/cache' cannot be written.*\n  set LAYERDIFF_CACHE"):
        store.Cache(tmp_path / "file" / "cache").entry(KEY, "x", build_package)


def test_the_root_is_the_variable_or_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAYERDIFF_CACHE", str(tmp_path))
    assert store.Cache.default().root == tmp_path
    monkeypatch.delenv("LAYERDIFF_CACHE")
    assert store.Cache.default().root.name == "layerdiff"
