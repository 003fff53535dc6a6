"""Files that are never half written: atomic writes, stable hashes, and the cache of built packages.

A file or folder is complete under a temporary name in the same folder before it takes its final name, so an
interrupted run leaves the previous or the complete one. A cache entry is a folder named by the hash of
everything its content depends on; `entry.json` in it lists the size and sha256 of every file, and an entry
that does not match its list is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from layerdiff.errors import OutputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CACHE_VARIABLE = "LAYERDIFF_CACHE"
ENTRY_FILE = "entry.json"
_TEMPORARY = ".partial-"
"""How the names of unfinished files and folders begin."""
_ABANDONED_S = 24 * 3600


# ------------------------------------------------------------------ atomic writes


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Writes a file so that it is either the previous or the complete one; text is written as UTF-8.

    The folder is created if it is absent. Returns the path.

    Raises:
        OutputError: the file could not be written; what was there before is unchanged.
    """
    with written_atomically(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
    return Path(path)


@contextmanager
def written_atomically(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write into piece by piece, which takes its name when the body has ended without an exception.

    The folder is created if it is absent.

    Raises:
        OutputError: the file could not be written; what was there before is unchanged.
    """
    path = Path(path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, _mode_for(path))
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise


def replace_folder(temporary: str | Path, final: str | Path) -> Path:
    """Gives the complete folder `temporary` the name `final`; a folder of that name is removed.

    Both lie on the same file system. Folders cannot be exchanged in one step everywhere, so for an instant
    neither is there; but nobody ever sees a mixture of the two. Returns the final path.

    Raises:
        OutputError: the folder could not be replaced; the old one is back in its place.
    """
    temporary, final = Path(temporary), Path(final)
    with _writing(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        retired = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=final.parent))
        try:
            if final.exists():
                os.rename(final, retired / "old")
            try:
                os.rename(temporary, final)
            except BaseException:
                if (retired / "old").exists():
                    os.rename(retired / "old", final)
                raise
        finally:
            shutil.rmtree(retired, ignore_errors=True)
    return final


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"'{path}' cannot be written: {error.strerror or error}.",
            action="choose another place, or give yourself write permission and free space there",
        ) from error


def _mode_for(path: Path) -> int:
    """The permissions of the file that is replaced, or those of a new file."""
    if path.exists():
        return path.stat().st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


# ------------------------------------------------------------------ hashes


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes in hexadecimal; reads it once in O(1) memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_array(array: NDArray[Any]) -> str:
    """The sha256 of an array's dtype, shape and little-endian C-order bytes; the same on every machine."""
    import numpy as np

    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{array.dtype.name}{list(array.shape)}".encode())
    digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """The sha256 of a JSON-able value; the order of keys does not matter, tuples are lists."""
    return hashlib.sha256(json_bytes(value)).hexdigest()


def json_bytes(value: Any) -> bytes:
    """The one byte string of a JSON-able value: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


# ------------------------------------------------------------------ cache


@dataclass(frozen=True)
class Cache:
    """Built packages by the hash of what they were built from; safe for concurrent processes."""

    root: Path
    """The folder that holds one folder per entry."""

    @classmethod
    def default(cls) -> Cache:
        """The cache at `LAYERDIFF_CACHE`, or in the user's cache folder."""
        if path := os.environ.get(CACHE_VARIABLE):
            return cls(Path(path))
        import platformdirs

        return cls(Path(platformdirs.user_cache_dir("layerdiff")))

    def find(self, key: Mapping[str, Any], name: str) -> Path | None:
        """The path of the file or folder `name` of an undamaged entry; None if there is none."""
        folder = self._folder(key)
        return folder / name if _is_intact(folder, name) else None

    def entry(self, key: Mapping[str, Any], name: str, build: Callable[[Path], None]) -> Path:
        """The path of `name` in the entry of `key`, built first if it is absent or damaged.

        Args:
            key: everything the content depends on, JSON-able; kept in clear in `entry.json`.
            name: file or folder name of the content.
            build: writes the content to the path it is given; called at most once, and by one process at a
                time: others wait for it and use what it built.

        Raises:
            OutputError: the cache cannot be written.
        """
        import filelock

        if found := self.find(key, name):
            return found  # without the lock: a cache that is read-only still serves
        folder = self._folder(key)
        with self._writable():
            self.root.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(str(folder) + ".lock")
            lock.acquire()
        try:
            if not _is_intact(folder, name):
                self._build(folder, key=key, name=name, build=build)
        finally:
            lock.release()
        return folder / name

    def _build(self, folder: Path, *, key: Mapping[str, Any], name: str, build: Callable[[Path], None]) -> None:
        with self._writable():
            _remove_abandoned(self.root)
            temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self.root))
        try:
            build(temporary / name)
            with self._writable():
                temporary.chmod(0o755)
                record = {"key": dict(key), "files": _listing(temporary)}
                write_atomically(temporary / ENTRY_FILE, json.dumps(record, indent=1, sort_keys=True) + "\n")
                replace_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _folder(self, key: Mapping[str, Any]) -> Path:
        return self.root / sha256_json(key)[:32]

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, OutputError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.what
            raise OutputError(
                f"the cache '{self.root}' cannot be written: {reason or error}.",
                action=f"set {CACHE_VARIABLE} to a folder that can be written",
            ) from error


def _listing(folder: Path) -> dict[str, dict[str, Any]]:
    """Relative path → size in bytes and sha256 of every file below `folder`, but the listing itself."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)} for name in _files(folder)
    }


def _files(folder: Path) -> list[str]:
    """The relative paths of all files of an entry but its listing, in a fixed order."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != ENTRY_FILE)


def _is_intact(folder: Path, name: str) -> bool:
    """True if the entry holds exactly the files that it lists, `name` among them, byte for byte."""
    try:
        listed = json.loads((folder / ENTRY_FILE).read_bytes())["files"]
        sizes = {path: (folder / path).stat().st_size for path in _files(folder)}
        if not (folder / name).exists() or sizes != {path: entry["bytes"] for path, entry in listed.items()}:
            return False  # found without reading what may be gigabytes
        return bool(listed == _listing(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _remove_abandoned(root: Path) -> None:
    """Removes what builders that were killed have left, once it is a day old."""
    for path in root.glob(_TEMPORARY + "*"):
        if path.is_dir() and time.time() - path.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(path, ignore_errors=True)
