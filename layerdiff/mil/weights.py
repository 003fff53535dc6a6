"""`weight.bin`: the constants of a package, memory-mapped and checked before they are used.

The file is a 64-byte header (u32 number of blobs, u32 version 2, zeros), then per blob a 64-byte record,
aligned to 64, followed by its data:

    u32 0xDEADBEEF | u32 dtype | u64 size in bytes | u64 offset of the data | u64 padding in bits | zeros

A program names a blob by the offset of its record. Everything is little-endian. Opening maps the file and
reads nothing; a record is 64 bytes; arrays are views of the map, so a package of any size opens at once.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdiff.errors import PackageError, UnsupportedOpError

HEADER_BYTES = 64
RECORD_BYTES = 64
SENTINEL = 0xDEADBEEF
VERSION = 2

DTYPES = {
    1: "float16",
    2: "float32",
    3: "uint8",
    4: "int8",
    5: "bfloat16",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}
"""The dtype codes of a record; sub-byte types are a little-endian bit stream."""

BITS = {
    **{"uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6, "int4": 4, "bool": 8},
    **{f"{kind}{bits}": bits for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64},
}
"""Width in bits of the dtypes that are read; numpy's own list grows by what else a process imports."""

LFS_POINTER = b"version https://git-lfs"
"""How the small file begins that stands for a large one in a clone without Git LFS."""

RE_EXPORT = "convert the model again, or copy the package again as a whole folder"


@dataclass(frozen=True)
class Record:
    """The metadata of one blob."""

    offset: int
    """Byte offset of the record itself; what a program refers to."""
    dtype: str
    size_bytes: int
    data_offset: int
    padding_bits: int
    """Unused bits at the end of the data of a sub-byte type."""


class WeightFile:
    """One memory-mapped `weight.bin`.

    Args:
        path: the file.

    Raises:
        PackageError: it is missing, shorter than its header, or of an unknown version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.size_bytes = path.stat().st_size
            if self.size_bytes < HEADER_BYTES:
                raise self._truncated("the header", HEADER_BYTES)
            with path.open("rb") as file:
                # Private and writable: torch refuses to share read-only memory without a warning.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise PackageError(
                f"the weight file '{path.name}' cannot be read: {error.strerror or error}.",
                where=str(path),
                action=RE_EXPORT,
            ) from error
        if self._map[: len(LFS_POINTER)] == LFS_POINTER:
            raise PackageError(
                f"the weight file '{path.name}' is a pointer of Git LFS, not the weights.",
                where=str(path),
                action="fetch the file itself: git lfs pull",
            )
        self.count, version = struct.unpack_from("<II", self._map, 0)
        if version != VERSION:
            raise PackageError(
                f"the weight file '{path.name}' has version '{version}'.",
                where=str(path),
                detail=f"expected version {VERSION}",
                action=RE_EXPORT,
            )

    def record(self, offset: int) -> Record:
        """The checked record at `offset`.

        Raises:
            PackageError: the offset is outside the file or not that of a record, or the data it names
                is not inside the file.
        """
        if offset % 64 or offset < HEADER_BYTES:
            raise self._damaged(f"no record can be at offset '{offset}'", "a multiple of 64, at least 64")
        if offset + RECORD_BYTES > self.size_bytes:
            raise self._truncated(f"the record at offset {offset}", offset + RECORD_BYTES)
        sentinel, code, size, start, padding = struct.unpack_from("<IIQQQ", self._map, offset)
        if sentinel != SENTINEL:
            raise self._damaged(f"there is no record at offset '{offset}'", f"0x{SENTINEL:X}, got 0x{sentinel:X}")
        if code not in DTYPES:
            raise self._damaged(f"the record at offset {offset} has the unknown dtype '{code}'", f"one of {[*DTYPES]}")
        if start < offset + RECORD_BYTES:
            raise self._damaged(f"the record at offset {offset} places its data at '{start}'", "behind the record")
        if start + size > self.size_bytes:
            raise self._truncated(f"the blob at offset {offset}", start + size)
        return Record(offset, DTYPES[code], size, start, padding)

    def records(self) -> list[Record]:
        """Every record, by walking the file from its start.

        Raises:
            PackageError: a record is damaged.
        """
        found: list[Record] = []
        offset = HEADER_BYTES
        for _ in range(self.count):
            found.append(self.record(offset))
            end = found[-1].data_offset + found[-1].size_bytes
            offset = -(-end // 64) * 64
        return found

    def check(self, offset: int, dtype: str, shape: tuple[int, ...]) -> Record:
        """The record at `offset`, which must hold exactly `dtype[shape]`.

        Raises:
            PackageError: it holds something else.
        """
        record = self.record(offset)
        stored = {"bool": "uint8"}.get(dtype, dtype)
        expected = size_in_bytes(stored, shape)
        if record.dtype != stored or record.size_bytes != expected:
            raise self._damaged(
                f"the blob at offset {offset} does not hold what the program declares",
                f"{dtype}{list(shape)} ({expected} bytes), got {record.dtype} ({record.size_bytes} bytes)",
            )
        return record

    def array(self, offset: int, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """The blob at `offset` as a view of the map; sub-byte types are unpacked to one byte each."""
        record = self.check(offset, dtype, shape)
        raw = np.frombuffer(self._map, np.uint8, count=record.size_bytes, offset=record.data_offset)
        return from_bytes(raw, dtype, shape)

    def raw(self, record: Record) -> memoryview:
        """The bytes of a blob as they are stored."""
        return memoryview(self._map)[record.data_offset : record.data_offset + record.size_bytes]

    def forget(self, offset: int) -> None:
        """Gives the memory of a blob back to the operating system; it is read from the file again when needed."""
        record, page = self.record(offset), mmap.PAGESIZE
        start = -(-record.data_offset // page) * page
        length = (record.data_offset + record.size_bytes) // page * page - start
        if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, start, length)

    def _truncated(self, what: str, expected_bytes: int) -> PackageError:
        return PackageError(
            f"the weight file '{self.path.name}' is truncated.",
            where=f"{self.path}, {what}",
            detail=f"expected at least {expected_bytes} bytes, got {self.size_bytes}",
            action=RE_EXPORT,
        )

    def _damaged(self, what: str, expected: str) -> PackageError:
        return PackageError(f"{what}.", where=str(self.path), detail=f"expected {expected}", action=RE_EXPORT)


def bits_per_value(dtype: str) -> int:
    """Width in bits of one value of `dtype`.

    Raises:
        UnsupportedOpError: constants of this dtype cannot be read.
    """
    if dtype not in BITS:
        raise UnsupportedOpError(f"constants of dtype '{dtype}' cannot be read.", action=RE_EXPORT)
    return BITS[dtype]


def size_in_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes that `dtype[shape]` takes when packed."""
    return -(-prod(shape) * bits_per_value(dtype) // 8)


def from_bytes(raw: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """`dtype[shape]` from little-endian bytes: a view, but for sub-byte types and bfloat16."""
    if dtype == "bfloat16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if bits_per_value(dtype) < 8:
        return unpack(raw, dtype, prod(shape)).reshape(shape)
    return raw.view(np.dtype(dtype).newbyteorder("<")).reshape(shape)


def unpack(raw: NDArray[np.uint8], dtype: str, count: int) -> NDArray[Any]:
    """`count` values of a sub-byte dtype from a little-endian bit stream, one byte each.

    Returns:
        uint8[count], or int8[count] with the sign extended for int4.
    """
    width = BITS[dtype]
    group = 1 if 8 % width == 0 else 3  # bytes after which values and bytes end together
    bytes_ = np.zeros((-(-len(raw) // group), group), np.uint8)
    bytes_.reshape(-1)[: len(raw)] = raw
    words = bytes_[:, 0] if group == 1 else bytes_.astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], np.uint32)
    values = np.empty((len(words), 8 * group // width), np.uint8)
    for index in range(values.shape[1]):
        values[:, index] = (words >> np.uint8(index * width)) & np.uint8((1 << width) - 1)
    values = values.reshape(-1)[:count]
    if dtype == "int4":
        return ((values ^ 8).astype(np.int8) - 8).astype(np.int8)
    return values
