"""The files that hold the values of a recorded trace: written a shard at a time, read a tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from layerdiff.errors import OutputError
from layerdiff.sources.recorded_format import DTYPES, Stored, damaged, shard_name
from layerdiff.store import sha256_array

if TYPE_CHECKING:
    from layerdiff.records import Array

ENTRY_BYTES = 200
"""What a tensor's place in the header of a shard counts, so that a million scalars do not make one shard."""


class ShardWriter:
    """Collects tensors and writes them, a shard at a time.

    Interrupted anywhere, it can go on: what is collected is given up only after it is written.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._number = 1
        self._collected: dict[str, Array] = {}
        self._collected_bytes = 0
        self.sizes_bytes: dict[str, int] = {}
        """File name → size of every shard that is written."""

    def put(self, name: str, value: Array, *, key: str) -> Stored:
        """Copies a tensor; it is on the disk after the next `flush`, which this calls where a shard is full."""
        value = np.asarray(value)
        if value.dtype.name not in DTYPES:
            raise OutputError(
                f"the tensor '{name}' cannot be recorded.",
                detail=f"expected one of {', '.join(DTYPES)}, got {value.dtype}{list(value.shape)}",
                action="leave it out: name the tensors that are to be recorded",
            )
        size_bytes = value.nbytes + len(key) + ENTRY_BYTES
        if self._collected_bytes + size_bytes > self._limit_bytes:
            self.flush()
        copy = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        stored = Stored(name, shard_name(self._number), key, copy.dtype.name, copy.shape, sha256_array(copy))
        self._collected[key] = copy
        self._collected_bytes += size_bytes
        return stored

    def flush(self) -> None:
        """Writes what is collected, if anything is.

        Raises:
            OutputError: the disk is full, or the folder is gone.
        """
        if not self._collected:
            return
        path = self._folder / shard_name(self._number)
        with writing(path):
            path.touch()
            mode = path.stat().st_mode  # safetensors makes files that only their owner can read
            save_file(self._collected, path)
            path.chmod(mode)
            self.sizes_bytes[path.name] = path.stat().st_size
        self._number, self._collected, self._collected_bytes = self._number + 1, {}, 0


class ShardReader:
    """The files of a trace that hold values."""

    def __init__(self, folder: Path, sizes_bytes: Mapping[str, int]) -> None:
        """Opens every shard, which reads its header.

        Raises:
            TraceError: one is missing, has another size, or has no good header.
        """
        self._folder, self._sizes_bytes = folder, sizes_bytes
        self._open: dict[str, Any] = {}
        for name in sizes_bytes:
            self._check_size(name)
            try:
                self._open[name] = safe_open(folder / name, framework="numpy")
            except (OSError, SafetensorError) as error:
                raise damaged(folder, f"{name}: {error}") from error

    def check(self, stored: Stored) -> None:
        """Raises TraceError unless the header of its shard says of a tensor what the index says."""
        found = "nothing"
        if stored.shard in self._open:
            try:
                header = self._open[stored.shard].get_slice(stored.key)
                found = f"{header.get_dtype()}{list(header.get_shape())}"
            except SafetensorError:
                pass
        expected = f"{DTYPES.get(stored.dtype)}{list(stored.shape)}"
        if found != expected:
            raise damaged(self._folder, f"{stored.shard}: expected {expected} as '{stored.key}', got {found}")

    def read(self, stored: Stored) -> Array:
        """The values of one tensor, which belong to the caller.

        Raises:
            TraceError: they are not those that were recorded.
        """
        self._check_size(stored.shard)  # before the file is touched: beyond its end the process would be killed
        value: Array = self._open[stored.shard].get_tensor(stored.key)
        if sha256_array(value) != stored.sha256:
            raise damaged(self._folder, f"{stored.shard}: the values of '{stored.name}' have another sha256")
        return value

    def _check_size(self, name: str) -> None:
        path = self._folder / name
        size_bytes = path.stat().st_size if path.is_file() else None
        if Path(name).name != name or size_bytes != self._sizes_bytes[name]:
            got = "no such file" if size_bytes is None else f"{size_bytes} bytes"
            raise damaged(self._folder, f"{name}: expected {self._sizes_bytes[name]} bytes, got {got}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into an OutputError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"'{path}' cannot be written: {error}.",
            action="choose another place, or give yourself write permission and free space there",
        ) from error
